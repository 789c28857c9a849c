//! The engine that has started this program, at the other end of three inherited pipes or sockets.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::write;
use tracing::debug;

use crate::failure::Failure;
use crate::message::{self, Key};
use crate::process::Inherited;

/// The most bytes of one read of the start pipe. What they are does not matter.
const START: usize = 8192;

/// The descriptor that an environment variable names, close-on-exec from now on; `None` without the
/// variable.
///
/// # Errors
///
/// The variable is no number, or no open descriptor.
fn descriptor(variable: &str, inherited: &mut Inherited) -> Result<Option<OwnedFd>, Failure> {
    let Some(value) = std::env::var_os(variable) else { return Ok(None) };
    let invalid = || Failure::new(format!("unable to parse {variable}: {}", value.display()));
    let number: i32 = value.to_str().and_then(|text| text.parse().ok()).ok_or_else(invalid)?;
    let closed = || Failure::new(format!("{variable}: descriptor {number} is not open"));
    let descriptor = match number {
        // Shared with this process's own streams, which are given up soon.
        0 => io::stdin().as_fd().try_clone_to_owned().ok(),
        1 => io::stdout().as_fd().try_clone_to_owned().ok(),
        2 => io::stderr().as_fd().try_clone_to_owned().ok(),
        _ => inherited.take(number),
    };
    let descriptor = descriptor.ok_or_else(closed)?;
    fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
        .map_err(Failure::of(format!("can't use {variable}")))?;
    Ok(Some(descriptor))
}

/// The pipe on which the engine allows the start.
#[derive(Debug)]
pub struct StartPipe(OwnedFd);

impl StartPipe {
    /// `_OCI_STARTPIPE`; `None` without it, and for 0.
    ///
    /// # Errors
    ///
    /// It is no number, or no open descriptor.
    pub fn from_environment(inherited: &mut Inherited) -> Result<Option<Self>, Failure> {
        const VARIABLE: &str = "_OCI_STARTPIPE";
        if std::env::var_os(VARIABLE).is_some_and(|value| value == "0") {
            return Ok(None);
        }
        Ok(descriptor(VARIABLE, inherited)?.map(Self))
    }

    /// Waits for the engine: one read. Any bytes, and an end of file, are its word.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn wait(&self) -> io::Result<()> {
        let mut bytes = [0; START];
        loop {
            match nix::unistd::read(&self.0, &mut bytes) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for StartPipe {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The pipes for reports to the engine.
#[derive(Debug)]
pub struct Engine {
    key: Key,
    sync: Option<OwnedFd>,
    attach: Option<OwnedFd>,
}

impl Engine {
    /// `_OCI_SYNCPIPE`, without which nothing is reported, and with `attach` `_OCI_ATTACHPIPE`.
    ///
    /// # Errors
    ///
    /// One of them is no number or no open descriptor, or there is no attach pipe.
    pub fn from_environment(
        key: Key,
        attach: bool,
        inherited: &mut Inherited,
    ) -> Result<Self, Failure> {
        let sync = descriptor("_OCI_SYNCPIPE", inherited)?;
        let missing = "--attach specified but _OCI_ATTACHPIPE was not";
        let attach = match attach {
            true => match descriptor("_OCI_ATTACHPIPE", inherited)? {
                Some(pipe) => Some(pipe),
                None => return Err(Failure::new(missing)),
            },
            false => None,
        };
        Ok(Self { key, sync, attach })
    }

    /// Reports a number, and a text unless it is empty.
    ///
    /// # Errors
    ///
    /// The system's. An engine that has gone is none.
    pub fn report(&mut self, number: i32, text: &[u8]) -> Result<(), Failure> {
        send(&mut self.sync, self.key, number, text)
    }

    /// Allows the caller to attach.
    ///
    /// # Errors
    ///
    /// As [`report`](Self::report).
    pub fn report_attachable(&mut self) -> Result<(), Failure> {
        send(&mut self.attach, self.key, 0, b"")
    }
}

/// Sends a message in one write: the other end may be a socket of packets. A pipe whose reader has
/// gone is closed.
fn send(pipe: &mut Option<OwnedFd>, key: Key, number: i32, text: &[u8]) -> Result<(), Failure> {
    let Some(open) = pipe else { return Ok(()) };
    let line = message::line(key, number, text);
    loop {
        match write(&*open, &line) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(Errno::EPIPE) => {
                debug!("the engine does not wait for a report any more");
                *pipe = None;
                return Ok(());
            }
            Err(error) => return Err(Failure::of("can't report to the engine")(error)),
        }
    }
}
