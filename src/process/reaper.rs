//! Who becomes the parent of orphans.

use std::io;

/// Makes this process the one that its orphaned descendants become children of, instead of init
/// (`PR_SET_CHILD_SUBREAPER`, prctl(2); on FreeBSD `PROC_REAP_ACQUIRE`, procctl(2)).
///
/// For a program that answers for whatever its child leaves behind, daemons included. Whoever calls
/// it has to reap what it adopts. It lasts until the process ends, exec included, and children do
/// not inherit it.
///
/// # Errors
///
/// [`Unsupported`](io::ErrorKind::Unsupported) where the system has no such thing; else the
/// system's.
pub fn become_subreaper() -> io::Result<()> {
    platform::become_subreaper()
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod platform {
    pub(super) fn become_subreaper() -> std::io::Result<()> {
        nix::sys::prctl::set_child_subreaper(true).map_err(Into::into)
    }
}

#[cfg(target_os = "freebsd")]
#[allow(unsafe_code)]
mod platform {
    use nix::errno::Errno;

    pub(super) fn become_subreaper() -> std::io::Result<()> {
        let id = libc::id_t::from(std::process::id());
        // SAFETY: PROC_REAP_ACQUIRE takes no data, so nothing is read through the pointer.
        let result = unsafe {
            libc::procctl(libc::P_PID, id, libc::PROC_REAP_ACQUIRE, std::ptr::null_mut())
        };
        match Errno::result(result) {
            // It is one already.
            Ok(_) | Err(Errno::EBUSY) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
mod platform {
    pub(super) fn become_subreaper() -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}
