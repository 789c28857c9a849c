//! One console: looked for, open, looked for again, and drained.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::pty::Winsize;
use tracing::{debug, warn};

use super::super::keys::{ConsoleId, Cx, Source, SourceKey, Sources, Stream, Timer, TimerKey};
use super::super::name::Name;
use super::super::report::{ConsoleReport, ConsoleState};
use super::super::sessions::Sessions;
use super::ours::Ours;
use super::way::{Opened, Way};
use crate::child;
use crate::logfile::{self, LogFile, Mark};
use crate::reactor::{Interest, SourceId, TimerId};
use crate::relay::{Input, InputEvent, Log, Output, PaceTimers, Rate, Sink};
use crate::terminal::Handle;

/// How long after an attempt the next one comes, at first and at most.
const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

/// A console that has been open for so long is looked for anew as if for the first time.
const GOOD: Duration = Duration::from_secs(1);

/// Where it is on its way.
#[derive(Debug)]
enum State {
    /// It is looked for when the timer expires.
    Waiting(TimerId),
    /// Somebody is to connect.
    Listening,
    /// Since this moment.
    Open(Instant),
    /// It will not be looked for any more.
    Gone,
}

/// Whether the child runs, without which nothing is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Running {
        child: u32,
    },
    /// What has come is read to its end, what waits to be accepted included.
    Draining {
        child: u32,
    },
    Over,
}

/// One console.
#[derive(Debug)]
pub(in super::super) struct Port {
    id: ConsoleId,
    name: Name,
    way: Way,
    /// Where the way has something to be watched.
    listener: Option<SourceId>,
    life: Life,
    state: State,
    delay: Duration,
    log: Log,
    output: Output<Handle, SourceKey, TimerKey>,
    input: Option<Input<Handle, SourceKey>>,
    /// Where it is the one that our terminal talks to.
    ours: Option<Ours>,
    opened: u32,
    /// Whether an attempt has failed in a way that is told once.
    told: bool,
}

impl Port {
    pub(super) fn new(
        id: ConsoleId,
        name: Name,
        way: Way,
        log: Log,
        ours: Option<Ours>,
        sink: Option<Sink<Handle, SourceKey>>,
    ) -> Self {
        Self {
            id,
            name,
            way,
            listener: None,
            life: Life::Over,
            state: State::Gone,
            delay: FIRST,
            log,
            output: Output::ended(logfile::Stream::Tty, sink),
            input: None,
            ours,
            opened: 0,
            told: false,
        }
    }

    /// Reads no more than this rate allows.
    pub(super) fn limit(&mut self, rate: Rate) {
        self.output.limit(rate, self.timers());
    }

    pub(in super::super) fn id(&self) -> ConsoleId {
        self.id
    }

    pub(in super::super) fn name(&self) -> &Name {
        &self.name
    }

    pub(super) fn way(&self) -> &Way {
        &self.way
    }

    pub(super) fn log_deadline(&self) -> Option<Instant> {
        self.log.deadline()
    }

    pub(super) fn log(&mut self) -> &mut Log {
        &mut self.log
    }

    pub(super) fn stream(&self) -> Stream {
        Stream::Console(self.id)
    }

    fn timers(&self) -> PaceTimers<TimerKey> {
        let stream = self.stream();
        PaceTimers { pause: Timer::Pause(stream).key(), settle: Timer::Trim(stream).key() }
    }

    /// The last bytes of the log, `most` at most; none where it can't be read.
    pub(in super::super) fn log_tail(&mut self, most: usize) -> Vec<u8> {
        self.log.tail(most)
    }

    /// Whether our terminal stands for it now.
    pub(in super::super) fn is_session(&self) -> bool {
        self.ours.as_ref().is_some_and(Ours::is_session)
    }

    pub(super) fn has_ours(&self) -> bool {
        self.ours.is_some()
    }

    pub(super) fn ours(&mut self) -> Option<&mut Ours> {
        self.ours.as_mut()
    }

    /// The child runs: looks for it.
    pub(super) fn start(&mut self, child: u32, cx: &mut Cx<'_>) {
        self.life = Life::Running { child };
        self.log.mark(Mark::Start { pid: child });
        if let Some(size) = self.way.size() {
            self.log.note_size(size);
        }
        self.look(cx);
    }

