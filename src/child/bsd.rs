//! macOS and the BSDs: kqueue's process filter, no parent-death signal, sysctl.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::pty::{grantpt, posix_openpt, unlockpt};
use nix::sys::event::{EvFlags, EventFilter, FilterFlag, KEvent, Kqueue};
use nix::unistd::Pid;

use super::identity::Process;

/// The request that makes a terminal the controlling one (tty(4)): declared as an unsigned int,
/// where ioctl takes an unsigned long.
pub(super) const TIOCSCTTY: libc::c_ulong = libc::TIOCSCTTY as libc::c_ulong;

pub(super) fn last_signal() -> i32 {
    libc::SIGUSR2
}

/// None that libc names here.
pub(super) fn realtime_signals() -> Option<(i32, i32)> {
    None
}

/// Tells the end of one child through a kqueue with one `EVFILT_PROC` (kqueue(2)); a kqueue is
/// itself readable while it has an event.
#[derive(Debug)]
pub(super) struct ExitWatch(Option<Kqueue>);

impl ExitWatch {
    pub(super) fn new(pid: Pid) -> io::Result<Self> {
        let queue = Kqueue::new()?;
        let ident = usize::try_from(pid.as_raw()).map_err(io::Error::other)?;
        let exit = KEvent::new(
            ident,
            EventFilter::EVFILT_PROC,
            EvFlags::EV_ADD,
            FilterFlag::NOTE_EXIT,
            0,
            0,
        );
        match queue.kevent(&[exit], &mut [], None) {
            Ok(_) => Ok(Self(Some(queue))),
            // It has ended already: there is nothing left to watch, only to reap.
            Err(Errno::ESRCH) => Ok(Self(None)),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }
}

/// Fails with `ECHILD` unless this is an unreaped child of ours. Reaps nothing.
pub(super) fn check_own_child(pid: Pid) -> io::Result<()> {
    let id = libc::id_t::try_from(pid.as_raw()).map_err(io::Error::other)?;
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let look = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: waitid(2) writes one siginfo_t to the pointer, which is valid for one.
    Errno::result(unsafe { libc::waitid(libc::P_PID, id, info.as_mut_ptr(), look) })?;
    Ok(())
}

/// These systems have no such signal: a child outlives a supervisor killed by SIGKILL.
pub(super) fn die_with_parent(_parent: Pid) -> io::Result<()> {
    Ok(())
}

/// A new PTY: its master, close-on-exec and non-blocking, and its slave's path.
///
/// posix_openpt takes neither flag here, so another thread's fork can get the master in between.
pub(super) fn open_pty() -> io::Result<(OwnedFd, PathBuf)> {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY)?;
    fcntl(&master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    super::set_nonblocking(master.as_fd())?;
    grantpt(&master)?;
    unlockpt(&master)?;
    // SAFETY: ptsname's static buffer is copied before this thread can call it again; other
    // threads of the host must not call ptsname at the same time.
    let path = unsafe { nix::pty::ptsname(&master) }?;
    Ok((master.into(), path.into()))
}

#[cfg(target_os = "macos")]
pub(super) fn process(pid: u32) -> io::Result<Option<Process>> {
    let mut info = MaybeUninit::<libc::proc_bsdinfo>::zeroed();
    let size = libc::c_int::try_from(size_of::<libc::proc_bsdinfo>()).map_err(io::Error::other)?;
    let pid = libc::c_int::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: proc_pidinfo writes at most `size` bytes to the buffer, which has that many.
    let written = unsafe {
        libc::proc_pidinfo(pid, libc::PROC_PIDTBSDINFO, 0, info.as_mut_ptr().cast(), size)
    };
    if written != size {
        return match Errno::last() {
            Errno::ESRCH => Ok(None),
            error => Err(error.into()),
        };
    }
    // SAFETY: all of it has been written.
    let info = unsafe { info.assume_init() };
    let start = info.pbi_start_tvsec * 1_000_000 + info.pbi_start_tvusec;
    Ok(Some(Process { start, ended: info.pbi_status == libc::SZOMB }))
}

#[cfg(target_os = "freebsd")]
pub(super) fn process(pid: u32) -> io::Result<Option<Process>> {
    let pid = libc::c_int::try_from(pid).map_err(io::Error::other)?;
    let mib = [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PID, pid];
    let mut info = MaybeUninit::<libc::kinfo_proc>::zeroed();
    let mut size = size_of::<libc::kinfo_proc>();
    // SAFETY: sysctl reads four integers and writes at most `size` bytes to the buffer.
    let result = unsafe {
        libc::sysctl(mib.as_ptr(), 4, info.as_mut_ptr().cast(), &mut size, std::ptr::null(), 0)
    };
    match Errno::result(result) {
        Err(Errno::ESRCH) => return Ok(None),
        Err(error) => return Err(error.into()),
        Ok(_) if size == 0 => return Ok(None),
        Ok(_) => {}
    }
    // SAFETY: zeroed at first and filled by the kernel; every field is an integer or a pointer.
    let info = unsafe { info.assume_init() };
    let seconds = u64::try_from(info.ki_start.tv_sec).unwrap_or_default();
    let micros = u64::try_from(info.ki_start.tv_usec).unwrap_or_default();
    let ended = i32::from(info.ki_stat) == i32::from(libc::SZOMB);
    Ok(Some(Process { start: seconds * 1_000_000 + micros, ended }))
}

/// The kernel's own name for this boot (macOS: a UUID, FreeBSD: 16 random bytes), in hexadecimal;
/// empty where it has none. The boot time is none: it moves when the clock is set.
pub(super) fn boot_id() -> String {
    [c"kern.bootsessionuuid", c"kern.boot_id"].into_iter().find_map(read_sysctl).unwrap_or_default()
}

fn read_sysctl(name: &std::ffi::CStr) -> Option<String> {
    let mut value = [0_u8; 64];
    let mut size = value.len();
    // SAFETY: the name is NUL-terminated, and at most `size` bytes are written to the buffer.
    let result = unsafe {
        libc::sysctlbyname(
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            &mut size,
            std::ptr::null_mut(),
            0,
        )
    };
    let value = value.get(..size).filter(|value| result == 0 && !value.is_empty())?;
    Some(value.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// These systems have no pid namespaces.
pub(super) fn pid_namespace() -> Option<u64> {
    None
}
