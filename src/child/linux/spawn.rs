//! A child without fork's cost: clone(2) with `CLONE_VM | CLONE_VFORK`, as posix_spawn(3) of glibc
//! does it, but with a session, a terminal and a parent-death signal, which that can't give.
//!
//! fork copies the page tables of the host, and each page that either writes then faults: tens of
//! milliseconds for a host of a gigabyte, in which its loop stands still. Here the child borrows
//! our memory, on a stack of its own, and this thread is suspended until it has become its program
//! or has ended. So the child must leave our memory as it is but for the Cells of its [`Plan`]: it
//! allocates nothing, waits for no lock, can't panic, and runs no handler of ours, because every
//! signal is blocked from before the clone until none is caught any more. All that it needs is
//! prepared before.
//!
//! The child has this thread's thread-local storage too, so its calls overwrite our `errno`. That
//! harms nobody: clone sets it where it fails, and nothing reads it where it succeeds. Fork handlers
//! (pthread_atfork(3)) do not run.

use std::cell::Cell;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use libc::{c_int, c_void};
use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, SysconfVar, chdir, getppid, setpgid, setsid, sysconf};

use super::ExitWatch;
use super::exec::{Program, c_string};
use super::pidfd::PidFd;
use crate::child::{Cgroup, ChildStdio, Command, SpawnFailure};
use crate::process::FileLimit;

/// Starts `command` in a session of its own, and has it killed when the calling thread ends.
pub(in crate::child) fn spawn(
    command: &Command,
    stdio: &ChildStdio<'_>,
    cgroup: Option<&Cgroup>,
) -> Result<(Pid, ExitWatch), SpawnFailure> {
    let at_cgroup = |error| match cgroup {
        Some(cgroup) => SpawnFailure::Cgroup(cgroup.directory().to_owned(), error),
        None => SpawnFailure::System(error),
    };
    let procs = cgroup.map(Cgroup::procs).transpose().map_err(at_cgroup)?;
    let plan = Plan::new(command, stdio, procs)?;
    let (pid, pidfd) = clone(&plan)?;
    if let Some(failure) = plan.failure.take() {
        // Ends at once. It is gone already where this process ignores SIGCHLD (wait(2)).
        while waitpid(pid, None) == Err(Errno::EINTR) {}
        return Err(match failure {
            Failure::Cgroup(errno) => at_cgroup(errno.into()),
            Failure::Prepare(errno) => SpawnFailure::System(errno.into()),
            Failure::Directory(errno) => SpawnFailure::Directory(errno.into()),
            Failure::Execute(errno) => SpawnFailure::Execute(errno.into()),
        });
    }
    let exit = match pidfd {
        Some(pidfd) => ExitWatch(Some(PidFd::of(pidfd))),
        // It runs already: one that can't be watched is polled.
        None => ExitWatch::new(pid).unwrap_or_default(),
    };
    Ok((pid, exit))
}

/// What the child is to do, and what it could not.
struct Plan {
    parent: Pid,
    /// What becomes its descriptors 0, 1 and 2; none of these is one of those.
    stdio: [RawFd; 3],
    /// Whether descriptor 1 becomes its controlling terminal.
    terminal: bool,
    last_signal: c_int,
    /// The `cgroup.procs` of its cgroup, open for writing.
    cgroup: Option<File>,
    directory: Option<CString>,
    file_limit: Option<FileLimit>,
    /// Whether it runs beside everything else, as `Child::spawn_in_background` says.
    background: bool,
    program: Program,
    /// Written by the child, which then ends.
    failure: Cell<Option<Failure>>,
}

/// The step that failed.
#[derive(Clone, Copy)]
enum Failure {
    Prepare(Errno),
    Cgroup(Errno),
    Directory(Errno),
    Execute(Errno),
}

impl Plan {
    fn new(command: &Command, stdio: &ChildStdio<'_>, cgroup: Option<File>) -> io::Result<Self> {
        let directory = command.directory().map(|path| c_string(path.as_os_str().as_bytes()));
        Ok(Self {
            parent: Pid::this(),
            stdio: stdio.fds.map(|fd| fd.as_raw_fd()),
            terminal: stdio.terminal,
            last_signal: super::last_signal(),
            cgroup,
            directory: directory.transpose()?,
            file_limit: command.former_file_limit(),
            background: command.is_in_background(),
            program: Program::new(command)?,
            failure: Cell::new(None),
        })
    }

    /// In the child: becomes the program, or tells why that can't be.
    ///
    /// It and all that it calls is async-signal-safe, in the strict sense of this module.
    fn carry_out(&self) -> Failure {
        match self.prepare() {
            Ok(()) => Failure::Execute(self.program.execute()),
            Err(failure) => failure,
        }
    }

