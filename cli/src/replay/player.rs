//! The event handler of a replay: writes the entries that are due, and sleeps between them.

use std::convert::Infallible;
use std::io::{self, IsTerminal, Read};
use std::time::{Duration, Instant};

use tracing::warn;
use vmon::child::Signal;
use vmon::logfile::read::Entry;
use vmon::logfile::{Mark, Stream};
use vmon::reactor::{Context, Handler, Interest, Ready, SourceId, TimerId};
use vmon::terminal::{self, Direction, Handle, RawState, Terminal};

use super::schedule::{Pace, Schedule};
use crate::reason;
use crate::run_log::RunLog;
use crate::screen::Screen;
use crate::writer::Writer;

/// Number of entries played before signals and keys are handled again.
const BATCH: usize = 64;

/// How the replay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayEnd {
    /// The log is played, q was typed, or stdout was closed by its reader.
    Ended,
    /// A signal was received.
    Signalled(Signal),
}

#[derive(Debug, Clone, Copy)]
pub enum Source {
    Keys,
    Stdout,
}

/// The time of the replay. `began` is advanced by the length of each pause.
#[derive(Debug)]
struct Clock {
    began: Instant,
    /// When the user paused.
    paused: Option<Instant>,
    /// When a signal stopped the process.
    stopped: Option<Instant>,
}

/// The next action.
#[derive(Debug, Clone, Copy)]
enum Action {
    Bytes,
    /// Start of the next run, which gets the terminal in its original state.
    Run,
    /// The session's terminal has another size.
    Resize,
    End,
}

/// A replay in progress.
pub struct Player {
    log: RunLog,
    schedule: Schedule,
    clock: Clock,
    /// Nothing is played while bytes are pending.
    stdout: Writer<Handle, Source>,
    next: Option<(Duration, Action)>,
    /// The bytes of the next action.
    held: Vec<u8>,
    timer: Option<TimerId>,
    /// The filter, if stdout is a terminal.
    screen: Option<Screen>,
    terminal: Option<Terminal>,
    keys: Option<(Handle, SourceId)>,
    end: Option<Result<ReplayEnd, String>>,
}

type Cx<'a> = Context<'a, Source, ()>;

impl Clock {
    fn is_halted(&self) -> bool {
        self.paused.is_some() || self.stopped.is_some()
    }

    /// Time left until this moment of the replay.
    fn until(&self, due: Duration) -> Duration {
        due.saturating_sub(self.began.elapsed())
    }

    fn toggle_pause(&mut self) {
        match self.paused.take() {
            Some(since) => self.began += since.elapsed(),
            None => self.paused = Some(Instant::now()),
        }
    }

    fn stop(&mut self) {
        self.stopped.get_or_insert_with(Instant::now);
    }

    fn resume(&mut self) {
        // While paused, the time counts as paused already.
        if let Some(since) = self.stopped.take()
            && self.paused.is_none()
        {
            self.began += since.elapsed();
        }
    }
}

impl Player {
    pub fn new(log: RunLog, pace: Pace, stdout: Handle) -> io::Result<Self> {
        let at_terminal = stdout.is_terminal();
        Ok(Self {
            log,
            schedule: Schedule::new(pace),
            clock: Clock { began: Instant::now(), paused: None, stopped: None },
            stdout: Writer::new(stdout, Source::Stdout),
            next: None,
            held: Vec::new(),
            timer: None,
            screen: at_terminal.then(Screen::session),
            terminal: if at_terminal { Terminal::open()? } else { None },
            keys: None,
            end: None,
        })
    }

    /// Restores the terminal. Returns the end and the log.
    pub fn end(mut self) -> (Result<ReplayEnd, String>, RunLog) {
        self.leave_terminal();
        (self.end.unwrap_or(Ok(ReplayEnd::Ended)), self.log)
    }

    fn begin(&mut self, cx: &mut Cx<'_>) -> io::Result<()> {
        self.disable_echo();
        if self.terminal.is_some()
            && terminal::stdin().is_terminal()
            && let Some(stdin) = Handle::open(terminal::stdin(), Direction::Read)?
        {
            let id = cx.sources.register(&stdin, Interest::READ, Source::Keys)?;
            self.keys = Some((stdin, id));
        }
        self.clock.began = Instant::now();
        Ok(())
    }

