//! The connection of a console: tried until the peer is there, open, closed, tried again, drained.

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::backend::ConsoleBackend;
use crate::monitor::channel::backend::{Opened, Peer};
use crate::monitor::console_report::{ConsoleReport, ConsoleState};
use crate::monitor::keys::{ChannelId, Cx, Source, Timer};
use crate::monitor::name::Name;
use crate::reactor::{Interest, SourceId, TimerId};

/// The delay between two attempts, at first and at most.
const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

/// A console that has been open for this time is tried again after the first delay.
const GOOD: Duration = Duration::from_secs(1);

/// How many peers in the listen queue are served at the limit of the drain, which others may extend
/// without end.
const LAST_PEERS: u32 = 256;

/// The state of the connection.
#[derive(Debug)]
enum State {
    /// The next attempt is made when the timer expires.
    Waiting(TimerId),
    /// A peer has to connect.
    Listening,
    Open {
        since: Instant,
        /// While this timer runs, peers that connect wait in the listen queue.
        pause: Option<TimerId>,
    },
    /// No further attempt is made.
    Gone,
}

/// Whether the child runs, which every attempt depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Running {
        child: u32,
    },
    /// Bytes that have arrived are read to the end, those of peers in the listen queue included.
    Draining {
        child: u32,
        /// How many peers of the queue are still taken; without a limit before that of the drain.
        peers: Option<u32>,
    },
    Over,
}

/// The connection of one console.
#[derive(Debug)]
pub(super) struct Link {
    id: ChannelId,
    name: Name,
    backend: ConsoleBackend,
    /// The registered listening socket.
    listener: Option<SourceId>,
    life: Life,
    state: State,
    delay: Duration,
    opened: u32,
    /// Whether the failure of the last attempts has been reported.
    reported: bool,
}

impl Link {
    pub(super) fn new(id: ChannelId, name: Name, backend: ConsoleBackend) -> Self {
        Self {
            id,
            name,
            backend,
            listener: None,
            life: Life::Over,
            state: State::Gone,
            delay: FIRST,
            opened: 0,
            reported: false,
        }
    }

    /// The peer is not there.
    fn not_there(&mut self, cx: &mut Cx<'_>) {
        match (self.life, self.backend.listener()) {
            (Life::Draining { .. } | Life::Over, _) => self.gone(cx),
            (Life::Running { .. }, None) => self.wait(cx),
            (Life::Running { .. }, Some(_)) => match self.watch_listener(cx) {
                Some(listener) => {
                    cx.sources.would_block(listener, Interest::READ);
                    self.state = State::Listening;
                }
                None => self.wait(cx),
            },
        }
    }

    /// Waits for a peer at the listening socket; `None` if there is none, or no room in the poller.
    fn watch_listener(&mut self, cx: &mut Cx<'_>) -> Option<SourceId> {
        if self.listener.is_none() {
            let fd = self.backend.listener()?;
            let key = Source::Listener(self.id).key();
            self.listener = cx.sources.register(&fd, Interest::READ, key).ok();
        }
        // A change of the wish to read needs no system call, so this can't fail.
        let _ = cx.sources.want(self.listener?, Interest::READ);
        self.listener
    }

    /// Leaves the listening socket alone for a while: peers that connect one after the other must
    /// not keep the loop busy.
    fn pause_while_open(&mut self, cx: &mut Cx<'_>) {
        self.pause_listener(cx);
        if let State::Open { pause, .. } = &mut self.state
            && self.backend.listener().is_some()
        {
            *pause = Some(cx.timers.set(FIRST, Timer::Connect(self.id).key()));
        }
    }

    /// Tries again after a delay, which doubles each time, if the peer may appear again.
    fn wait(&mut self, cx: &mut Cx<'_>) {
        let Life::Running { .. } = self.life else { return self.gone(cx) };
        if !self.backend.reopens() {
            return self.gone(cx);
        }
        self.pause_listener(cx);
        self.state = State::Waiting(cx.timers.set(self.delay, Timer::Connect(self.id).key()));
        self.delay = (self.delay * 2).min(LONGEST);
        if self.delay == LONGEST && self.opened == 0 && !self.reported {
            self.reported = true;
            let path = self.shown_path();
            warn!(console = %self.name, "the console {path} is not there yet; it is still awaited");
        }
    }

    /// Peers that connect meanwhile wait in the listen queue.
    fn pause_listener(&self, cx: &mut Cx<'_>) {
        if let Some(listener) = self.listener {
            let _ = cx.sources.want(listener, Interest::NONE);
        }
    }

    fn gone(&mut self, cx: &mut Cx<'_>) {
        self.cancel_timer(cx);
        self.state = State::Gone;
        if let Some(listener) = self.listener.take() {
            cx.sources.deregister(listener);
        }
    }

    fn cancel_timer(&self, cx: &mut Cx<'_>) {
        if let State::Waiting(timer) | State::Open { pause: Some(timer), .. } = self.state {
            cx.timers.cancel(timer);
        }
    }

    fn shown_path(&self) -> String {
        self.backend.path().map(|path| path.display().to_string()).unwrap_or_default()
    }

    /// Reports peers whose output is not read any more.
    fn refuse_rest(&mut self, child: u32) {
        let mut rest = 0;
        while rest < LAST_PEERS && matches!(self.backend.open(child), Ok(Some(_))) {
            rest += 1;
        }
        if rest > 0 {
            warn!(console = %self.name, "{rest} or more connections came too late: their output is lost");
        }
    }

