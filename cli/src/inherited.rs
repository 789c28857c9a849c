//! Descriptors that vmon itself was started with.

use std::io;
use std::os::fd::OwnedFd;

use vmon::process;

/// The descriptor of this number: see [`process::inherited_descriptor`].
#[allow(unsafe_code)] // known by number only
pub fn descriptor(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: neither the command nor a library that it uses opens a descriptor without FD_CLOEXEC, and
    // `let_inherit` of `run` clears that flag only after the last call.
    unsafe { process::inherited_descriptor(number) }
}