    /// Turns off the terminal's echo, so that keys do not disturb the picture.
    fn disable_echo(&mut self) -> Option<RawState> {
        let entered = self.terminal.as_mut()?.enter_quiet();
        entered.inspect_err(|error| warn!("can't set the terminal's modes: {error}")).ok()
    }

    /// Plays the entries that are due.
    fn play(&mut self, cx: &mut Cx<'_>) {
        for _ in 0..BATCH {
            if self.end.is_some() || !self.stdout.is_empty() || self.clock.is_halted() {
                return;
            }
            let (due, next) = match self.next {
                Some(next) => next,
                None => match self.load() {
                    Ok(next) => next,
                    Err(error) => return self.finish(Err(error)),
                },
            };
            self.next = Some((due, next));
            let wait = self.clock.until(due);
            if !wait.is_zero() {
                return self.wait(wait, cx);
            }
            self.next = None;
            match (next, &mut self.screen) {
                (Action::Bytes, Some(screen)) => screen.filter(&self.held, self.stdout.pending()),
                (Action::Bytes, None) => self.stdout.pending().extend_from_slice(&self.held),
                (Action::Run, Some(screen)) => screen.end(self.stdout.pending()),
                (Action::Resize, Some(screen)) => screen.resize(self.stdout.pending()),
                (Action::Run | Action::Resize, None) => {}
                (Action::End, _) => return self.finish(Ok(ReplayEnd::Ended)),
            }
            self.note_modes();
            self.flush(cx);
        }
        // Return to the event loop, so that signals and keys are handled.
        self.wait(Duration::ZERO, cx);
    }

    /// Reads the next entry and the time when it is due.
    fn load(&mut self) -> Result<(Duration, Action), String> {
        loop {
            let begun = !self.log.is_empty;
            let entry = self.log.next().map_err(|error| error.to_string())?;
            let Some(entry) = entry else { return Ok((Duration::ZERO, Action::End)) };
            let due = self.schedule.due(&entry);
            match entry {
                Entry::Bytes { stream, bytes, .. } => {
                    self.held.clear();
                    if self.screen.is_some() && stream != Some(Stream::Tty) {
                        with_returns(bytes, &mut self.held);
                    } else {
                        self.held.extend_from_slice(bytes);
                    }
                    return Ok((due, Action::Bytes));
                }
                Entry::Mark { mark: Mark::Start { .. }, .. } if begun => {
                    return Ok((due, Action::Run));
                }
                Entry::Mark { mark: Mark::Resize { columns, rows }, .. } if !begun => {
                    self.warn_if_smaller(columns, rows);
                }
                Entry::Mark { mark: Mark::Resize { .. }, .. } => {
                    return Ok((due, Action::Resize));
                }
                Entry::Mark { .. } => {}
            }
        }
    }

    /// Warns that the terminal is smaller than that of the session.
    fn warn_if_smaller(&self, columns: u16, rows: u16) {
        let ours = self.terminal.as_ref().and_then(Terminal::size);
        let ours = ours.map(|size| (size.rows, size.columns));
        if let Some((our_rows, our_columns)) = ours
            && (our_rows < rows || our_columns < columns)
        {
            warn!(
                "the session had a terminal of {columns}x{rows}, and this one has {our_columns}x{our_rows}"
            );
        }
    }

    fn wait(&mut self, time: Duration, cx: &mut Cx<'_>) {
        self.cancel(cx);
        self.timer = Some(cx.timers.set(time, ()));
    }

    fn cancel(&mut self, cx: &mut Cx<'_>) {
        if let Some(timer) = self.timer.take() {
            cx.timers.cancel(timer);
        }
    }

    /// Writes as much as stdout accepts.
    fn flush(&mut self, cx: &mut Cx<'_>) {
        if let Err(error) = self.stdout.flush(&mut cx.sources) {
            self.refused(&error);
        }
    }

    /// Handles a write error. A closed pipe or a hangup of the terminal ends the replay without an
    /// error.
    fn refused(&mut self, error: &io::Error) {
        self.finish(if terminal::peer_has_gone(error, self.stdout.target().is_terminal()) {
            Ok(ReplayEnd::Ended)
        } else {
            Err(format!("can't write to stdout: {}", reason(error)))
        });
    }

    fn finish(&mut self, end: Result<ReplayEnd, String>) {
        self.end.get_or_insert(end);
    }

