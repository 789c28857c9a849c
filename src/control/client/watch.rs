//! Following a sandbox to its end.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Client, ClientError, later};
use crate::control::value::{Fields, Unreadable};
use crate::control::view::Event;

/// The state of a sandbox and each of its transitions, up to `STOPPED`; see [`Client::watch`].
///
/// As an iterator it waits for each event, however long that takes, and ends after the final one
/// or an error. Who must not wait uses [`next_within`](Self::next_within), or polls the descriptor
/// once the first event, which is there at once, has been taken.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    state: State,
}

#[derive(Debug)]
enum State {
    /// This event is to be told next, and whether another one may follow.
    Told(Box<Event>, bool),
    Waiting,
    Over,
}

impl Watch {
    pub(super) fn begin(mut client: Client, give_up: Instant) -> Result<Self, ClientError> {
        let (event, continues) = read(&mut client, Some(give_up))?;
        Ok(Self { client, state: State::Told(Box::new(event), continues) })
    }

    /// The next event; `None` after the final one. Waits for that long at most, or for as long as
    /// it takes.
    ///
    /// # Errors
    ///
    /// [`ClientError::Timeout`] when nothing has happened: it may be asked again. Any other error
    /// is the last that is heard.
    pub fn next_within(&mut self, timeout: Option<Duration>) -> Result<Option<Event>, ClientError> {
        let (event, continues) = match std::mem::replace(&mut self.state, State::Over) {
            State::Over => return Ok(None),
            State::Told(event, continues) => (*event, continues),
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

fn read(client: &mut Client, give_up: Option<Instant>) -> Result<(Event, bool), ClientError> {
    let reply = client.reply(give_up)?;
    match event(&reply.parameters) {
        Ok(event) => Ok((event, reply.continues)),
        Err(error) => Err(client.unreadable("Watch", &error)),
    }
}

fn event(reply: &Value) -> Result<Event, Unreadable> {
    Event::read(Fields::of(reply)?.some("event")?)
}

impl Iterator for Watch {
    type Item = Result<Event, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_within(None).transpose()
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.client.stream.as_fd()
    }
}
