//! Starting a child by clone(2) with `CLONE_VM | CLONE_VFORK`, as posix_spawn(3) of glibc does, but
//! with a session, a controlling terminal and a parent-death signal, which posix_spawn lacks.
//!
//! fork(2) copies the page tables of the host, and each later write of either process to a page
//! faults: tens of milliseconds for a host of a gigabyte, during which its loop stalls. Here the
//! child shares the memory of this process, on a stack of its own, and the kernel suspends this
//! thread until the child calls execve or exits. So the child must not write to memory except the
//! Cells and atomics of its [`Plan`] and its stack: it allocates nothing, takes no lock and can't panic. It
//! runs no signal handler of the host, because every signal is blocked from before the clone until
//! no signal is caught. Everything that it needs is prepared before.
//!
//! The child also shares the thread-local storage of this thread, so its calls overwrite `errno`.
//! That has no effect: clone sets `errno` if it fails, and nothing reads it if it succeeds. Fork
//! handlers (pthread_atfork(3)) do not run.
//!
//! A child that changes its ids shares nothing: it is a copy, as after fork(2), and reports through a
//! pipe (`report`). Its new user may send it SIGSTOP before exec, which must not suspend this thread,
//! and no memory of this process may be reachable through the child.

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
use nix::sys::prctl::{set_dumpable, set_pdeathsig};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, SysconfVar, chdir, getppid, setpgid, setsid, sysconf};

use super::ExitWatch;
use super::exec::{Program, c_string};
use super::pidfd::PidFd;
use super::report::{self, Failure};
use crate::child::command::{Background, Command, LOWEST_PRIORITY};
use crate::child::descriptors::pipe;
use crate::child::error::SpawnFailure;
use crate::child::setup::Setup;
use crate::child::stdio::ChildStdio;
use crate::child::{Cgroup, Signal as ChildSignal};

/// Starts `command` in a session of its own, by default to be killed when the calling thread ends.
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
    let mut plan = Plan::new(command, stdio, procs)?;
    let reader = plan.copy_reports()?;
    let (pid, pidfd) = clone(&plan)?;
    // The child has a copy of the writer. The end of file is its exec.
    drop(plan.writer.take());
    let failure = match &reader {
        None => plan.failure.take(),
        Some(reader) => report::wait(reader, pid),
    };
    let pidfd = pidfd.map(PidFd::of);
    if let Some(failure) = failure {
        let flags = end_failed(pidfd.as_ref().filter(|_| reader.is_some()));
        // The child exits at once. If this process ignores SIGCHLD, it was reaped already
        // (wait(2)).
        while waitpid(pid, flags) == Err(Errno::EINTR) {}
        return Err(match failure {
            Failure::Cgroup(errno) => at_cgroup(errno.into()),
            Failure::Prepare(errno) => SpawnFailure::System(errno.into()),
            Failure::Directory(errno) => SpawnFailure::Directory(errno.into()),
            Failure::Setup((step, errno)) => plan.setup.failure(step, errno.into()),
            Failure::Execute(errno) => SpawnFailure::Execute(errno.into()),
        });
    }
    let exit = match pidfd {
        Some(pidfd) => ExitWatch(Some(pidfd)),
        // The child runs. Without a pidfd it is polled.
        None => ExitWatch::new(pid).unwrap_or_default(),
    };
    Ok((pid, exit))
}

/// Ends a copy that has failed, which its user may have stopped before its end. Returns how it can be
/// waited for without a risk: where it can't be signalled, it may stay a zombie.
fn end_failed(copy: Option<&PidFd>) -> Option<WaitPidFlag> {
    let is_ended = copy.is_none_or(|copy| copy.send(ChildSignal::KILL).is_ok());
    (!is_ended).then_some(WaitPidFlag::WNOHANG)
}