    /// The timer has expired, or somebody has connected.
    pub(in super::super) fn look(&mut self, cx: &mut Cx<'_>) {
        let (Life::Running { child } | Life::Draining { child }) = self.life else { return };
        if let State::Open(_) = self.state {
            return;
        }
        if let State::Waiting(timer) = self.state {
            cx.timers.cancel(timer);
        }
        match self
            .way
            .open(child)
            .and_then(|found| found.map(|opened| self.open(opened, &mut cx.sources)).transpose())
        {
            Ok(Some(())) => {}
            Ok(None) => self.not_there(cx),
            Err(error) => {
                if !std::mem::replace(&mut self.told, true) {
                    let path = self.way.path().map(|path| path.display().to_string());
                    let path = path.unwrap_or_default();
                    warn!(console = %self.name, "can't open the console {path}: {error}");
                }
                self.output.end(&mut cx.sources);
                self.wait(cx);
            }
        }
    }

    fn open(&mut self, opened: Opened, sources: &mut Sources<'_>) -> std::io::Result<()> {
        let Opened { reader, writer, kind } = opened;
        let (stream, timers) = (self.stream(), self.timers());
        if self.opened > 0 {
            self.log.mark(Mark::Reopen);
        }
        self.output.open(reader, kind, Source::Output(stream).key(), timers, sources)?;
        if let Some(writer) = writer.filter(|_| matches!(self.life, Life::Running { .. })) {
            let mut input = Input::new(writer, Source::ConsoleInput(self.id).key(), true);
            if let Some(ours) = &mut self.ours {
                ours.connect(&mut input, sources)?;
            }
            self.input = Some(input);
        }
        if let Some(listener) = self.listener {
            // Whoever connects now waits until this one has left.
            let _ = sources.want(listener, Interest::NONE);
        }
        debug!(console = %self.name, "open");
        self.opened = self.opened.saturating_add(1);
        self.told = false;
        self.state = State::Open(Instant::now());
        if let Life::Draining { .. } = self.life {
            self.begin_tail();
        }
        Ok(())
    }

    /// It could not be opened: what follows.
    fn not_there(&mut self, cx: &mut Cx<'_>) {
        match (self.life, self.way.listener()) {
            (Life::Draining { .. } | Life::Over, _) => self.gone(cx),
            (Life::Running { .. }, None) => self.wait(cx),
            (Life::Running { .. }, Some(fd)) => {
                let listener = match self.listener {
                    Some(listener) => Ok(listener),
                    None => {
                        cx.sources.register(&fd, Interest::READ, Source::Listener(self.id).key())
                    }
                };
                match listener {
                    Ok(listener) => {
                        // Reading alone never asks the kernel, so this can't fail.
                        let _ = cx.sources.want(listener, Interest::READ);
                        cx.sources.would_block(listener, Interest::READ);
                        self.listener = Some(listener);
                        self.state = State::Listening;
                    }
                    Err(_) => self.wait(cx),
                }
            }
        }
    }

    /// Looks for it again after a while, each time a longer one, if there can be another.
    fn wait(&mut self, cx: &mut Cx<'_>) {
        let Life::Running { .. } = self.life else { return self.gone(cx) };
        if !self.way.may_come_again() {
            return self.gone(cx);
        }
        if let Some(listener) = self.listener {
            let _ = cx.sources.want(listener, Interest::NONE);
        }
        self.state = State::Waiting(cx.timers.set(self.delay, Timer::Console(self.id).key()));
        self.delay = (self.delay * 2).min(LONGEST);
    }

    /// What follows when its bytes have come to their end and are in the log. What waits for a
    /// reader of ours goes on its way, before those of the next one.
    fn follow(&mut self, cx: &mut Cx<'_>) {
        let State::Open(since) = self.state else { return };
        if !self.output.has_ended() || self.output.waits_for_log() {
            return;
        }
        debug!(console = %self.name, "closed");
        self.close_input(&mut cx.sources);
        if !self.way.may_come_again() {
            return self.gone(cx);
        }
        if since.elapsed() >= GOOD {
            self.delay = FIRST;
        }
        match self.life {
            // One that closes at once could keep us busy.
            Life::Running { .. } => self.wait(cx),
            // Whoever has connected meanwhile may have left his bytes.
            Life::Draining { .. } if self.way.listener().is_some() => {
                self.state = State::Listening;
                self.look(cx);
            }
            Life::Draining { .. } | Life::Over => self.gone(cx),
        }
    }

