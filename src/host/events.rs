//! The events of a host's sandboxes, for a consumer on any thread.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use oneshot::{AsyncReceiver, Sender};

use super::error::HostError;
use super::handle::Handle;
use super::reply::{Reply, block_on};
use super::subscriptions::{Batch, SandboxEvent, SubscriptionId};

/// The events of all sandboxes of a host, in the order in which they happened:
/// [`Handle::events`].
///
/// The queue is the host's and bounded. A consumer never delays the host: when its queue is full, the
/// oldest events are removed, and [`EventsError::Missed`] has their number and comes in their place.
///
/// A future of [`next`](Self::next) that is dropped loses no event. When the host has ended, what
/// was in the queue still comes.
pub struct Events {
    handle: Handle,
    id: SubscriptionId,
    state: State,
    /// Events that are not counted as taken yet.
    missed: u64,
    queue: VecDeque<SandboxEvent>,
}

enum State {
    /// Nothing is asked of the host.
    Idle(AsyncReceiver<Batch>),
    /// The next batch is asked for.
    Asked(Reply<Batch>, AsyncReceiver<Batch>),
    /// The host has ended; what was in the queue is to come.
    Last(AsyncReceiver<Batch>),
    /// Nothing is to come.
    Over,
}

/// Why there is no next event.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventsError {
    /// So many events are missing here, as the consumer was too slow. Further ones follow.
    #[error("{0} events of sandboxes were missed")]
    Missed(u64),
    /// The host has ended. None follows.
    #[error(transparent)]
    Host(HostError),
}

impl Events {
    pub(super) fn new(handle: Handle, id: SubscriptionId) -> (Sender<Batch>, Self) {
        let (last, receiver) = oneshot::async_channel();
        let state = State::Idle(receiver);
        (last, Self { handle, id, state, missed: 0, queue: VecDeque::new() })
    }

    /// The next event.
    ///
    /// # Errors
    ///
    /// Events were missed, or the host has ended.
    pub async fn next(&mut self) -> Result<SandboxEvent, EventsError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Blocks this thread until the next event.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next); [`HostError::OwnThread`] on the thread of the host, if no event is
    /// there.
    pub fn wait(&mut self) -> Result<SandboxEvent, EventsError> {
        let give_up = self.handle.shared().is_own_thread().then(Instant::now);
        let next = block_on(self.next(), give_up);
        next.unwrap_or(Err(EventsError::Host(HostError::OwnThread)))
    }

    /// As [`wait`](Self::wait), for at most this time; `None` if no event has come by then.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    pub fn wait_timeout(&mut self, timeout: Duration) -> Option<Result<SandboxEvent, EventsError>> {
        // An instant beyond the clock's range is never reached.
        let give_up = Instant::now().checked_add(timeout);
        block_on(self.next(), give_up)
    }

    /// The next event, for a stream of the host's.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<SandboxEvent, EventsError>> {
        loop {
            if self.missed > 0 {
                let missed = std::mem::take(&mut self.missed);
                return Poll::Ready(Err(EventsError::Missed(missed)));
            }
            if let Some(event) = self.queue.pop_front() {
                return Poll::Ready(Ok(event));
            }
            match ready!(self.poll_batch(cx)) {
                Some(batch) => {
                    self.missed = batch.missed;
                    self.queue = batch.events;
                }
                None => {
                    return Poll::Ready(Err(EventsError::Host(self.handle.shared().error())));
                }
            }
        }
    }

    /// The next batch; `None` if none follows.
    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Option<Batch>> {
        loop {
            match std::mem::replace(&mut self.state, State::Over) {
                State::Idle(last) => {
                    let id = self.id;
                    let ask =
                        self.handle.ask(move |engine, answer| engine.answer_batch(id, answer));
                    self.state = State::Asked(ask, last);
                }
                State::Asked(mut asked, last) => match Pin::new(&mut asked).poll(cx) {
                    Poll::Pending => {
                        self.state = State::Asked(asked, last);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(batch)) => {
                        self.state = State::Idle(last);
                        return Poll::Ready(Some(batch));
                    }
                    Poll::Ready(Err(_)) => self.state = State::Last(last),
                },
                State::Last(mut last) => match Pin::new(&mut last).poll(cx) {
                    Poll::Pending => {
                        self.state = State::Last(last);
                        return Poll::Pending;
                    }
                    Poll::Ready(batch) => return Poll::Ready(batch.ok()),
                },
                State::Over => return Poll::Ready(None),
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let id = self.id;
        self.handle.tell(move |engine| engine.unsubscribe(id));
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("waiting", &self.queue.len()).finish_non_exhaustive()
    }
}
