//! The user's side of a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::stat::Mode;
use nix::sys::termios::{Termios, cfmakeraw, tcgetattr};
use nix::unistd::Pid;

use super::{TIMEOUT, code, contains, eventually, wait};

/// A terminal with a program in it: the user's side of a PTY.
pub struct Terminal {
    master: File,
    pub child: Child,
    /// Everything that has appeared on the screen.
    pub seen: Vec<u8>,
    searched: usize,
}

impl Terminal {
    /// Runs `command` as the session leader of a new terminal of 40 rows and 100 columns.
    pub fn spawn(command: &mut Command) -> Self {
        Self::spawn_on(command, |_| {})
    }

    /// The same on a terminal that `prepare` has set up, through its master.
    pub fn spawn_on(command: &mut Command, prepare: impl FnOnce(&File)) -> Self {
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let slave = open(ptsname_r(&master).unwrap().as_str(), flags, Mode::empty()).unwrap();
        let master = File::from(OwnedFd::from(master));
        set_size(&master, 40, 100);
        prepare(&master);
        command.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap()).stderr(slave);
        // SAFETY: setsid, ioctl and signal are async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                // As at a login, whoever has started these tests: a background job of a shell
                // ignores them, and vmon heeds that.
                libc::signal(libc::SIGINT, libc::SIG_DFL);
                libc::signal(libc::SIGQUIT, libc::SIG_DFL);
                nix::errno::Errno::result(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        // The command holds the slave's descriptors; an end can only be seen without them.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { master, child, seen: Vec::new(), searched: 0 }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.master.write_all(bytes.as_ref()).unwrap();
    }

    /// Waits until this appears on the screen, after what was waited for before.
    #[track_caller]
    pub fn wait_for(&mut self, text: impl AsRef<[u8]>) {
        let text = text.as_ref();
        let give_up = Instant::now() + TIMEOUT;
        loop {
            let new = &self.seen[self.searched..];
            if let Some(at) = new.windows(text.len()).position(|window| window == text) {
                self.searched += at + text.len();
                return;
            }
            assert!(
                self.read_some(give_up),
                "{:?} never appeared; the screen: {:?}",
                String::from_utf8_lossy(text),
                String::from_utf8_lossy(&self.seen)
            );
        }
    }

    /// Whether anything came before the end of the terminal.
    fn read_some(&mut self, give_up: Instant) -> bool {
        let left = give_up.saturating_duration_since(Instant::now()).as_millis();
        let timeout = PollTimeout::try_from(left).unwrap();
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, timeout).unwrap_or(0) == 0 {
            return false;
        }
        let mut buffer = [0; 65536];
        match self.master.read(&mut buffer) {
            Ok(count @ 1..) => {
                self.seen.extend_from_slice(&buffer[..count]);
                true
            }
            _ => false,
        }
    }

    /// Waits until this has appeared, or the program has ended, or so long; whether it has appeared.
    pub fn is_shown(&mut self, text: &str, bound: Duration) -> bool {
        let give_up = Instant::now() + bound;
        loop {
            let ended = self.child.try_wait().unwrap().is_some();
            let more = self.read_some(Instant::now() + Duration::from_millis(20));
            let shown = contains(&self.seen, text.as_bytes());
            if shown || (ended && !more) || Instant::now() > give_up {
                return shown;
            }
        }
    }

    /// What has appeared until now, and until the end if the program has ended.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.read_some(Instant::now()) {}
        std::mem::take(&mut self.seen)
    }

    /// Reads to the end of the terminal and gives the program's exit code.
    #[track_caller]
    pub fn finish(&mut self) -> i32 {
        let give_up = Instant::now() + TIMEOUT;
        while self.read_some(give_up) {}
        code(wait(&mut self.child))
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        set_size(&self.master, rows, columns);
    }

    /// The terminal's name.
    pub fn path(&self) -> String {
        let mut number: libc::c_uint = 0;
        // SAFETY: TIOCGPTN writes one unsigned int to the pointer.
        let result = unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCGPTN, &mut number) };
        assert_eq!(result, 0);
        format!("/dev/pts/{number}")
    }

    /// The slave side of the terminal, opened again.
    pub fn slave(&self) -> File {
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        open(self.path().as_str(), flags, Mode::empty()).unwrap().into()
    }

    /// The process group in the foreground.
    pub fn foreground(&self) -> Pid {
        nix::unistd::tcgetpgrp(&self.master).unwrap()
    }

    /// Closes the user's side: the terminal is gone.
    pub fn hang_up(&mut self) {
        self.master = File::open("/dev/null").unwrap();
    }

    /// Waits until the terminal has these modes.
    #[track_caller]
    pub fn wait_for_modes(&self, modes: &Termios) {
        eventually("the terminal's modes", || self.modes() == *modes);
    }

    /// The terminal's modes now.
    pub fn modes(&self) -> Termios {
        tcgetattr(&self.master).unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// These modes, made raw.
pub fn raw(modes: &Termios) -> Termios {
    let mut raw = modes.clone();
    cfmakeraw(&mut raw);
    raw
}

/// The window size of a terminal, through either side.
pub fn size(terminal: &File) -> Winsize {
    let mut size = Winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize to a live exclusive reference.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &mut size) };
    assert_eq!(result, 0);
    size
}

pub fn set_size(master: &File, rows: u16, columns: u16) {
    set_window(master, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 });
}

pub fn set_window(master: &File, size: Winsize) {
    // SAFETY: TIOCSWINSZ reads one winsize from a live reference.
    let result = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &size) };
    assert_eq!(result, 0);
}