    /// The same; those who are attached and were not read while it took no input are read again,
    /// now that nothing tells of that any more.
    fn follow_for(&mut self, sessions: &mut Sessions, cx: &mut Cx<'_>) {
        let accepted = self.accepts_input();
        self.follow(cx);
        if !accepted && self.accepts_input() {
            sessions.go_on(&mut cx.sources);
        }
    }

    fn gone(&mut self, cx: &mut Cx<'_>) {
        if let State::Waiting(timer) = self.state {
            cx.timers.cancel(timer);
        }
        self.state = State::Gone;
        self.close_input(&mut cx.sources);
        self.unwatch(&mut cx.sources);
    }

    fn unwatch(&mut self, sources: &mut Sources<'_>) {
        if let Some(listener) = self.listener.take() {
            sources.deregister(listener);
        }
    }

    /// Reads it; says whether anything came.
    pub(in super::super) fn read(&mut self, sessions: &mut Sessions, cx: &mut Cx<'_>) -> bool {
        if self.ours.as_mut().is_some_and(Ours::comes_forward) {
            self.resize_to_ours();
        }
        let stream = self.stream();
        let read = self.output.turn(&mut self.log, &mut sessions.audience(stream), cx);
        self.follow_for(sessions, cx);
        read
    }

    pub(in super::super) fn settle(&mut self, cx: &mut Cx<'_>) {
        self.output.settle(cx);
    }

    /// Our stdout takes more.
    pub(in super::super) fn sink_ready(&mut self, sessions: &mut Sessions, cx: &mut Cx<'_>) {
        self.output.flush_sink(&mut cx.sources);
        self.follow_for(sessions, cx);
    }

    /// It takes more of its input.
    pub(in super::super) fn input_ready(&mut self, sources: &mut Sources<'_>) {
        if let Some(input) = &mut self.input
            && input.flush(sources) == InputEvent::Refused
        {
            self.close_input(sources);
        }
    }

    pub(in super::super) fn stdin_ready(&mut self, cx: &mut Cx<'_>) {
        let (Some(ours), Some(input)) = (&mut self.ours, &mut self.input) else { return };
        if !ours.stdin_ready(input, cx) {
            self.close_input(&mut cx.sources);
        }
    }

    /// Whether it takes what somebody who is attached sends; that it takes nothing at all is nobody's
    /// concern.
    pub(in super::super) fn accepts_input(&self) -> bool {
        self.input.as_ref().is_none_or(Input::accepts)
    }

    /// Sends it what somebody who is attached has typed. While it is not open, that is nobody's.
    pub(in super::super) fn send_input(&mut self, bytes: &[u8], sources: &mut Sources<'_>) {
        if let Some(input) = &mut self.input
            && input.send(bytes, sources) == InputEvent::Refused
        {
            self.close_input(sources);
        }
    }

    fn close_input(&mut self, sources: &mut Sources<'_>) {
        if let Some(mut input) = self.input.take() {
            input.close(sources);
        }
        if let Some(ours) = &mut self.ours {
            ours.disconnect();
        }
    }

    /// Gives its PTY this size; `None` where it is none of ours.
    pub(in super::super) fn resize_to(&mut self, size: &Winsize) -> Option<std::io::Result<()>> {
        self.way.made()?;
        let resized = child::resize(self.output.source()?.as_fd(), size);
        if resized.is_ok() {
            self.log.note_size(*size);
        }
        Some(resized)
    }

    /// Gives its PTY the size of our terminal, where that stands for it.
    pub(in super::super) fn resize_to_ours(&mut self) {
        let size = self.ours.as_ref().and_then(Ours::window_size);
        if let Some(size) = size
            && let Some(Err(error)) = self.resize_to(&size)
        {
            debug!("can't resize the console's terminal: {error}");
        }
    }

