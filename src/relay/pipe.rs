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

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use std::io::{PipeReader, PipeWriter, Read, Write, pipe};

    use super::*;

    struct Fixture {
        reader: PipeReader,
        writer: PipeWriter,
        size: Size,
        left: usize,
        taken: usize,
    }

    impl Fixture {
        fn new(left: usize) -> Self {
            let (reader, writer) = pipe().unwrap();
            let size = Size::of(&reader);
            Self { reader, writer, size, left, taken: 0 }
        }

        fn grow(&mut self) {
            let mut allowance = Allowance::new(&mut self.left, &mut self.taken);
            self.size.grow(&self.reader, &mut allowance);
            assert_eq!(platform::capacity(&self.reader).unwrap(), self.size.capacity());
        }

        fn shrink(&mut self) -> bool {
            let mut allowance = Allowance::new(&mut self.left, &mut self.taken);
            let done = self.size.shrink(Some(&self.reader), &mut allowance);
            assert_eq!(platform::capacity(&self.reader).unwrap(), self.size.capacity());
            done
        }
    }

    #[test]
    fn a_pipe_grows_to_a_mebibyte_and_comes_back_and_so_does_the_allowance() {
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
    fn a_pipe_does_not_grow_beyond_the_allowance() {
        let mut pipe = Fixture::new(300 * 1024);
        for _ in 0..5 {
            pipe.grow();
        }
        assert_eq!(pipe.size.capacity(), 4 * USUAL);
        assert_eq!(pipe.taken, 3 * USUAL);
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
    fn what_a_pipe_took_is_given_back_when_it_is_gone() {
        let mut pipe = Fixture::new(2 << 20);
        pipe.grow();
        let mut allowance = Allowance::new(&mut pipe.left, &mut pipe.taken);
        assert!(pipe.size.shrink(None::<&PipeReader>, &mut allowance));
        assert_eq!((pipe.taken, pipe.left), (0, 2 << 20));
    }
}
