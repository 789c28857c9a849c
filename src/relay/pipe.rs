//! The capacity of a pipe, and how it grows for a while.
//!
//! Linux only (fcntl(2), `F_SETPIPE_SZ`); elsewhere the capacity is fixed.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use tracing::debug;

use crate::reactor::Budget;

/// The capacity of a pipe if the system does not report it (pipe(7)).
const USUAL: usize = 64 * 1024;

/// The largest capacity that an unprivileged process gets by default
/// (`/proc/sys/fs/pipe-max-size`).
const LARGEST: usize = 1 << 20;

/// How long no pipe is made larger after a refusal.
const REFUSED: Duration = Duration::from_secs(1);

/// A pipe that has grown.
#[derive(Debug, Clone, Copy)]
struct Grown {
    /// Its own capacity.
    from: usize,
    /// What it took of the budget.
    taken: usize,
}

/// The capacity of one pipe. A process with a descriptor of it may set it too; that value is kept.
#[derive(Debug)]
pub(super) struct Size {
    capacity: usize,
    grown: Option<Grown>,
    refused: Option<Instant>,
}

impl Size {
    pub(super) fn of(pipe: &impl AsFd) -> Self {
        Self { capacity: platform::capacity(pipe).unwrap_or(USUAL), grown: None, refused: None }
    }

    /// The capacity in bytes, as far as it is known.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// The capacity in bytes when it has not grown.
    pub(super) fn usual(&self) -> usize {
        self.grown.map_or(self.capacity, |grown| grown.from)
    }

    pub(super) fn has_grown(&self) -> bool {
        self.grown.is_some()
    }

    /// Makes it four times as large, if the budget and the system allow it.
    pub(super) fn grow(&mut self, pipe: &impl AsFd, budget: &mut Budget<'_>, now: Instant) {
        let waits = |refused| now.saturating_duration_since(refused) < REFUSED;
        if self.capacity >= LARGEST || self.refused.is_some_and(waits) {
            return;
        }
        self.refused = None;
        self.check(pipe, budget);
        let wanted = self.capacity.saturating_mul(4).min(LARGEST);
        let more = wanted.saturating_sub(self.capacity);
        if more == 0 {
            return;
        }
        if !budget.take(more) {
            self.refused = Some(now);
            return;
        }
        match platform::resize(pipe, wanted) {
            Ok(capacity) => {
                let Grown { from, taken } =
                    self.grown.unwrap_or(Grown { from: self.capacity, taken: 0 });
                self.grown = Some(Grown { from, taken: taken + more });
                self.capacity = capacity;
            }
            // EPERM: this user has no more pages for pipes (pipe(7)).
            Err(error) => {
                debug!("a pipe can't grow: {error}");
                budget.give_back(more);
                self.refused = Some(now);
            }
        }
    }

    /// Gives back what it took; returns whether that is done. It is not while the pipe holds more
    /// than fits, counted in page slots (`EBUSY`).
    pub(super) fn shrink(&mut self, pipe: Option<&impl AsFd>, budget: &mut Budget<'_>) -> bool {
        if let Some(pipe) = pipe {
            self.check(pipe, budget);
        }
        let Some(Grown { from, taken }) = self.grown else { return true };
        if let Some(pipe) = pipe {
            match platform::resize(pipe, from) {
                Ok(capacity) => self.capacity = capacity,
                Err(_) => return false,
            }
        }
        budget.give_back(taken);
        self.grown = None;
        true
    }

