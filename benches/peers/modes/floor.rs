//! The bare loops that do nothing but the copying: what the kernel allows.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::pty::OpenptyResult;

use super::{raw_stdin, raw_stdout};
use crate::pty::{self, RawMode};
use crate::{Result, process};

/// `@floor-pipe LOG PAUSE`: a pipe of 1 MiB, read, written to one file; and a pause of this many
/// milliseconds after each read that has emptied the pipe, so that the next one takes more.
pub fn pipe(log: &str, pause: &str) -> Result<()> {
    let pause = Duration::from_millis(pause.parse()?);
    let input = raw_stdin()?;
    // Refused for a user with too many large pipes: then the size stays.
    let _ = fcntl(&input, FcntlArg::F_SETPIPE_SZ(1 << 20));
    copy(input, File::create(log)?, None, 256 << 10, pause)
}

/// `@floor-pty LOG CHILD…`: a child on a PTY, its output to one file and to our stdout.
pub fn pty(log: &str, child: &[String]) -> Result<()> {
    let outer = raw_stdin()?;
    let OpenptyResult { master, slave } = pty::open_like(outer.as_fd())?;
    let _raw = RawMode::enter(outer.as_fd())?;
    let mut command = std::process::Command::new(&child[0]);
    command.args(&child[1..]);
    let running = pty::spawn(&mut command, &slave)?;
    drop(slave);
    drop(command); // it holds the slave too
    copy(master.into(), File::create(log)?, Some(raw_stdout()?), 64 << 10, Duration::ZERO)?;
    running.wait_success(Duration::from_secs(60))?;
    process::check_interrupted()
}

fn copy(
    mut from: File,
    mut log: File,
    mut out: Option<File>,
    size: usize,
    pause: Duration,
) -> Result<()> {
    let mut buffer = vec![0; size];
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // A PTY's end, pts(4).
            Err(error) if error.raw_os_error() == Some(nix::libc::EIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        log.write_all(&buffer[..n])?;
        if let Some(out) = &mut out {
            out.write_all(&buffer[..n])?;
        }
        if n < size && !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
}
