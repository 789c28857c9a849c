//! Which error each system call is given.

/// The calls that are made to fail, and with what. `fcntl` and `ioctl` are told apart by their
/// operation, `read` and `write` by what their descriptor is.
///
/// An error that the kernel never returns for a call, or not while there is something to read, is left
/// out. So is EIO of a terminal: it is a hang-up, of which SIGHUP is a part (`tests/terminal`).
const ERRORS: &[(&str, &[&str])] = &[
    ("accept4", &["EINTR", "EMFILE", "ENOMEM", "EPERM"]),
    ("access", &["EIO", "ENOMEM"]),
    ("bind", &["EIO", "ENOSPC", "ENOMEM", "EPERM"]),
    ("chdir", &["EIO", "ENOMEM", "EPERM"]),
    ("chmod", &["EIO", "ENOSPC", "ENOMEM", "EPERM"]),
    ("clone", &["EAGAIN", "ENOMEM", "EPERM"]),
    ("clone3", &["EAGAIN", "ENOMEM", "EPERM"]),
    ("close_range", &["EMFILE", "ENOMEM"]),
    // EAGAIN comes at the end of the send timeout (unix(7)): the client has waited.
    ("connect", &["EINTR", "EPERM"]),
    ("dup", &["EMFILE"]),
    ("dup2", &["EINTR", "EMFILE"]),
    ("dup3", &["EINTR", "EMFILE"]),
    ("epoll_create1", &["EMFILE", "ENOMEM"]),
    ("epoll_ctl EPOLL_CTL_ADD", &["ENOMEM", "ENOSPC"]),
    ("epoll_wait", &["EINTR"]),
    ("eventfd2", &["EMFILE", "ENOMEM"]),
    ("execve", &["EIO", "EMFILE", "ENOMEM", "EPERM"]),
    ("faccessat2", &["EIO", "ENOMEM"]),
    ("fallocate", &["EINTR", "EIO", "ENOSPC", "EPERM"]),
    ("fchmod", &["EIO", "ENOSPC", "EPERM"]),
    ("fchmodat", &["EIO", "ENOSPC", "ENOMEM", "EPERM"]),
    ("fchown", &["EIO", "ENOSPC", "EPERM"]),
    ("fcntl F_DUPFD", &["EMFILE"]),
    ("fcntl F_DUPFD_CLOEXEC", &["EMFILE"]),
    ("fcntl F_GETLK", &["EAGAIN", "EIO", "ENOMEM"]),
    ("fcntl F_OFD_GETLK", &["EIO", "ENOMEM"]),
    ("fcntl F_OFD_SETLK", &["EAGAIN", "EIO", "ENOMEM"]),
    ("fcntl F_SETFL", &["EPERM"]),
    ("fcntl F_SETLK", &["EINTR", "EAGAIN", "EIO", "ENOMEM"]),
    ("fcntl F_SETPIPE_SZ", &["ENOMEM", "EPERM"]),
    ("fdatasync", &["EINTR", "EIO", "ENOSPC"]),
    ("flock", &["EINTR", "EAGAIN", "ENOMEM"]),
    ("fsync", &["EINTR", "EIO", "ENOSPC"]),
    ("ftruncate", &["EINTR", "EIO", "ENOSPC", "EPERM"]),
    ("getcwd", &["ENOMEM"]),
    ("getdents64", &["EIO", "ENOMEM"]),
    ("inotify_add_watch", &["ENOMEM", "ENOSPC"]),
    ("inotify_init1", &["EMFILE", "ENOMEM"]),
    ("ioctl FIONREAD", &["EIO"]),
    ("ioctl TIOCGPTN", &["EIO"]),
    ("ioctl TIOCGPTPEER", &["EIO", "EMFILE", "ENOMEM", "EPERM"]),
    ("ioctl TIOCGWINSZ", &["EIO"]),
    ("ioctl TIOCSCTTY", &["EIO", "EPERM"]),
    ("ioctl TIOCSPTLCK", &["EIO", "EPERM"]),
    ("ioctl TIOCSWINSZ", &["EIO"]),
    ("ioprio_set", &["EPERM"]),
    ("kill", &["EPERM"]),
    ("linkat", &["EIO", "ENOSPC", "ENOMEM", "EPERM"]),
    ("listen", &["ENOMEM"]),
    ("mkdir", &["EIO", "ENOSPC", "ENOMEM", "EPERM"]),
    ("mkdirat", &["EIO", "ENOSPC", "ENOMEM", "EPERM"]),
    ("mmap file", &["EAGAIN", "ENOMEM", "EPERM"]),
    ("newfstatat", &["EIO", "ENOMEM", "EPERM"]),
    ("openat", &["EINTR", "EIO", "ENOSPC", "EMFILE", "ENOMEM", "EPERM"]),
    ("pidfd_open", &["EMFILE", "ENOMEM"]),
    ("pidfd_send_signal", &["EPERM"]),
    ("pipe2", &["EMFILE", "ENOMEM"]),
    ("poll", &["EINTR", "ENOMEM"]),
    ("ppoll", &["EINTR", "ENOMEM"]),
    ("prctl", &["EPERM"]),
    ("pread64", &["EINTR", "EIO", "ENOMEM"]),
    ("prlimit64", &["EPERM"]),
    ("pwrite64", &["EINTR", "EIO", "ENOSPC"]),
    ("pwritev", &["EINTR", "EIO", "ENOSPC"]),
    ("read file", &["EINTR", "EIO", "ENOMEM"]),
    ("read pipe", &["EINTR"]),
    ("read socket", &["EINTR", "ENOMEM"]),
    ("read tty", &["EINTR"]),
    ("readlink", &["EIO", "ENOMEM"]),
    ("readlinkat", &["EIO", "ENOMEM"]),
    ("recvfrom", &["EINTR"]),
    ("recvmsg", &["EINTR", "ENOMEM"]),
    ("renameat", &["EIO", "ENOSPC", "ENOMEM", "EPERM"]),
    ("renameat2", &["EIO", "ENOSPC", "ENOMEM", "EPERM"]),
    ("rename", &["EIO", "ENOSPC", "ENOMEM", "EPERM"]),
    ("rmdir", &["EIO", "ENOMEM", "EPERM"]),
    ("sendmsg", &["EINTR", "EAGAIN", "ENOMEM"]),
    ("sendto", &["EINTR", "EAGAIN", "ENOMEM"]),
    ("setpgid", &["EPERM"]),
    ("setpriority", &["EPERM"]),
    ("setsid", &["EPERM"]),
    ("setsockopt", &["ENOMEM", "EPERM"]),
    ("socket", &["EMFILE", "ENOMEM", "EPERM"]),
    ("socketpair", &["EMFILE", "ENOMEM"]),
    ("statx", &["EIO", "ENOMEM", "EPERM"]),
    ("symlinkat", &["EIO", "ENOSPC", "ENOMEM", "EPERM"]),
    ("unlink", &["EIO", "ENOMEM", "EPERM"]),
    ("unlinkat", &["EIO", "ENOMEM", "EPERM"]),
    ("write file", &["EINTR", "EIO", "ENOSPC"]),
    ("write pipe", &["EINTR", "EAGAIN", "ENOMEM"]),
    ("write socket", &["EINTR", "EAGAIN", "ENOMEM"]),
    ("write tty", &["EINTR", "EAGAIN"]),
];

