//! Prints a log, and follows it with --follow.
//!
//! Prints everything available, then waits for file events. Files are watched before they are read
//! to the end, so that no change is missed.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use tracing::warn;
use vmon::logfile::read::{Entry, Hold, LogReader, Position, Warning};
use vmon::logfile::{Mark, Timestamp, names};

use super::super::file_watcher::{FileWatcher, POLL_INTERVAL, Target};
use super::super::interruptible_wait::WaitResult;
use super::super::outcome::Outcome;
use super::super::record::{Record, Recorded};
use super::super::run_log::{Bounds, BoundsError, LogSource, Runs};
use super::super::shared_args::SharedArgs;
use super::super::{Failure, restart_lock};
use super::LogsArgs;
use super::life::Life;
use super::output::{Output, Wanted};
use super::printer::{Printer, Style};

/// Size of a write, in bytes.
const BATCH: usize = 64 * 1024;

/// Time after which bytes are printed without the times that the index lacks. An index normally
/// follows within a fifth of that; later, its writer can't write it.
const INDEX_TIMEOUT: Duration = Duration::from_secs(1);

/// A log being printed.
pub struct LogView<'a> {
    args: &'a LogsArgs,
    shared: &'a SharedArgs,
    source: LogSource,
    reader: LogReader,
    /// Position at which printing ends, unless the log is followed.
    end: Option<Position>,
    /// Set if only one run is printed.
    one_run: Option<OneRun>,
    /// Whether the last entry read was the end of a run.
    has_ended: bool,
    watcher: FileWatcher,
    /// Time since which bytes have been waiting for the index.
    late: Option<Instant>,
    seen: Seen,
}

/// The run to print.
#[derive(Debug, Clone, Copy)]
struct OneRun {
    /// Until its start mark is read; `None` also if the run is not on record.
    pid: Option<u32>,
    /// Number of bytes that the run has logged, according to the record.
    bytes: u64,
}

/// What was known about the bytes printed.
#[derive(Debug, Default)]
struct Seen {
    bytes: bool,
    time: bool,
    stream: bool,
}

/// Result of printing the available entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Printed {
    /// The reader has reached the end of the log.
    All,
    /// The requested part is complete, or stdout is closed.
    Finished,
}

impl<'a> LogView<'a> {
    /// Opens the log and seeks to the first entry to print.
    pub fn open(
        args: &'a LogsArgs,
        shared: &'a SharedArgs,
        source: LogSource,
    ) -> Result<Self, BoundsError> {
        // A log that was removed is created again by a running sandbox.
        let is_expected = args.follow && source.is_running();
        let mut reader = if is_expected { source.expected_reader()? } else { source.reader()? };
        let runs = args.run.runs().unwrap_or(Runs::All);
        let mut bounds = Bounds::of(runs, &source, &mut reader)?;
        let one_run = OneRun::of(runs, &source, bounds.mark.is_some());
        if let Some(since) = args.since {
            bounds.since(since, &mut reader)?;
        }
        if let Some(until) = args.until.filter(|until| !args.follow || *until < Timestamp::now()) {
            bounds.until(until, &mut reader)?;
        }
        if !args.follow {
            bounds.end_at(reader.end()?);
        }
        bounds.apply(&mut reader);
        if let Some(lines) = args.lines {
            reader.seek_last_lines(lines, |stream| args.wants(stream))?;
        }
        Ok(Self {
            args,
            shared,
            source,
            reader,
            end: bounds.end,
            one_run,
            has_ended: false,
            watcher: FileWatcher::default(),
            late: None,
            seen: Seen::default(),
        })
    }

    /// Prints the log until it ends, or until a signal arrives or stdout is closed.
    pub fn run(&mut self, outcome: &mut Outcome) -> Result<(), Failure> {
        // Before signals are handled: the socket may take no connection for a while.
        let mut life = match self.args.follow {
            true => Life::asked(&self.source, &self.shared.places()?),
            false => Life::unasked(&self.source),
        };
        let mut output = Output::new()?;
        let style = match output.is_terminal() && !self.args.raw {
            _ if self.args.plain => Style::Plain,
            true => Style::Terminal { tint: self.args.tints() },
            false => Style::Exact,
        };
        let mut printer = Printer::new(style, self.args.timestamps);
        let mut print = |view: &mut Self, hold, output: &mut Output| {
            view.reader.hold(hold);
            view.print(&mut printer, output, outcome)
        };
        let hold = self.needed_hold(style);
        let one_run = self.one_run.is_some();
        loop {
            let over = life.is_over(one_run);
            let now = if over && !one_run { Hold::Nothing } else { hold };
            if print(self, now, &mut output)? == Printed::Finished || self.is_done() {
                break;
            }
            if over {
                // The end of a run is in the index before the run is over. Bytes after it may
                // belong to the next run; without it, the remaining bytes have no index.
                if one_run
                    && !self.has_ended
                    && print(self, Hold::Nothing, &mut output)? == Printed::Finished
                {
                    break;
                }
                match self.next_life(&output)? {
                    Some(next) => life = next,
                    None => break,
                }
                continue;
            }
            if self.watch(hold) {
                continue;
            }
            if self.is_late() {
                if print(self, hold.min(Hold::Parts), &mut output)? == Printed::Finished {
                    break;
                }
                self.late = None;
            }
            if self.wait(&life, hold, &output) == WaitResult::Quit {
                break;
            }
        }
        self.report_unknown(outcome);
        Ok(())
    }

