//! What comes of a request: a future, with a blocking twin.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use oneshot::{AsyncReceiver, Sender};

use super::error::HostError;
use super::shared::Shared;

/// Sends what comes of a request.
pub(super) type Answer<T> = Sender<Result<T, HostError>>;

/// What comes of a request. A future of any executor, which needs no runtime; [`wait`](Self::wait)
/// blocks instead.
///
/// The request does not depend on it: dropped, it cancels nothing, and its result is discarded.
#[must_use = "the request is made in any case, but its result is in the reply"]
pub struct Reply<T> {
    receiver: AsyncReceiver<Result<T, HostError>>,
    shared: Arc<Shared>,
}

impl<T> Reply<T> {
    /// A reply, and what it is sent with.
    pub(super) fn new(shared: &Arc<Shared>) -> (Answer<T>, Self) {
        let (answer, receiver) = oneshot::async_channel();
        (answer, Self { receiver, shared: shared.clone() })
    }

    /// Blocks this thread until the reply is there. Not for the thread that turns a bare
    /// [`Engine`](super::Engine): it would wait for itself.
    ///
    /// # Errors
    ///
    /// The request can't be met, or the host has ended. [`HostError::OwnThread`] on the thread of
    /// the [`Host`](super::Host), as in an observer, if the reply is not there yet.
    pub fn wait(self) -> Result<T, HostError> {
        let give_up = self.shared.is_own_thread().then(Instant::now);
        self.wait_until(give_up).unwrap_or(Err(HostError::OwnThread))
    }

    /// As [`wait`](Self::wait), for at most this time.
    ///
    /// # Errors
    ///
    /// The reply, which is not there yet.
    pub fn wait_timeout(self, timeout: Duration) -> Result<Result<T, HostError>, Self> {
        // An instant beyond the clock's range is never reached.
        self.wait_until(Instant::now().checked_add(timeout))
    }

    /// The result if it is there.
    ///
    /// # Errors
    ///
    /// The reply, which is not there yet.
    pub fn try_take(self) -> Result<Result<T, HostError>, Self> {
        self.wait_until(Some(Instant::now()))
    }

    fn wait_until(mut self, give_up: Option<Instant>) -> Result<Result<T, HostError>, Self> {
        match block_on(&mut self, give_up) {
            Some(result) => Ok(result),
            None => Err(self),
        }
    }
}

impl<T> Future for Reply<T> {
    type Output = Result<T, HostError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let received = Pin::new(&mut self.receiver).poll(cx);
        received.map(|received| received.unwrap_or_else(|_| Err(self.shared.error())))
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("is_there", &self.receiver.has_message()).finish()
    }
}

/// Unparks a thread that waits for a future.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Blocks this thread until the future is ready; `None` if it is not by then.
pub(super) fn block_on<F: Future>(future: F, give_up: Option<Instant>) -> Option<F::Output> {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return Some(output);
        }
        match give_up {
            None => thread::park(),
            Some(at) => match at.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return None,
                left => thread::park_timeout(left),
            },
        }
    }
}