/// Calls that never fail, whose failure ends a Rust program, or of which strace would do something
/// that no kernel does.
const LEFT_OUT: &[&str] = &[
    // The kernel closes the descriptor whatever it returns. With an injected error it stays open.
    "close",
    // Without memory, or a stack for its signals, a Rust program aborts.
    "brk",
    "madvise",
    "mmap memory",
    "mprotect",
    "mremap",
    "munmap",
    "sigaltstack",
    // Without an error, or with none but that of a wrong argument.
    "clock_gettime",
    "clock_nanosleep",
    "epoll_ctl EPOLL_CTL_DEL",
    "epoll_ctl EPOLL_CTL_MOD",
    "exit_group",
    "fcntl F_GETFD",
    "fcntl F_GETFL",
    "fcntl F_GETPIPE_SZ",
    "fcntl F_SETFD",
    "futex",
    "getegid",
    "geteuid",
    "getgid",
    "getgroups",
    "getpgid",
    "getpgrp",
    "getpid",
    "getppid",
    "getrandom",
    "getsid",
    "getsockname",
    "getsockopt",
    "gettid",
    "getuid",
    "ioctl FIONBIO",
    "ioctl TCGETS",
    "ioctl TCSETS",
    "ioctl TIOCGPGRP",
    "lseek",
    "restart_syscall",
    "rt_sigaction",
    "rt_sigpending",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_getaffinity",
    "sched_yield",
    "shutdown",
    // To itself, a signal that waits in no queue.
    "tgkill",
    "umask",
    "uname",
    "vfork",
    // All of them with WNOHANG: they do not sleep, so no signal interrupts them.
    "wait4",
    "waitid",
];

/// The errors of any other call.
const OTHERS: &[&str] = &["EIO", "ENOMEM", "EPERM"];

/// The errors that a call is given.
pub fn of(call: &str) -> &'static [&'static str] {
    if LEFT_OUT.contains(&call) {
        return &[];
    }
    ERRORS.iter().find(|(name, _)| *name == call).map_or(OTHERS, |(_, errors)| *errors)
}

/// Conditions that may last: no descriptor, no room, a broken disk. Not of calls by which something
/// is said, or a signal reaches the loop.
const LASTING: &[(&str, &[&str])] = &[
    ("accept4", &["EMFILE"]),
    ("fcntl F_SETLK", &["EIO"]),
    ("fsync", &["EIO"]),
    ("ftruncate", &["EIO", "ENOSPC"]),
    ("linkat", &["ENOSPC"]),
    ("mkdir", &["ENOSPC"]),
    ("mkdirat", &["ENOSPC"]),
    ("openat", &["EMFILE", "ENOSPC"]),
    ("pipe2", &["EMFILE"]),
    ("pread64", &["EIO"]),
    ("pwrite64", &["EIO", "ENOSPC"]),
    ("renameat2", &["EIO", "ENOSPC"]),
    ("socket", &["EMFILE"]),
    ("unlinkat", &["EIO"]),
];

/// The errors of a call from some time on.
pub fn lasting(call: &str) -> &'static [&'static str] {
    LASTING.iter().find(|(name, _)| *name == call).map_or(&[], |(_, errors)| *errors)
}