    /// Which bytes wait for the index. It takes up to 200 ms, so only those that can't be shown
    /// without.
    fn needed_hold(&self, style: Style) -> Hold {
        let args = self.args;
        let needs_streams = args.stream.is_some() || style == Style::Terminal { tint: true };
        let needs_times = args.timestamps
            || args.since.is_some()
            || args.until.is_some()
            || self.one_run.is_some();
        if (needs_streams || needs_times) && self.source.has_late_times() {
            Hold::Pending
        } else if args.follow {
            Hold::Parts
        } else {
            Hold::Nothing
        }
    }

    /// Prints all available entries.
    fn print(
        &mut self,
        printer: &mut Printer,
        output: &mut Output,
        outcome: &mut Outcome,
    ) -> Result<Printed, Failure> {
        let printed = loop {
            match self.reader.next() {
                Ok(Some(Entry::Bytes { time, stream, bytes })) => {
                    // Where the clock was set back, what is wanted goes on behind it.
                    if time.is_some_and(|time| !self.args.is_within(time)) {
                        continue;
                    }
                    self.has_ended = false;
                    self.seen.note(time.is_some(), stream.is_some());
                    if self.args.wants(stream) && !bytes.is_empty() {
                        printer.add(time, stream, bytes);
                        self.late = None;
                    }
                }
                Ok(Some(Entry::Mark { mark: Mark::Start { pid }, .. }))
                    if self.one_run.as_mut().is_some_and(|run| run.ends_with(pid)) =>
                {
                    break Printed::Finished;
                }
                Ok(Some(Entry::Mark { mark, .. })) => {
                    self.has_ended = matches!(mark, Mark::Stop(_));
                }
                Ok(None) => break Printed::All,
                Err(error) => {
                    output.write(printer.take())?;
                    outcome.failed(&format!("can't read the log of {}: {error}", self.source));
                    return Ok(Printed::Finished);
                }
            }
            if printer.waiting() >= BATCH && output.write(printer.take())? == Wanted::Closed {
                return Ok(Printed::Finished);
            }
        };
        if output.write(printer.take())? == Wanted::Closed {
            return Ok(Printed::Finished);
        }
        for warning in self.reader.take_warnings() {
            self.report(&warning, outcome);
        }
        Ok(printed)
    }

    fn report(&self, warning: &Warning, outcome: &mut Outcome) {
        let args = self.args;
        let needs_index = args.since.is_some()
            || args.until.is_some()
            || args.stream.is_some()
            || args.timestamps
            || self.one_run.is_some();
        match warning {
            Warning::Missed { .. }
            | Warning::Missing { .. }
            | Warning::Unreadable { .. }
            | Warning::Damaged { .. } => outcome.failed(&warning.to_string()),
            Warning::Index { .. } if needs_index => outcome.failed(&warning.to_string()),
            _ => warn!("{warning}"),
        }
    }

    /// Reports options that had no effect because times or streams are not known.
    fn report_unknown(&self, outcome: &mut Outcome) {
        if !self.seen.bytes {
            return self.report_missing(outcome);
        }
        if !self.seen.time && (self.args.since.is_some() || self.args.until.is_some()) {
            outcome.failed(&format!(
                "the log of {} has no times: --since and --until left out only files not modified since",
                self.source
            ));
        }
        if !self.seen.stream && self.args.stream.is_some() {
            outcome.failed(&format!(
                "the log of {} does not distinguish stdout from stderr: all of it counts as stdout",
                self.source
            ));
        }
    }

    /// Reports that the output of the run is not found in the log.
    fn report_missing(&self, outcome: &mut Outcome) {
        let args = self.args;
        let all = args.lines.is_none() && args.since.is_none() && args.until.is_none();
        if let Some(OneRun { bytes: 1.., .. }) = self.one_run.filter(|_| all) {
            let source = &self.source;
            outcome.failed(&format!("the output of this run of {source} is not found in its log"));
        }
    }

    /// Whether the requested part is complete.
    fn is_done(&self) -> bool {
        match self.end {
            Some(end) => self.reader.position() >= end || !self.reader.is_holding(),
            None => self.args.until.is_some_and(|until| with_timeout(until) < Timestamp::now()),
        }
    }

