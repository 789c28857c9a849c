//! How much a pipe holds, and letting it hold more for a while.
//!
//! Linux only (fcntl(2), `F_SETPIPE_SZ`); elsewhere a pipe is as large as it is.

use std::os::fd::AsFd;

use tracing::debug;

use crate::reactor::Allowance;

/// What a pipe holds where the system does not tell (pipe(7)).
const USUAL: usize = 64 * 1024;

/// The most that an unprivileged process may ask for by default (`/proc/sys/fs/pipe-max-size`).
const LARGEST: usize = 1 << 20;

/// The size of one pipe.
#[derive(Debug)]
pub(super) struct Size {
    capacity: usize,
    /// Its size before it grew, and what it took of the allowance since.
    grown: Option<(usize, usize)>,
    /// Somebody said no; asked again only in the next flood.
    refused: bool,
}

impl Size {
    pub(super) fn of(pipe: &impl AsFd) -> Self {
        Self { capacity: platform::capacity(pipe).unwrap_or(USUAL), grown: None, refused: false }
    }

    /// Bytes that it holds.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn has_grown(&self) -> bool {
        self.grown.is_some()
    }

    /// Makes it four times as large, if the allowance and the system let us.
    pub(super) fn grow(&mut self, pipe: &impl AsFd, allowance: &mut Allowance<'_>) {
        let wanted = self.capacity.saturating_mul(4).min(LARGEST);
        if self.refused || wanted <= self.capacity {
            return;
        }
        let more = wanted - self.capacity;
        if !allowance.take(more) {
            self.refused = true;
            return;
        }
        match platform::resize(pipe, wanted) {
            Ok(capacity) => {
                let (before, taken) = self.grown.unwrap_or((self.capacity, 0));
                self.grown = Some((before, taken + more));
                self.capacity = capacity;
            }
            // EPERM: this user has no more pages for pipes (pipe(7)).
            Err(error) => {
                debug!("a pipe can't grow: {error}");
                allowance.give_back(more);
                self.refused = true;
            }
        }
    }

    /// Gives back what it took; says whether that is done. It is not while the pipe holds more
    /// than fits, counted in page slots (`EBUSY`).
    pub(super) fn shrink(
        &mut self,
        pipe: Option<&impl AsFd>,
        allowance: &mut Allowance<'_>,
    ) -> bool {
        self.refused = false;
        let Some((before, taken)) = self.grown else { return true };
        if let Some(pipe) = pipe {
            match platform::resize(pipe, before) {
                Ok(capacity) => self.capacity = capacity,
                Err(_) => return false,
            }
        }
        allowance.give_back(taken);
        self.grown = None;
        true
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod platform {
    use std::io;
    use std::os::fd::AsFd;

    use nix::fcntl::{FcntlArg, fcntl};

    pub(super) fn capacity(pipe: &impl AsFd) -> io::Result<usize> {
        usize::try_from(fcntl(pipe, FcntlArg::F_GETPIPE_SZ)?).map_err(io::Error::other)
    }

    /// The kernel rounds up to pages, and says what it made of it.
    pub(super) fn resize(pipe: &impl AsFd, bytes: usize) -> io::Result<usize> {
        let bytes = libc::c_int::try_from(bytes).map_err(io::Error::other)?;
        usize::try_from(fcntl(pipe, FcntlArg::F_SETPIPE_SZ(bytes))?).map_err(io::Error::other)
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod platform {
    use std::io;
    use std::os::fd::AsFd;

    pub(super) fn capacity(_: &impl AsFd) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn resize(_: &impl AsFd, _: usize) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
