//! The children that do little: `@echo`, `@idle`, `@phases`.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::pause;

use super::{raw_stdin, raw_stdout};
use crate::Result;
use crate::pattern::{Block, Flood};

/// The environment variable that names the FIFO in which a child reports its start.
pub const READY: &str = "VMON_BENCH_READY";

/// What `@echo` prints when it reads.
pub const LISTENING: &[u8] = b"LISTENING";

/// What `@phases` writes each second.
pub const LINE: &[u8] = b"one line a second, of sixty-four bytes, as a quiet guest writes it\n";

/// Writes back each byte, on a raw terminal, until there are no more.
pub fn echo() -> Result<()> {
    let (mut input, mut output) = (raw_stdin()?, raw_stdout()?);
    if let Ok(mut modes) = tcgetattr(input.as_fd()) {
        cfmakeraw(&mut modes);
        tcsetattr(input.as_fd(), SetArg::TCSANOW, &modes)?;
    }
    output.write_all(LISTENING)?;
    let mut byte = [0; 1];
    while let Ok(1) = input.read(&mut byte) {
        output.write_all(&byte)?;
    }
    Ok(())
}

/// Does nothing, until it is killed.
pub fn idle() -> Result<()> {
    say_ready()?;
    loop {
        pause();
    }
}

/// Does nothing, until USR1: then a line a second, until USR2: then a flood without end.
pub fn phases() -> Result<()> {
    let wanted: SigSet = [Signal::SIGUSR1, Signal::SIGUSR2].into_iter().collect();
    wanted.thread_block()?;
    say_ready()?;
    let mut output = raw_stdout()?;
    while wanted.wait()? != Signal::SIGUSR1 {}
    // Not all at once, as independent children.
    let mut wait = Duration::from_millis(u64::from(std::process::id()) * 37 % 1000);
    while !came_within(&wanted, wait)? {
        output.write_all(LINE)?;
        wait = Duration::from_secs(1);
    }
    let mut block = Block::first(&Flood::endless());
    loop {
        output.write_all(block.bytes())?;
        block.advance();
    }
}

fn say_ready() -> Result<()> {
    if let Some(fifo) = std::env::var_os(READY) {
        OpenOptions::new().write(true).open(fifo)?.write_all(b".")?;
    }
    Ok(())
}

/// Whether one of the blocked signals comes within this time: sigtimedwait(2) by a signalfd,
/// for which nix has a wrapper.
fn came_within(signals: &SigSet, time: Duration) -> Result<bool> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sys::signalfd::{SfdFlags, SignalFd};
    let fd = SignalFd::with_flags(signals, SfdFlags::SFD_CLOEXEC)?;
    let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