    fn prepare(&self) -> Result<(), Failure> {
        if self.background {
            step_back().map_err(Failure::Prepare)?;
        } else {
            // First, so that nothing that follows can leave it behind.
            die_with_parent(self.parent).map_err(Failure::Prepare)?;
            setsid().map_err(Failure::Prepare)?;
        }
        if let Some(cgroup) = &self.cgroup {
            // 0 means whoever writes it (cgroups(7)).
            nix::unistd::write(cgroup, b"0").map_err(Failure::Cgroup)?;
        }
        reset_signals(self.last_signal, self.background).map_err(Failure::Prepare)?;
        for (from, to) in self.stdio.iter().zip(libc::STDIN_FILENO..) {
            // SAFETY: dup2 takes two integers. Its table of descriptors is the child's own, in
            // which nothing owns 0, 1 and 2. They are not closed on exec.
            Errno::result(unsafe { libc::dup2(*from, to) }).map_err(Failure::Prepare)?;
        }
        if self.terminal {
            // SAFETY: TIOCSCTTY takes an integer, not a pointer.
            Errno::result(unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCSCTTY, 0) })
                .map_err(Failure::Prepare)?;
        }
        if let Some(directory) = &self.directory {
            chdir(directory.as_c_str()).map_err(Failure::Directory)?;
        }
        if let Some(limit) = self.file_limit {
            limit.set().map_err(Failure::Prepare)?;
        }
        if self.background {
            close_others();
        }
        // What this thread blocks is no business of the child's.
        SigSet::empty().thread_set_mask().map_err(Failure::Prepare)
    }
}

/// Leaves our process group, and takes its turn after everybody else.
fn step_back() -> nix::Result<()> {
    /// ioprio_set(2): `IOPRIO_WHO_PROCESS`, of which 0 is the caller.
    const WHO_PROCESS: c_int = 1;
    /// `IOPRIO_CLASS_IDLE`: disk time that nobody else wants. Schedulers that know no classes
    /// take no notice.
    const CLASS_IDLE: c_int = 3 << 13;
    setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    // SAFETY: both calls take integers. They concern the calling process alone, and to be refused
    // one (by a seccomp filter, say) is no reason not to run.
    unsafe {
        libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, 0, crate::child::LEAST_URGENT);
        libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, CLASS_IDLE);
    }
    Ok(())
}

/// Closes all but the three streams: close_range(2), Linux 5.9. What is ours is closed by exec
/// anyway; what we have inherited ourselves may not be.
fn close_others() {
    // SAFETY: takes integers. The table of descriptors is the child's own, and nothing in it is
    // used any more.
    unsafe { libc::syscall(libc::SYS_close_range, libc::STDERR_FILENO + 1, c_int::MAX, 0) };
}

/// Has the calling process killed when the thread that started it ends. Fails when that was gone
/// before it could be asked for: the signal would never come.
fn die_with_parent(parent: Pid) -> nix::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != parent {
        return Err(Errno::ESRCH);
    }
    Ok(())
}

/// Gives every signal that is caught its default action, as exec will, but before any is let
/// through: a handler would run in the host's memory. What is ignored stays so, unless `all` are to
/// have their default action, except SIGPIPE, which Rust's runtime ignores, and SIGCHLD, without
/// which a program can't wait for its children.
///
/// What came for the host's process group before setsid(2) was the host's to handle, and is
/// discarded. It waits here because all is blocked, and would end the child when that is over: on a
/// kernel before 5.16, where it dumps core, the host as well, whose memory this still is.
///
/// Some C libraries take a lock in sigaction for SIGABRT, against abort(3). Another thread that
/// keeps it is about to end the host, and by now the child ends with that.
fn reset_signals(last: c_int, all: bool) -> nix::Result<()> {
    let mut pending = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: sigpending(2) writes one set to the pointer, which is valid for one.
    Errno::result(unsafe { libc::sigpending(pending.as_mut_ptr()) })?;
    // SAFETY: zeroed is a valid set, and the kernel has filled it.
    let pending = unsafe { pending.assume_init() };
    for signal in 1..=last {
        // SAFETY: sigismember reads one set from a live reference.
        let is_pending = unsafe { libc::sigismember(&raw const pending, signal) } == 1;
        let mut current = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: with a null new action, sigaction(2) only writes the current one to the pointer,
        // which is valid for one sigaction.
        if unsafe { libc::sigaction(signal, ptr::null(), current.as_mut_ptr()) } != 0 {
            // The C library's own, by which its threads call each other, and nobody this child.
            continue;
        }
        // SAFETY: zeroed is a valid sigaction, and the kernel has filled it.
        let action = unsafe { current.assume_init() }.sa_sigaction;
        let is_caught = action != libc::SIG_DFL && action != libc::SIG_IGN;
        if is_caught || is_pending {
            // To ignore one discards what is pending of it (sigaction(2)).
            set_action(signal, libc::SIG_IGN)?;
            set_action(signal, if is_caught { libc::SIG_DFL } else { action })?;
        }
        if all && action == libc::SIG_IGN {
            set_action(signal, libc::SIG_DFL)?;
        }
    }
    set_action(libc::SIGPIPE, libc::SIG_DFL)?;
    set_action(libc::SIGCHLD, libc::SIG_DFL)
}

