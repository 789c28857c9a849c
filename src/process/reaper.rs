//! Becoming the parent of orphaned processes.

use std::io;

/// Makes this process a subreaper: its orphaned descendants become its children instead of init's
/// (`PR_SET_CHILD_SUBREAPER`, prctl(2); on FreeBSD `PROC_REAP_ACQUIRE`, procctl(2)).
///
/// For a program that stops all processes that its child leaves behind, including daemons. The
/// caller must reap them. The setting lasts until the process ends, across exec. Children do not
/// inherit it.
///
/// # Errors
///
/// [`Unsupported`](io::ErrorKind::Unsupported) on systems without subreapers; else the system's.
#[cfg_attr(target_os = "freebsd", allow(unsafe_code))]
pub fn become_subreaper() -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        Ok(nix::sys::prctl::set_child_subreaper(true)?)
    }
    #[cfg(target_os = "freebsd")]
    {
        let id = libc::id_t::from(std::process::id());
        // SAFETY: PROC_REAP_ACQUIRE takes no data, so nothing is read through the pointer.
        let result = unsafe {
            libc::procctl(libc::P_PID, id, libc::PROC_REAP_ACQUIRE, std::ptr::null_mut())
        };
        match nix::errno::Errno::result(result) {
            // The process is a reaper already.
            Ok(_) | Err(nix::errno::Errno::EBUSY) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    {
        Err(io::ErrorKind::Unsupported.into())
    }
}