/// The steps of the child until execve, and the step that failed.
struct Plan {
    parent: Pid,
    /// The descriptors that become 0, 1 and 2. Their own numbers are above 2.
    stdio: [RawFd; 3],
    /// Whether descriptor 1 becomes its controlling terminal.
    terminal: bool,
    last_signal: c_int,
    /// The `cgroup.procs` of its cgroup, open for writing.
    cgroup: Option<File>,
    directory: Option<CString>,
    setup: Setup,
    /// Set for a command that runs beside the sandboxes.
    background: Option<Background>,
    parent_death: bool,
    program: Program,
    /// Written by a child that shares this memory, before it exits.
    failure: Cell<Option<Failure>>,
    /// Where a child that is a copy reports its failure.
    writer: Option<OwnedFd>,
}

impl Plan {
    fn new(
        command: &Command,
        stdio: &ChildStdio<'_>,
        cgroup: Option<File>,
    ) -> Result<Self, SpawnFailure> {
        let directory = command.get_current_dir().map(|path| c_string(path.as_os_str().as_bytes()));
        Ok(Self {
            parent: Pid::this(),
            stdio: stdio.fds.map(|fd| fd.as_raw_fd()),
            terminal: stdio.terminal,
            last_signal: super::last_signal(),
            cgroup,
            directory: directory.transpose()?,
            setup: Setup::new(command)?,
            background: command.background,
            parent_death: command.parent_death,
            program: Program::new(command)?,
            failure: Cell::new(None),
            writer: None,
        })
    }

    /// Has a child that changes its ids report through a pipe, whose reader is returned.
    fn copy_reports(&mut self) -> io::Result<Option<OwnedFd>> {
        if !self.setup.changes_ids() {
            return Ok(None);
        }
        // No descriptor of the child may take the number of the writer.
        let _reserved = self.setup.reserve();
        let (reader, writer) = pipe()?;
        self.writer = Some(writer);
        Ok(Some(reader))
    }

    /// Runs in the child. Returns only on failure.
    ///
    /// Async-signal-safe in the strict sense of this module, with everything that it calls.
    fn carry_out(&self) -> Failure {
        match self.prepare() {
            Ok(()) => Failure::Execute(self.program.execute()),
            Err(failure) => failure,
        }
    }

    fn prepare(&self) -> Result<(), Failure> {
        // First, so that the child does not outlive this process if a later step blocks.
        if self.parent_death && self.background != Some(Background::Low) {
            die_with_parent(self.parent).map_err(Failure::Prepare)?;
        }
        match self.background {
            Some(_) => setpgid(Pid::from_raw(0), Pid::from_raw(0)).map_err(Failure::Prepare)?,
            None => drop(setsid().map_err(Failure::Prepare)?),
        }
        if self.background == Some(Background::Low) {
            lower_priority();
        }
        if let Some(cgroup) = &self.cgroup {
            // 0 means the writing process (cgroups(7)).
            nix::unistd::write(cgroup, b"0").map_err(Failure::Cgroup)?;
        }
        reset_signals(self.last_signal, self.background.is_some()).map_err(Failure::Prepare)?;
        for (from, to) in self.stdio.iter().zip(libc::STDIN_FILENO..) {
            // SAFETY: dup2 takes two integers. The descriptor table is the child's own, in which
            // nothing owns 0, 1 and 2. They stay open across exec.
            Errno::result(unsafe { libc::dup2(*from, to) }).map_err(Failure::Prepare)?;
        }
        if self.terminal {
            // SAFETY: TIOCSCTTY takes an integer, not a pointer.
            Errno::result(unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCSCTTY, 0) })
                .map_err(Failure::Prepare)?;
        }
        self.setup.pass_descriptors().map_err(Failure::Setup)?;
        self.setup.set_limits().map_err(Failure::Setup)?;
        if let Some(directory) = &self.directory {
            chdir(directory.as_c_str()).map_err(Failure::Directory)?;
        }
        if self.setup.changes_ids() {
            self.set_ids()?;
        }
        if self.background.is_some() {
            close_others();
        }
        // The child does not inherit the signal mask of this thread.
        SigSet::empty().thread_set_mask().map_err(Failure::Prepare)
    }

    fn set_ids(&self) -> Result<(), Failure> {
        self.setup.set_ids().map_err(Failure::Setup)?;
        // The copy of this process's memory is not for the new user. The change of ids has cleared the
        // flag, unless `fs.suid_dumpable` (proc(5)) is 1.
        set_dumpable(false).map_err(Failure::Prepare)?;
        // A change of ids clears the signal (prctl(2)).
        if self.parent_death {
            die_with_parent(self.parent).map_err(Failure::Prepare)?;
        }
        Ok(())
    }
}

