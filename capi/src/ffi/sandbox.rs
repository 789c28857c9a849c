//! Functions of sandboxes.

use std::ffi::{c_char, c_int, c_void};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use serde_json::Value;
use vmon::child::{ChildIo, Signal};
use vmon::monitor::{Attach, AttachTo, Name};
use vmon::terminal::WindowSize;

use super::handle::Handle;
use super::host::{HandleOfHost, VmonHost};
use super::pointer::{self, Out, c_string, duplicate, sandbox, timeout};
use super::spec::VmonSpec;
use super::types::{AttachOptions, Child};
use crate::failure::Failure;
use crate::host::Adopted;

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_start(host: *mut VmonHost, spec: *mut VmonSpec, id: *mut u64) -> c_int {
    let call = |it: &mut HandleOfHost| {
        // SAFETY: by the contract, both.
        let (id, spec) = unsafe { (Out::new(id, "id")?, Handle::copy(spec, "spec")?) };
        id.set(it.host.start(&spec)?.to_bits());
        Ok(())
    };
    // SAFETY: by the contract.
    unsafe { Handle::call(host, call) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_adopt(
    host: *mut VmonHost,
    spec: *mut VmonSpec,
    child: *const Child,
    id: *mut u64,
) -> c_int {
    let call = |it: &mut HandleOfHost| {
        // SAFETY: by the contract, all three.
        let (id, spec, child) = unsafe {
            (Out::new(id, "id")?, Handle::copy(spec, "spec")?, pointer::read(child, "child")?)
        };
        id.set(it.host.adopt(&spec, adopted(&child)?)?.to_bits());
        Ok(())
    };
    // SAFETY: by the contract.
    unsafe { Handle::call(host, call) }
}

/// Duplicates the descriptors of a child.
fn adopted(child: &Child) -> Result<Adopted, Failure> {
    let pid = u32::try_from(child.pid).unwrap_or(0);
    let stdin = duplicate(child.stdin_fd, "stdin_fd")?;
    let stdout = duplicate(child.stdout_fd, "stdout_fd")?;
    let stderr = duplicate(child.stderr_fd, "stderr_fd")?;
    let io = match (duplicate(child.tty_fd, "tty_fd")?, (&stdin, &stdout, &stderr)) {
        (None, _) => ChildIo::Piped { stdin, stdout, stderr },
        (Some(master), (None, None, None)) => ChildIo::Tty { master },
        (Some(_), _) => {
            return Err(Failure::invalid("a child has either tty_fd or the other descriptors"));
        }
    };
    Ok(Adopted { pid, io, host_reaps: child.host_reaps != 0 })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_reaped(host: *mut VmonHost, id: u64, pid: c_int, status: c_int) -> c_int {
    let call = |it: &mut HandleOfHost| {
        let pid = u32::try_from(pid).map_err(|_| Failure::invalid(format!("the pid is {pid}")))?;
        it.host.reaped(sandbox(id), pid, ExitStatus::from_raw(status).into())
    };
    // SAFETY: by the contract.
    unsafe { Handle::call(host, call) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_stop(host: *mut VmonHost, id: u64, timeout_ms: i64) -> c_int {
    // SAFETY: by the contract.
    unsafe { Handle::call(host, |it| it.host.stop(sandbox(id), timeout(timeout_ms)?)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_signal(host: *mut VmonHost, id: u64, number: c_int) -> c_int {
    // SAFETY: by the contract.
    unsafe { Handle::call(host, |it| it.host.signal(sandbox(id), signal(number)?)) }
}

/// A signal of the caller's.
pub fn signal(number: c_int) -> Result<Signal, Failure> {
    Signal::from_number(number).ok_or_else(|| Failure::invalid(format!("{number} is not a signal")))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_attach(
    host: *mut VmonHost,
    id: u64,
    options: *const AttachOptions,
    fd: *mut c_int,
) -> c_int {
    let call = |it: &mut HandleOfHost| {
        // SAFETY: by the contract, both.
        let (fd, request) = unsafe { (Out::new(fd, "fd")?, request(options)?) };
        let client = it.host.attach(sandbox(id), request)?;
        fd.set(std::os::fd::IntoRawFd::into_raw_fd(client));
        Ok(())
    };
    // SAFETY: by the contract.
    unsafe { Handle::call(host, call) }
}

/// # Safety
///
/// `options` is NULL or valid, and so is the string in it.
unsafe fn request(options: *const AttachOptions) -> Result<Attach, Failure> {
    if options.is_null() {
        return Ok(Attach::default());
    }
    // SAFETY: by this function's contract.
    let options = unsafe { pointer::read(options, "options") }?;
    let to = match options.stream {
        0 => None,
        1 => Some(AttachTo::Stdout),
        2 => Some(AttachTo::Stderr),
        3 => Some(AttachTo::Tty),
        other => {
            let message = format!("{other} is no stream: give one of VMON_STREAM_");
            return Err(Failure::invalid(message));
        }
    };
    let to = match (options.console.is_null(), to) {
        (true, to) => to,
        (false, None) => {
            // SAFETY: not NULL, and so a string.
            let name = unsafe { pointer::text(options.console, "console") }?;
            let name = Name::new(name).map_err(|error| Failure::invalid(error.to_string()))?;
            Some(AttachTo::Console(name))
        }
        (false, Some(_)) => return Err(Failure::invalid("give either a console or a stream")),
    };
    Ok(Attach::default().to(to).read_only(options.read_only != 0).tail(options.tail))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_resize(host: *mut VmonHost, id: u64, rows: u16, columns: u16) -> c_int {
    let size = WindowSize::new(rows, columns);
    // SAFETY: by the contract.
    unsafe { Handle::call(host, |it| it.host.resize(sandbox(id), size)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_send(
    host: *mut VmonHost,
    id: u64,
    bytes: *const c_void,
    count: usize,
) -> c_int {
    let call = |it: &mut HandleOfHost| {
        // SAFETY: by the contract.
        let bytes = unsafe { pointer::bytes(bytes, count, "bytes") }?;
        it.host.send(sandbox(id), bytes.to_vec())
    };
    // SAFETY: by the contract.
    unsafe { Handle::call(host, call) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_reopen_log(host: *mut VmonHost, id: u64) -> c_int {
    // SAFETY: by the contract.
    unsafe { Handle::call(host, |it| it.host.reopen_log(sandbox(id))) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_list(host: *mut VmonHost, json: *mut *mut c_char) -> c_int {
    // SAFETY: by the contract.
    unsafe { Handle::call(host, |it| give(json, || it.host.list())) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_report(host: *mut VmonHost, id: u64, json: *mut *mut c_char) -> c_int {
    // SAFETY: by the contract.
    unsafe { Handle::call(host, |it| give(json, || it.host.report(sandbox(id)))) }
}

/// Gives the caller JSON, to be freed with `vmon_free_string`.
///
/// # Safety
///
/// `json` is NULL or valid for a write.
pub unsafe fn give(
    json: *mut *mut c_char,
    value: impl FnOnce() -> Result<Value, Failure>,
) -> Result<(), Failure> {
    // SAFETY: by this function's contract.
    let json = unsafe { Out::new(json, "json") }?;
    json.set(c_string(value()?.to_string()).into_raw());
    Ok(())
}
