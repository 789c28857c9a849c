//! An engine as one descriptor of an outer loop.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use super::Engine;

impl AsFd for Engine {
    /// Readable when a turn has something to do. Absent with mio's poll(2) back end, which has no
    /// descriptor.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reactor.as_fd()
    }
}

impl AsRawFd for Engine {
    /// As [`as_fd`](AsFd::as_fd).
    fn as_raw_fd(&self) -> RawFd {
        self.reactor.as_raw_fd()
    }
}