/// Gives the calling process the lowest CPU and disk priority.
fn lower_priority() {
    /// ioprio_set(2): `IOPRIO_WHO_PROCESS`, of which 0 is the caller.
    const WHO_PROCESS: c_int = 1;
    /// `IOPRIO_CLASS_IDLE`: disk time that no other process requests. I/O schedulers without
    /// priorities ignore it.
    const CLASS_IDLE: c_int = 3 << 13;
    // SAFETY: both calls take integers and affect the calling process alone. A failure, as by a
    // seccomp filter, does not stop the command.
    unsafe {
        libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, 0, LOWEST_PRIORITY);
        libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, CLASS_IDLE);
    }
}

/// Closes all descriptors but the three streams: close_range(2), Linux 5.9. Those of this process
/// are close-on-exec, but inherited ones may not be.
fn close_others() {
    // SAFETY: takes integers. The descriptor table is the child's own, and none of the closed
    // descriptors is used any more.
    unsafe { libc::syscall(libc::SYS_close_range, libc::STDERR_FILENO + 1, c_int::MAX, 0) };
}

/// Requests SIGKILL for the calling process when the thread that started it ends. Fails if that has
/// ended before the request, in which case the signal would never arrive.
fn die_with_parent(parent: Pid) -> nix::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != parent {
        return Err(Errno::ESRCH);
    }
    Ok(())
}

/// Sets every caught signal to its default action, as exec would, but before signals are unblocked:
/// a handler would run in the host's memory. Ignored signals stay ignored, unless `all` is set. The
/// exceptions are SIGPIPE, which Rust's runtime ignores, and SIGCHLD, without which a program can't
/// wait for its children.
///
/// Pending signals are discarded. They were sent to the host's process group before setsid(2), and
/// would end the child as soon as signals are unblocked. On a kernel before 5.16, a signal that
/// dumps core would also end the host, which shares its memory.
///
/// Some C libraries take a lock in sigaction for SIGABRT, against abort(3). A thread that holds it
/// is about to abort the host, and the child ends with the host.
fn reset_signals(last: c_int, all: bool) -> nix::Result<()> {
    let mut pending = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: sigpending(2) writes one set to the pointer, which is valid for one.
    Errno::result(unsafe { libc::sigpending(pending.as_mut_ptr()) })?;
    // SAFETY: zeroed is a valid set, and the kernel has filled it.
    let pending = unsafe { pending.assume_init() };
    for signal in 1..=last {
        // SAFETY: sigismember reads one set from a live reference.
        let is_pending = unsafe { libc::sigismember(&raw const pending, signal) } == 1;
        // One call for most signals. None of them is delivered meanwhile: all are blocked.
        // It fails for KILL and STOP, and for signals that the C library reserves for its threads.
        let Ok(before) = set_action(signal, libc::SIG_DFL) else { continue };
        let by_default = all || matches!(signal, libc::SIGPIPE | libc::SIGCHLD);
        let stays_ignored = before == libc::SIG_IGN && !by_default;
        if is_pending || stays_ignored {
            // SIG_IGN discards a pending signal (sigaction(2)).
            set_action(signal, libc::SIG_IGN)?;
        }
        if is_pending && !stays_ignored {
            set_action(signal, libc::SIG_DFL)?;
        }
    }
    Ok(())
}

/// Sets the action of a signal to `SIG_IGN` or `SIG_DFL`, and returns the one before.
fn set_action(signal: c_int, action: libc::sighandler_t) -> nix::Result<libc::sighandler_t> {
    // SAFETY: zeroed is a valid sigaction: no flags, and an empty mask.
    let mut new = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
    new.sa_sigaction = action;
    let mut before = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: sigaction(2) reads one sigaction from a live reference, and writes one to a pointer
    // that is valid for it. No handler is installed, and the table of actions is the child's own
    // (no `CLONE_SIGHAND`).
    Errno::result(unsafe { libc::sigaction(signal, &raw const new, before.as_mut_ptr()) })?;
    // SAFETY: zeroed is a valid sigaction, and the kernel has filled it.
    Ok(unsafe { before.assume_init() }.sa_sigaction)
}