    fn read_keys(&mut self, cx: &mut Cx<'_>) {
        let Some((stdin, id)) = &mut self.keys else { return };
        let mut typed = [0; 64];
        // In the background, terminal input belongs to another process group.
        let ours = self.terminal.as_ref().is_some_and(Terminal::is_raw);
        match if ours { stdin.read(&mut typed) } else { Err(io::ErrorKind::WouldBlock.into()) } {
            Ok(count @ 1..) => {
                for key in typed.iter().take(count) {
                    match key {
                        b'q' => self.finish(Ok(ReplayEnd::Ended)),
                        b' ' => self.clock.toggle_pause(),
                        _ => {}
                    }
                }
                self.play(cx);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                cx.sources.would_block(*id, Interest::READ);
            }
            Ok(_) | Err(_) => {
                cx.sources.deregister(*id);
                self.keys = None;
            }
        }
    }

    /// Continues after a stop by a signal: the terminal gets its modes and attributes back.
    fn resume(&mut self, cx: &mut Cx<'_>) {
        self.disable_echo();
        if let Some(screen) = &self.screen
            && self.clock.stopped.is_some()
        {
            screen.resume(self.stdout.pending());
        }
        self.note_modes();
        self.clock.resume();
        self.flush(cx);
        self.play(cx);
    }

    /// Restores the terminal, and drops output not yet written.
    fn leave_terminal(&mut self) {
        self.stdout.clear();
        terminal::undo_modes();
        if let Some(terminal) = &mut self.terminal {
            terminal.leave_raw();
        }
    }

    /// Notes the modes that the output has set, which are undone at the end.
    fn note_modes(&self) {
        if let Some(screen) = &self.screen {
            terminal::note_modes(screen.modes());
        }
    }
}

/// Appends `bytes` with a carriage return before each newline. A terminal adds one for a program on
/// pipes (ONLCR), but not while a replay has output processing turned off.
fn with_returns(bytes: &[u8], out: &mut Vec<u8>) {
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(text) => {
                out.extend_from_slice(text);
                out.extend_from_slice(b"\r\n");
            }
            None => out.extend_from_slice(line),
        }
    }
}

impl Handler for Player {
    type Source = Source;
    type Timer = ();
    type Event = Infallible;

    fn start(&mut self, cx: &mut Cx<'_>) {
        match self.begin(cx) {
            Ok(()) => self.play(cx),
            Err(error) => self.finish(Err(format!("can't read the keyboard: {}", reason(&error)))),
        }
    }

    fn ready(&mut self, source: Source, _: Ready, cx: &mut Cx<'_>) {
        match source {
            Source::Keys => self.read_keys(cx),
            Source::Stdout => {
                self.flush(cx);
                self.play(cx);
            }
        }
    }

    fn timer(&mut self, (): (), cx: &mut Cx<'_>) {
        self.timer = None;
        self.play(cx);
    }

    fn signal(&mut self, signal: i32, cx: &mut Cx<'_>) {
        match Signal::from_number(signal) {
            Some(signal @ (Signal::TERM | Signal::INT | Signal::QUIT | Signal::HUP)) => {
                self.finish(Ok(ReplayEnd::Signalled(signal)));
            }
            Some(Signal::TSTP) => {
                self.clock.stop();
                self.leave_terminal();
            }
            Some(Signal::CONT) => self.resume(cx),
            _ => {}
        }
    }

    fn after_signal(signal: i32) {
        terminal::suspend_after(signal);
    }

    fn is_done(&self) -> bool {
        self.end.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_paused_or_stopped_does_not_count() {
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        let seconds = |clock: &Clock| clock.until(Duration::from_secs(5000)).as_secs();
        let mut clock = Clock { began: ago(3000), paused: Some(ago(2000)), stopped: None };
        assert!(clock.is_halted());
        clock.toggle_pause();
        assert!(!clock.is_halted());
        assert!((3000..=4000).contains(&seconds(&clock)), "{clock:?}");
        // Stopped while paused: no time counts twice.
        let mut clock =
            Clock { began: ago(3000), paused: Some(ago(2000)), stopped: Some(ago(1000)) };
        clock.resume();
        assert!(clock.is_halted());
        clock.toggle_pause();
        assert!((3000..=4000).contains(&seconds(&clock)), "{clock:?}");
        let mut clock = Clock { began: ago(3000), paused: None, stopped: Some(ago(2000)) };
        clock.resume();
        assert!((3000..=4000).contains(&seconds(&clock)), "{clock:?}");
    }
}
