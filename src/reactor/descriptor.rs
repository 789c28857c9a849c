//! A reactor as one descriptor of an outer loop.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use super::{Handler, Reactor};

impl<H: Handler> AsRawFd for Reactor<H> {
    /// As [`as_fd`](AsFd::as_fd).
    fn as_raw_fd(&self) -> RawFd {
        self.poll.registry().as_raw_fd()
    }
}

impl<H: Handler> AsFd for Reactor<H> {
    /// Readable when a turn has something to do. Absent with mio's poll(2) back end, which has no
    /// descriptor.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poll.registry().as_fd()
    }
}