/// Starts the child. One that shares this memory has called execve or has failed when this returns.
/// Returns its pidfd (Linux 5.2), which refers to this child however soon that ends.
fn clone(plan: &Plan) -> io::Result<(Pid, Option<OwnedFd>)> {
    let stack = Stack::new()?;
    let blocked = AllBlocked::new()?;
    let shared = match plan.writer {
        None => libc::CLONE_VM | libc::CLONE_VFORK,
        Some(_) => 0,
    };
    let mut pidfd = -1;
    let mut start = |flags: c_int| {
        let flags = flags | shared | libc::SIGCHLD;
        let plan = ptr::from_ref(plan).cast_mut().cast::<c_void>();
        // SAFETY: `run` gets the plan that it expects. Without `CLONE_VM` the child has a copy of it
        // and of the stack. With it, the plan outlives the child's use of this memory, because this
        // thread is suspended until that ends (`CLONE_VFORK`). Until then the child writes only
        // `plan.failure` and `shell_argv`, which are Cells, and the numbers of descriptors, which are
        // atomics. The stack is used by the child alone, and the kernel writes one descriptor to
        // `pidfd`.
        Errno::result(unsafe { libc::clone(run, stack.top(), flags, plan, &raw mut pidfd) })
    };
    let pid = match start(libc::CLONE_PIDFD) {
        // A seccomp filter that refuses the flag. A kernel without the flag ignores it.
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EPERM) => start(0),
        result => result,
    }?;
    drop(blocked);
    // SAFETY: the kernel has just returned this descriptor, close-on-exec; nothing else owns it.
    let pidfd = (pidfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
    Ok((Pid::from_raw(pid), pidfd))
}

/// The entry point of the child.
extern "C" fn run(plan: *mut c_void) -> c_int {
    // SAFETY: `clone` above passes the address of a plan that outlives this function.
    let plan = unsafe { &*plan.cast::<Plan>() };
    let failure = plan.carry_out();
    match &plan.writer {
        None => plan.failure.set(Some(failure)),
        Some(writer) => report::send(writer, failure),
    }
    // SAFETY: _exit ends this process without running exit handlers of the host.
    unsafe { libc::_exit(127) }
}

/// A guard that blocks every signal for this thread.
struct AllBlocked(SigSet);

impl AllBlocked {
    fn new() -> nix::Result<Self> {
        SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK).map(Self)
    }
}

impl Drop for AllBlocked {
    fn drop(&mut self) {
        // Fails only for an invalid operation.
        let _ = self.0.thread_set_mask();
    }
}

/// A stack for the child, with a guard page below it.
struct Stack {
    base: *mut c_void,
    len: usize,
}

impl Stack {
    /// Many times the need of the child, also in a debug build. Untouched pages take no memory.
    const ROOM: usize = 64 * 1024;

    fn new() -> io::Result<Self> {
        let page = sysconf(SysconfVar::PAGE_SIZE)?.and_then(|size| usize::try_from(size).ok());
        let guard = page.ok_or(Errno::EINVAL)?;
        let len = guard + Self::ROOM;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        // SAFETY: a new anonymous mapping at an address that the kernel chooses: no existing
        // mapping is changed.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Self { base, len };
        // SAFETY: all but the first page of the new mapping, which this function owns.
        let result = unsafe {
            let room = base.byte_add(guard);
            libc::mprotect(room, Self::ROOM, libc::PROT_READ | libc::PROT_WRITE)
        };
        Errno::result(result)?;
        Ok(stack)
    }

    /// The start of the stack, which grows down on every architecture of Linux in Rust.
    fn top(&self) -> *mut c_void {
        // SAFETY: one past the end of the mapping.
        unsafe { self.base.byte_add(self.len) }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: a whole mapping that this type owns and that is no longer used: the child has
        // left this memory when clone(2) returns.
        unsafe { libc::munmap(self.base, self.len) };
    }
}