    fn report_failure(&mut self, error: &dyn Display) {
        if !std::mem::replace(&mut self.reported, true) {
            let path = self.shown_path();
            warn!(console = %self.name, "can't open the console {path}: {error}");
        }
    }
}

impl Peer for Link {
    fn name(&self) -> &Name {
        &self.name
    }

    fn pty_path(&self) -> Option<&Path> {
        self.backend.pty_path()
    }

    fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    fn is_gone(&self) -> bool {
        matches!(self.state, State::Gone)
    }

    fn was_open(&self) -> bool {
        self.opened > 0
    }

    fn is_draining(&self) -> bool {
        matches!(self.life, Life::Draining { .. })
    }

    fn start(&mut self, child: u32) {
        self.life = Life::Running { child };
    }

    fn begin_drain(&mut self) {
        if let Life::Running { child } = self.life {
            self.life = Life::Draining { child, peers: None };
            self.backend.let_end();
        }
    }

    fn connect(&mut self, cx: &mut Cx<'_>) -> Option<Opened> {
        let child = match self.life {
            Life::Running { child } => child,
            // Peers in the listen queue are the only ones that have bytes left.
            Life::Draining { child, peers } if self.backend.listener().is_some() => {
                if peers == Some(0) {
                    self.refuse_rest(child);
                    self.gone(cx);
                    return None;
                }
                self.life = Life::Draining { child, peers: peers.map(|left| left - 1) };
                child
            }
            Life::Draining { .. } => {
                self.gone(cx);
                return None;
            }
            Life::Over => return None,
        };
        if let State::Open { pause, .. } = &mut self.state {
            *pause = None;
            if let Life::Running { .. } = self.life {
                self.watch_listener(cx);
            }
            return None;
        }
        self.cancel_timer(cx);
        match self.backend.open(child) {
            Ok(Some(mut opened)) => {
                if self.is_draining() {
                    opened.input = None;
                }
                return Some(opened);
            }
            Ok(None) => self.not_there(cx),
            Err(error) => {
                self.report_failure(&error);
                self.wait(cx);
            }
        }
        None
    }

    fn successor(&mut self, ready: bool, cx: &mut Cx<'_>) -> Option<Opened> {
        let (State::Open { .. }, Life::Running { child }) = (&self.state, self.life) else {
            self.pause_listener(cx);
            return None;
        };
        match if ready { self.backend.open(child) } else { Ok(None) } {
            Ok(Some(opened)) => {
                info!(console = %self.name, "a new connection replaces the one that was served");
                return Some(opened);
            }
            Ok(None) => {}
            Err(error) => self.report_failure(&error),
        }
        self.pause_while_open(cx);
        None
    }

    fn listen_again(&mut self, cx: &mut Cx<'_>) {
        let Life::Running { .. } = self.life else { return };
        let old = match self.backend.listen_again(self.name.as_str()) {
            Ok(Some(old)) => old,
            Ok(None) => return,
            Err(error) => return self.report_failure(&error),
        };
        info!(console = %self.name, "the socket was removed: made again");
        if let Some(listener) = self.listener.take() {
            cx.sources.deregister(listener);
        }
        drop(old);
        match self.state {
            State::Listening => self.not_there(cx),
            State::Open { pause: None, .. } => {
                self.watch_listener(cx);
            }
            // The timer leads to it.
            State::Open { pause: Some(_), .. } | State::Waiting(_) | State::Gone => {}
        }
    }

    fn connected(&mut self, result: io::Result<()>, cx: &mut Cx<'_>) {
        if let Err(error) = result {
            self.report_failure(&error);
            return self.wait(cx);
        }
        debug!(console = %self.name, "open");
        self.opened = self.opened.saturating_add(1);
        self.reported = false;
        self.state = State::Open { since: Instant::now(), pause: None };
        self.pause_while_open(cx);
    }

    fn closed(&mut self, cx: &mut Cx<'_>) -> bool {
        debug!(console = %self.name, "closed");
        if !self.backend.reopens() {
            self.gone(cx);
            return false;
        }
        if let State::Open { since, .. } = self.state
            && since.elapsed() >= GOOD
        {
            self.delay = FIRST;
        }
        self.cancel_timer(cx);
        match self.life {
            // After a delay: a peer that closes at once must not keep the loop busy.
            Life::Running { .. } => self.wait(cx),
            // A peer that has connected meanwhile may have left bytes.
            Life::Draining { .. } if self.backend.listener().is_some() => {
                self.state = State::Listening;
                return true;
            }
            Life::Draining { .. } | Life::Over => self.gone(cx),
        }
        false
    }

    fn stop_accepting(&mut self) {
        match &mut self.life {
            Life::Draining { peers, .. } => {
                peers.get_or_insert(LAST_PEERS);
            }
            life => *life = Life::Over,
        }
    }

    fn close(&mut self, cx: &mut Cx<'_>) {
        self.life = Life::Over;
        self.gone(cx);
    }

    fn report(
        &self,
        log: Option<&Path>,
        (bytes_logged, bytes_dropped): (u64, u64),
    ) -> ConsoleReport {
        ConsoleReport {
            name: self.name.clone(),
            kind: self.backend.word(),
            path: self.backend.path().map(ToOwned::to_owned),
            state: match self.state {
                State::Waiting(_) => ConsoleState::Waiting,
                State::Listening => ConsoleState::Listening,
                State::Open { .. } => ConsoleState::Open,
                State::Gone => ConsoleState::Gone,
            },
            log: log.map(ToOwned::to_owned),
            bytes_logged,
            bytes_dropped,
            opened: self.opened,
        }
    }
}
