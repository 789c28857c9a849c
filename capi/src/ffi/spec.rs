//! Functions of descriptions.

use std::ffi::{c_char, c_int};
use std::ptr;

use super::handle::{Handle, code};
use super::pointer::{self, Out};
use super::sandbox::{give, signal};
use crate::failure::Failure;
use crate::spec::Description;

pub type VmonSpec = Handle<Description>;

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_spec_new(name: *const c_char, spec: *mut *mut VmonSpec) -> c_int {
    code(|| {
        // SAFETY: by the contract.
        let spec = unsafe { Out::new(spec, "spec") }?;
        spec.set(ptr::null_mut());
        // SAFETY: by the contract.
        let name = unsafe { pointer::text(name, "name") }?;
        spec.set(Box::into_raw(Handle::new(Description::new(name)?)));
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_spec_free(spec: *mut VmonSpec) {
    // SAFETY: by the contract.
    unsafe { Handle::free(spec, |_, _| Ok(())) };
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_spec_errmsg(spec: *mut VmonSpec) -> *const c_char {
    // SAFETY: by the contract.
    unsafe { Handle::message(spec) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_spec_config_file(spec: *mut VmonSpec, name: *const c_char) -> c_int {
    // SAFETY: by the contract.
    unsafe { Handle::call(spec, |it| it.config_file(pointer::text(name, "name")?)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_spec_log_dir(spec: *mut VmonSpec, directory: *const c_char) -> c_int {
    // SAFETY: by the contract.
    unsafe { Handle::call(spec, |it| it.log_dir(pointer::string(directory, "directory")?)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_spec_command(spec: *mut VmonSpec, argv: *const *const c_char) -> c_int {
    // SAFETY: by the contract.
    unsafe { Handle::call(spec, |it| it.command(&pointer::strings(argv, "argv")?)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_spec_env(
    spec: *mut VmonSpec,
    name: *const c_char,
    value: *const c_char,
) -> c_int {
    // SAFETY: by the contract.
    let call = |it: &mut Description| unsafe {
        it.env(pointer::string(name, "name")?, pointer::optional_string(value))
    };
    // SAFETY: by the contract.
    unsafe { Handle::call(spec, call) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_spec_env_clear(spec: *mut VmonSpec) -> c_int {
    // SAFETY: by the contract.
    unsafe { set(spec, Description::env_clear) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_spec_directory(spec: *mut VmonSpec, directory: *const c_char) -> c_int {
    let call = |it: &mut Description| {
        // SAFETY: by the contract.
        let directory = unsafe { pointer::string(directory, "directory") }?;
        it.directory(directory);
        Ok(())
    };
    // SAFETY: by the contract.
    unsafe { Handle::call(spec, call) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_spec_pty(spec: *mut VmonSpec, pty: c_int) -> c_int {
    // SAFETY: by the contract.
    unsafe { set(spec, |it| it.pty(pty != 0)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_spec_input(spec: *mut VmonSpec, input: c_int) -> c_int {
    // SAFETY: by the contract.
    unsafe { Handle::call(spec, |it| it.input(input)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_spec_stop_signal(spec: *mut VmonSpec, number: c_int) -> c_int {
    let call = |it: &mut Description| {
        it.stop_signal(signal(number)?);
        Ok(())
    };
    // SAFETY: by the contract.
    unsafe { Handle::call(spec, call) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_spec_stop_timeout(spec: *mut VmonSpec, timeout_ms: i64) -> c_int {
    let call = |it: &mut Description| {
        let negative = |_| Failure::invalid(format!("the stop timeout is {timeout_ms} ms"));
        it.stop_timeout(u64::try_from(timeout_ms).map_err(negative)?);
        Ok(())
    };
    // SAFETY: by the contract.
    unsafe { Handle::call(spec, call) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_spec_log_limit(
    spec: *mut VmonSpec,
    max_size: u64,
    max_files: u32,
) -> c_int {
    // SAFETY: by the contract.
    unsafe { set(spec, |it| it.log_limit(max_size, max_files)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_spec_parent_death(spec: *mut VmonSpec, parent_death: c_int) -> c_int {
    // SAFETY: by the contract.
    unsafe { set(spec, |it| it.parent_death(parent_death != 0)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_spec_json(spec: *mut VmonSpec, json: *const c_char) -> c_int {
    // SAFETY: by the contract.
    unsafe { Handle::call(spec, |it| it.merge(pointer::text(json, "json")?)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn vmon_spec_get_json(spec: *mut VmonSpec, json: *mut *mut c_char) -> c_int {
    // SAFETY: by the contract.
    unsafe { Handle::call(spec, |it| give(json, || Ok(it.to_json()))) }
}

/// Sets what can't fail.
///
/// # Safety
///
/// `spec` is NULL or a description that has not been freed.
unsafe fn set(spec: *mut VmonSpec, set: impl FnOnce(&mut Description)) -> c_int {
    let call = |it: &mut Description| {
        set(it);
        Ok(())
    };
    // SAFETY: by this function's contract.
    unsafe { Handle::call(spec, call) }
}