    /// Whether bytes have waited for the index for too long.
    fn is_late(&mut self) -> bool {
        if !self.reader.is_holding() {
            self.late = None;
            return false;
        }
        self.late.get_or_insert_with(Instant::now).elapsed() >= INDEX_TIMEOUT
    }

    /// Watches the files. Returns whether one of them has to be read before waiting.
    fn watch(&mut self, hold: Hold) -> bool {
        let log = self.reader.path();
        let name = log.file_name().unwrap_or_default().to_string_lossy();
        let index = log.with_file_name(names::index(&name));
        let mut targets = vec![Target::Directory(log.parent().unwrap_or(log)), Target::Named(log)];
        targets.extend(self.reader.file().map(Target::Open));
        if hold == Hold::Pending {
            targets.push(Target::Named(&index));
        }
        self.watcher.watch(&targets)
    }

    /// Waits until there may be more to read.
    fn wait(&mut self, life: &Life, hold: Hold, output: &Output) -> WaitResult {
        let late = self.late.filter(|_| hold == Hold::Pending);
        let until = self.args.until.map(|until| with_timeout(until).since(Timestamp::now()));
        let times = [
            late.map(|since| INDEX_TIMEOUT.saturating_sub(since.elapsed())),
            until,
            life.poll_interval(),
            self.watcher.poll_interval(),
        ];
        let fds = [life.event_fd(), self.watcher.event_fd()];
        let fds: Vec<PollFd<'_>> =
            fds.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let next = output.interruptible().wait_for(&fds, times.into_iter().flatten().min());
        self.watcher.clear();
        next
    }

    /// The life of the next run, if the sandbox is being restarted or has been.
    fn next_life(&mut self, output: &Output) -> Result<Option<Life>, Failure> {
        if !self.args.follow || self.end.is_some() || self.one_run.is_some() {
            return Ok(None);
        }
        let (config_file, name) = (&self.source.config_file, &self.source.name);
        let places = self.shared.places()?;
        let mut lock = restart_lock::find_held(&places, config_file, name);
        while let Some(file) = lock {
            if !self.watcher.watch(&[Target::Held(file.as_fd())]) {
                let fds = self.watcher.event_fd().map(|fd| PollFd::new(fd, PollFlags::POLLIN));
                // The kernel sends the close event before it releases the lock (Linux: `__fput`).
                if output.interruptible().wait_for(fds.as_slice(), Some(POLL_INTERVAL))
                    == WaitResult::Quit
                {
                    return Ok(None);
                }
                self.watcher.clear();
            }
            lock = restart_lock::if_held(file);
        }
        // A record that could not be used at first is not tried again.
        if self.source.sandbox.is_none() {
            return Ok(None);
        }
        let read = || Record::beside_log(Record::latest(self.shared));
        let Some(record) = output.interruptible().while_blocked(read) else { return Ok(None) };
        let record = record?;
        let is_it = |it: &&Recorded| it.config_file == *config_file && it.name == *name;
        let Some(sandbox) = record.sandboxes().iter().find(is_it) else { return Ok(None) };
        let id = |sandbox: &Recorded| sandbox.latest().and_then(|run| run.id);
        if sandbox.running().is_none() || self.source.sandbox.as_ref().map(id) == Some(id(sandbox))
        {
            return Ok(None);
        }
        let before = self.source.log_dir.clone();
        self.source = LogSource::of(sandbox.clone(), self.source.console.clone(), before.clone());
        if self.source.log_dir != before {
            return Ok(None);
        }
        if let Some(options) = self.source.options() {
            self.reader.written_as(options.format);
        }
        Ok(output.interruptible().while_blocked(|| Life::asked(&self.source, &places)))
    }
}

impl OneRun {
    /// `has_begun`: its start mark is passed.
    fn of(runs: Runs, source: &LogSource, has_begun: bool) -> Option<Self> {
        if runs == Runs::All {
            return None;
        }
        let run = source.run(runs);
        let bytes = run.and_then(|run| match &source.console {
            None => run.bytes_logged,
            Some(console) => {
                let its = run.consoles.iter().find(|its| its.name == console.as_str());
                its.map(|its| its.bytes_logged)
            }
        });
        let pid = run.and_then(|run| run.pid).filter(|_| !has_begun);
        Some(Self { pid, bytes: bytes.unwrap_or(0) })
    }

    /// Whether this mark starts another run. The run's own mark may be read once.
    fn ends_with(&mut self, pid: u32) -> bool {
        self.pid.take() != Some(pid)
    }
}

impl Seen {
    fn note(&mut self, time: bool, stream: bool) {
        self.bytes = true;
        self.time |= time;
        self.stream |= stream;
    }
}

/// Time at which everything logged before `until` has its time in the index.
fn with_timeout(until: Timestamp) -> Timestamp {
    let timeout = u64::try_from(INDEX_TIMEOUT.as_nanos()).unwrap_or(u64::MAX);
    Timestamp::from_nanoseconds(until.nanoseconds().saturating_add(timeout))
}
