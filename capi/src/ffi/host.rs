//! Functions of hosts, their ends and events.

use std::ffi::{CString, c_char, c_int};
use std::path::Path;
use std::time::Duration;

use vmon::host::OnDrop;

use super::handle::{Handle, text};
use super::pointer::{self, Growing, Out, OutStruct, sandbox, timeout};
use super::types::{CEnd, CEvent, GivenEnd, GivenEvent, Options};
use crate::driver::Driver;
use crate::failure::{Code, Failure};
use crate::host::{Host, Place};

/// What `vmon` is: a handle, and what the last call has given the caller pointers to.
pub struct HandleOfHost {
    pub host: Host,
    event: Option<GivenEvent>,
    end: Option<GivenEnd>,
}

pub type VmonHost = Handle<HandleOfHost>;

impl HandleOfHost {
    fn new(host: Host) -> Box<VmonHost> {
        Handle::new(Self { host, event: None, end: None })
    }
}

#[unsafe(no_mangle)]
extern "C" fn vmon_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

#[unsafe(no_mangle)]
extern "C" fn vmon_strerror(code: c_int) -> *const c_char {
    text(code).as_ptr()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_free_string(string: *mut c_char) {
    if !string.is_null() {
        // SAFETY: from `CString::into_raw`, and freed once, by the contract.
        drop(unsafe { CString::from_raw(string) });
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_open(options: *const Options, host: *mut *mut VmonHost) -> c_int {
    // SAFETY: by the contract, which is the same.
    unsafe { open(options, host, Driver::on_callers_loop) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_open_thread(options: *const Options, host: *mut *mut VmonHost) -> c_int {
    // SAFETY: by the contract, which is the same.
    unsafe { open(options, host, Driver::on_thread) }
}

/// # Safety
///
/// `options` and `host` are NULL, or valid for a read of the one and a write of the other.
unsafe fn open(
    options: *const Options,
    host: *mut *mut VmonHost,
    driver: fn(OnDrop) -> Result<Driver, Failure>,
) -> c_int {
    // SAFETY: by this function's contract.
    let Ok(host) = (unsafe { Out::new(host, "host") }) else { return Code::Invalid as c_int };
    // The handle has the message of a failure.
    let handle = Box::into_raw(HandleOfHost::new(Host::not_opened()));
    host.set(handle);
    let opened = |it: &mut HandleOfHost| {
        let options = match options.is_null() {
            true => Options::DEFAULT,
            // SAFETY: not NULL, and so valid.
            false => unsafe { pointer::read(options, "options") }?,
        };
        let on_close = match options.on_close {
            0 => OnDrop::Stop,
            1 => OnDrop::Kill,
            2 => OnDrop::Leave,
            other => return Err(Failure::invalid(format!("on_close is {other}"))),
        };
        // SAFETY: the strings of the caller's options.
        let [state_dir, database] = [options.state_dir, options.database]
            .map(|path| unsafe { pointer::optional_string(path) }.map(Path::new));
        let place = Place::open(state_dir, database)?;
        it.host = Host::new(driver(on_close)?, place);
        Ok(())
    };
    // SAFETY: made above.
    unsafe { Handle::call(handle, opened) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_clone(host: *mut VmonHost, clone: *mut *mut VmonHost) -> c_int {
    let call = |it: &mut HandleOfHost| {
        // SAFETY: by the contract.
        let clone = unsafe { Out::new(clone, "clone") }?;
        clone.set(Box::into_raw(HandleOfHost::new(it.host.another()?)));
        Ok(())
    };
    // SAFETY: by the contract.
    unsafe { Handle::call(host, call) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_close(host: *mut VmonHost) -> c_int {
    let end = |it: &mut HandleOfHost, is_broken| match is_broken {
        true => {
            it.host.abandon();
            Err(Failure::new(Code::Panic, ""))
        }
        false => it.host.end(),
    };
    // SAFETY: by the contract.
    unsafe { Handle::free(host, end) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_free(host: *mut VmonHost) {
    let free = |it: &mut HandleOfHost, is_broken| {
        match is_broken {
            true => it.host.abandon(),
            false => it.host.free(),
        }
        Ok(())
    };
    // SAFETY: by the contract.
    unsafe { Handle::free(host, free) };
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_errmsg(host: *mut VmonHost) -> *const c_char {
    // SAFETY: by the contract.
    unsafe { Handle::message(host) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_errno(host: *mut VmonHost) -> c_int {
    // SAFETY: by the contract.
    unsafe { Handle::errno(host) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_fd(host: *mut VmonHost, fd: *mut c_int) -> c_int {
    let call = |it: &mut HandleOfHost| {
        // SAFETY: by the contract.
        let fd = unsafe { Out::new(fd, "fd") }?;
        fd.set(it.host.descriptor()?);
        Ok(())
    };
    // SAFETY: by the contract.
    unsafe { Handle::call(host, call) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_timeout(host: *mut VmonHost, timeout_ms: *mut c_int) -> c_int {
    let call = |it: &mut HandleOfHost| {
        // SAFETY: by the contract.
        let timeout_ms = unsafe { Out::new(timeout_ms, "timeout_ms") }?;
        timeout_ms.set(it.host.timeout()?);
        Ok(())
    };
    // SAFETY: by the contract.
    unsafe { Handle::call(host, call) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_turn(host: *mut VmonHost, timeout_ms: c_int) -> c_int {
    // SAFETY: by the contract.
    unsafe { Handle::call(host, |it| it.host.turn(timeout(timeout_ms.into())?)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_wait(
    host: *mut VmonHost,
    id: u64,
    timeout_ms: c_int,
    end: *mut CEnd,
) -> c_int {
    let call = |it: &mut HandleOfHost| {
        // SAFETY: by the contract.
        let end = unsafe { OutStruct::new(end, "end") }?;
        let ended = it.host.wait(sandbox(id), timeout(timeout_ms.into())?)?;
        end.set(it.end.insert(GivenEnd::new(&ended)).get());
        Ok(())
    };
    // SAFETY: by the contract.
    unsafe { Handle::call(host, call) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_forget(host: *mut VmonHost, id: u64) -> c_int {
    // SAFETY: by the contract.
    unsafe { Handle::call(host, |it| it.host.forget(sandbox(id))) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_subscribe(host: *mut VmonHost, limit: u32) -> c_int {
    // SAFETY: by the contract.
    unsafe { Handle::call(host, |it| it.host.subscribe(limit)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_next_event(
    host: *mut VmonHost,
    timeout_ms: c_int,
    event: *mut CEvent,
) -> c_int {
    let call = |it: &mut HandleOfHost| {
        // SAFETY: by the contract.
        let out = unsafe { OutStruct::new(event, "event") }?;
        let timeout: Option<Duration> = timeout(timeout_ms.into())?;
        let (event, missed) = it.host.next_event(timeout)?;
        out.set(it.event.insert(GivenEvent::new(&event, missed)).get());
        Ok(())
    };
    // SAFETY: by the contract.
    unsafe { Handle::call(host, call) }
}
