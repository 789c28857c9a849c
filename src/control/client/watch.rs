//! Follows the transitions of a sandbox until its end.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Client, ClientError, later};
use crate::control::value::{Fields, Unreadable};
use crate::control::view::WatchEvent;

/// The state of a sandbox and each of its transitions, up to `STOPPED`; see [`Client::watch`].
///
/// As an iterator it blocks until the next event and ends after the final event or an error.
/// Without blocking: take the first event, which is available at once, then poll the descriptor, or
/// call [`next_within`](Self::next_within).
#[derive(Debug)]
pub struct Watch {
    client: Client,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The next event to return, and whether another one may follow.
    Pending {
        event: Box<WatchEvent>,
        continues: bool,
    },
    Waiting,
    Over,
}

impl Watch {
    pub(super) fn begin(mut client: Client, deadline: Instant) -> Result<Self, ClientError> {
        let (event, continues) = read(&mut client, Some(deadline))?;
        Ok(Self { client, state: State::Pending { event: Box::new(event), continues } })
    }

    pub(super) fn asked(client: Client) -> Self {
        Self { client, state: State::Waiting }
    }

    /// Returns the next event, or `None` after the final one. Blocks for at most `timeout`; `None`
    /// means without limit.
    ///
    /// # Errors
    ///
    /// [`ClientError::Timeout`] if there was no event; the call can be repeated. After any other
    /// error the watch has ended.
    pub fn next_within(
        &mut self,
        timeout: Option<Duration>,
    ) -> Result<Option<WatchEvent>, ClientError> {
        let (event, continues) = match std::mem::replace(&mut self.state, State::Over) {
            State::Over => return Ok(None),
            State::Pending { event, continues } => (*event, continues),
            State::Waiting => match read(&mut self.client, timeout.map(later)) {
                Ok(read) => read,
                Err(error) => {
                    if matches!(error, ClientError::Timeout(_)) {
                        self.state = State::Waiting;
                    }
                    return Err(error);
                }
            },
        };
        if continues && !event.is_final() {
            self.state = State::Waiting;
        }
        Ok(Some(event))
    }
}

fn read(client: &mut Client, deadline: Option<Instant>) -> Result<(WatchEvent, bool), ClientError> {
    let reply = client.reply(deadline)?;
    match event(&reply.parameters) {
        Ok(event) => Ok((event, reply.continues)),
        Err(error) => Err(client.unreadable("Watch", &error)),
    }
}

fn event(reply: &Value) -> Result<WatchEvent, Unreadable> {
    WatchEvent::read(Fields::of(reply)?.some("event")?)
}

impl Iterator for Watch {
    type Item = Result<WatchEvent, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_within(None).transpose()
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.client.stream.as_fd()
    }
}