    /// Checks whether another process has set the size since.
    fn check(&mut self, pipe: &impl AsFd, budget: &mut Budget<'_>) {
        let Ok(found) = platform::capacity(pipe) else { return };
        if found != self.capacity {
            self.capacity = found;
            if let Some(grown) = self.grown.take() {
                budget.give_back(grown.taken);
            }
        }
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

    /// The kernel rounds up to pages; returns the resulting capacity.
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

#[cfg(test)]
#[cfg(any(target_os = "linux", target_os = "android"))]
mod tests {
    use std::io::{PipeReader, PipeWriter, Read, Write, pipe};

    use super::*;

    struct Fixture {
        reader: PipeReader,
        writer: PipeWriter,
        size: Size,
        left: usize,
        taken: usize,
        now: Instant,
    }

    impl Fixture {
        fn new(left: usize) -> Self {
            let (reader, writer) = pipe().unwrap();
            let size = Size::of(&reader);
            Self { reader, writer, size, left, taken: 0, now: Instant::now() }
        }

        fn grow(&mut self) {
            let mut budget = Budget::new(&mut self.left, &mut self.taken);
            self.size.grow(&self.reader, &mut budget, self.now);
            assert_eq!(platform::capacity(&self.reader).unwrap(), self.size.capacity());
        }

        fn shrink(&mut self) -> bool {
            let mut budget = Budget::new(&mut self.left, &mut self.taken);
            let done = self.size.shrink(Some(&self.reader), &mut budget);
            assert_eq!(platform::capacity(&self.reader).unwrap(), self.size.capacity());
            done
        }
    }

    #[test]
    fn a_pipe_grows_to_a_mebibyte_and_comes_back_and_so_does_the_budget() {
        let mut pipe = Fixture::new(2 << 20);
        let usual = pipe.size.capacity();
        for _ in 0..5 {
            pipe.grow();
        }
        assert_eq!(pipe.size.capacity(), LARGEST);
        assert_eq!(pipe.taken, LARGEST - usual);
        assert!(pipe.shrink());
        assert_eq!((pipe.size.capacity(), pipe.taken, pipe.left), (usual, 0, 2 << 20));
        assert!(!pipe.size.has_grown());
    }

    #[test]
    fn a_pipe_does_not_grow_beyond_the_budget() {
        let mut pipe = Fixture::new(300 * 1024);
        for _ in 0..5 {
            pipe.grow();
        }
        assert_eq!(pipe.size.capacity(), 4 * USUAL);
        assert_eq!(pipe.taken, 3 * USUAL);
        // With more budget it grows again, but not at once.
        pipe.left = 1 << 20;
        pipe.grow();
        assert_eq!(pipe.size.capacity(), 4 * USUAL);
        pipe.now += REFUSED;
        pipe.grow();
        assert_eq!(pipe.size.capacity(), LARGEST);
    }

    #[test]
    fn a_pipe_whose_size_another_process_has_set_keeps_it() {
        let mut pipe = Fixture::new(2 << 20);
        pipe.grow();
        let theirs = platform::resize(&pipe.writer, 8 * USUAL).unwrap();
        assert!(pipe.shrink());
        assert_eq!((pipe.size.capacity(), pipe.taken, pipe.left), (theirs, 0, 2 << 20));
        pipe.grow();
        assert_eq!(pipe.size.capacity(), LARGEST);
        assert!(pipe.shrink());
        assert_eq!(pipe.size.capacity(), theirs);
    }

    #[test]
    fn a_pipe_that_holds_too_much_goes_back_later_and_loses_nothing() {
        let mut pipe = Fixture::new(2 << 20);
        pipe.grow();
        let bytes = vec![b'x'; 2 * USUAL];
        pipe.writer.write_all(&bytes).unwrap();
        assert!(!pipe.shrink());
        assert!(pipe.size.has_grown());
        let mut read = vec![0; 2 * USUAL];
        pipe.reader.read_exact(&mut read).unwrap();
        assert_eq!(read, bytes);
        assert!(pipe.shrink());
    }

    #[test]
    fn the_budget_of_a_pipe_is_given_back_when_it_is_dropped() {
        let mut pipe = Fixture::new(2 << 20);
        pipe.grow();
        let mut budget = Budget::new(&mut pipe.left, &mut pipe.taken);
        assert!(pipe.size.shrink(None::<&PipeReader>, &mut budget));
        assert_eq!((pipe.taken, pipe.left), (0, 2 << 20));
    }
}