    /// Makes our terminal the console's again.
    pub(super) fn enter_terminal(&mut self) {
        if let Some(ours) = &mut self.ours {
            ours.enter();
        }
        self.resize_to_ours();
    }

    /// The child has ended: notes what is still to be read, and reads.
    pub(super) fn begin_drain(&mut self, sessions: &mut Sessions, cx: &mut Cx<'_>) {
        let (Life::Running { child } | Life::Draining { child }) = self.life else { return };
        self.life = Life::Draining { child };
        self.way.let_end();
        self.close_input(&mut cx.sources);
        match self.state {
            State::Open(_) => {
                self.begin_tail();
                self.read(sessions, cx);
            }
            State::Waiting(_) | State::Listening if self.way.listener().is_some() => self.look(cx),
            State::Waiting(_) | State::Listening | State::Gone => self.gone(cx),
        }
    }

    fn begin_tail(&mut self) {
        let left = match self.output.source() {
            // FIONREAD tells of a part of what a PTY holds only.
            Some(_) if self.way.made().is_some() => Some(child::PTY_CAPACITY),
            Some(source) => child::bytes_available(source.as_fd()).ok(),
            None => None,
        };
        self.output.begin_tail(left);
    }

    pub(super) fn is_quiet(&self) -> bool {
        matches!(self.state, State::Gone) || self.output.is_quiet()
    }

    pub(super) fn is_finished(&self) -> bool {
        matches!(self.state, State::Gone) && self.output.is_flushed()
    }

    /// Whether there is nothing to be read.
    pub(super) fn has_ended(&self) -> bool {
        self.output.has_ended()
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.output.is_flushed()
    }

    pub(super) fn log_needs_retry(&self) -> bool {
        self.output.waits_for_log() || self.log.has_untold() || self.log.is_ending()
    }

    pub(super) fn retry_log(&mut self, sessions: &mut Sessions, cx: &mut Cx<'_>) {
        self.log.tell();
        let stream = self.stream();
        let audience = &mut sessions.audience(stream);
        self.output.retry_log(&mut self.log, audience, &mut cx.sources);
        self.follow_for(sessions, cx);
    }

    /// Takes nobody else who connects.
    pub(super) fn last_call(&mut self) {
        self.life = Life::Over;
    }

    /// Reads no more, if it has given all that the child itself wrote.
    pub(super) fn end_complete(&mut self, cx: &mut Cx<'_>) {
        if self.output.has_tail() {
            self.output.end(&mut cx.sources);
            self.follow(cx);
        }
    }

    /// Gives up on what waits for a reader, and for a log that can't be written.
    pub(super) fn abandon(&mut self, cx: &mut Cx<'_>) {
        if self.output.waits_for_log() || self.log.is_ending() {
            self.output.abandon(&mut self.log, &mut cx.sources);
            self.log.close();
        } else {
            self.output.abandon_sink(&mut cx.sources);
        }
        self.follow(cx);
    }

    /// Ends everything, and counts what still waits as left out.
    pub(super) fn close(&mut self, end: Option<Mark>, cx: &mut Cx<'_>) -> ConsoleReport {
        self.output.abandon(&mut self.log, &mut cx.sources);
        self.life = Life::Over;
        self.gone(cx);
        self.log.close();
        if let Some(end) = end {
            self.log.mark(end);
        }
        self.report()
    }

    /// The log, when nothing is relayed any more.
    pub(super) fn into_log(self) -> LogFile {
        self.log.into_file()
    }

    pub(super) fn report(&self) -> ConsoleReport {
        ConsoleReport {
            name: self.name.clone(),
            kind: self.way.word(),
            path: self.way.path().map(ToOwned::to_owned),
            state: match self.state {
                State::Waiting(_) => ConsoleState::Waiting,
                State::Listening => ConsoleState::Listening,
                State::Open(_) => ConsoleState::Open,
                State::Gone => ConsoleState::Gone,
            },
            log: self.log.path().to_owned(),
            bytes_logged: self.log.logged(),
            bytes_dropped: self.log.dropped() + self.output.dropped(),
            opened: self.opened,
        }
    }
}