/// `action` is `SIG_IGN` or `SIG_DFL`.
fn set_action(signal: c_int, action: libc::sighandler_t) -> nix::Result<()> {
    // SAFETY: zeroed is a valid sigaction: no flags, and an empty mask.
    let mut new = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
    new.sa_sigaction = action;
    // SAFETY: sigaction(2) reads one sigaction from a live reference. No handler is installed, and
    // the table of actions is the child's own (no `CLONE_SIGHAND`).
    Errno::result(unsafe { libc::sigaction(signal, &raw const new, ptr::null_mut()) })?;
    Ok(())
}

/// Starts the child and comes back when it has become its program or has failed; with its pidfd
/// (Linux 5.2), which can't mean another process however soon it ends.
fn clone(plan: &Plan) -> io::Result<(Pid, Option<OwnedFd>)> {
    let stack = Stack::new()?;
    let blocked = AllBlocked::new()?;
    let mut pidfd = -1;
    let mut start = |flags: c_int| {
        let flags = flags | libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let plan = ptr::from_ref(plan).cast_mut().cast::<c_void>();
        // SAFETY: `run` gets the plan it expects, which outlives the child's use of our memory, as
        // this thread goes on only when that has ended (`CLONE_VFORK`). Until then nothing but the
        // child's side of `plan.failure` and `shell_argv` is written, both in Cells. The stack is
        // the child's alone, and the kernel writes one descriptor to `pidfd`.
        Errno::result(unsafe { libc::clone(run, stack.top(), flags, plan, &raw mut pidfd) })
    };
    let pid = match start(libc::CLONE_PIDFD) {
        // A sandbox that does not know the flag. A kernel that does not takes no notice of it.
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EPERM) => start(0),
        result => result,
    }?;
    drop(blocked);
    // SAFETY: the kernel has just given us this descriptor, close-on-exec; nobody else owns it.
    let pidfd = (pidfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
    Ok((Pid::from_raw(pid), pidfd))
}

/// Where the child begins, in our memory.
extern "C" fn run(plan: *mut c_void) -> c_int {
    // SAFETY: `clone` above gives the address of a plan that lives until this has ended.
    let plan = unsafe { &*plan.cast::<Plan>() };
    plan.failure.set(Some(plan.carry_out()));
    // SAFETY: _exit ends this process and runs no exit handlers of the host's.
    unsafe { libc::_exit(127) }
}

/// While it lives, no signal is let through to this thread.
struct AllBlocked(SigSet);

impl AllBlocked {
    fn new() -> nix::Result<Self> {
        SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK).map(Self)
    }
}

impl Drop for AllBlocked {
    fn drop(&mut self) {
        // Fails only for an unknown way of changing the mask.
        let _ = self.0.thread_set_mask();
    }
}

/// A stack for the child, with a page below it that can't be touched.
struct Stack {
    base: *mut c_void,
    len: usize,
}

impl Stack {
    /// Many times what the child needs, in a debug build too; only what it touches is ever memory.
    const ROOM: usize = 64 * 1024;

    fn new() -> io::Result<Self> {
        let page = sysconf(SysconfVar::PAGE_SIZE)?.and_then(|size| usize::try_from(size).ok());
        let guard = page.ok_or(Errno::EINVAL)?;
        let len = guard + Self::ROOM;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        // SAFETY: a new anonymous mapping, where the kernel finds room: nothing that exists is
        // touched.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Self { base, len };
        // SAFETY: all but the first page of the mapping that has just been made, which is ours.
        let result = unsafe {
            let room = base.byte_add(guard);
            libc::mprotect(room, Self::ROOM, libc::PROT_READ | libc::PROT_WRITE)
        };
        Errno::result(result)?;
        Ok(stack)
    }

    /// Where it begins: stacks grow down on all that Linux and Rust run on.
    fn top(&self) -> *mut c_void {
        // SAFETY: one past the end of the mapping.
        unsafe { self.base.byte_add(self.len) }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the whole of a mapping of our own, which no one uses any more: the child has left
        // our memory by the time clone(2) returns.
        unsafe { libc::munmap(self.base, self.len) };
    }
}
