//! A log that is printed, and followed where that was asked for.
//!
//! Everything that is there is printed first, then the system's word of a change is waited for. What
//! is watched is watched before it is read to its end, so no change is missed.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use tracing::warn;
use vmon::logfile::read::{Entry, Hold, LogReader, Position, Warning};
use vmon::logfile::{Mark, Timestamp};

use super::super::follow::{Changes, Target};
use super::super::pause::Next;
use super::super::runs::{Bounds, BoundsError, Place, Runs};
use super::super::select::{Record, Recorded, Tally};
use super::super::shared::Places;
use super::super::{Failure, reason, restarting};
use super::LogsArgs;
use super::life::Life;
use super::output::{Output, Wanted};
use super::printer::{Printer, Style};

/// So much is printed at once.
const BATCH: usize = 64 * 1024;

/// How long the bytes of a log may lack their times before they are printed without: five times
/// what an index takes, and then its writer can't write it.
const LATE: Duration = Duration::from_secs(1);

/// How often is looked where the system can't tell of changes.
const LOOK: Duration = Duration::from_millis(250);

/// What is being printed.
pub struct Session<'a> {
    args: &'a LogsArgs,
    place: Place,
    places: Places,
    reader: LogReader,
    /// Where it ends, unless it is followed.
    end: Option<Position>,
    /// Whether only one run is meant.
    one_run: Option<OneRun>,
    /// Whether the last thing read was the end of a run.
    has_ended: bool,
    watching: Watching,
    /// Since when bytes lack their times.
    late: Option<Instant>,
    seen: Seen,
}

/// The run that is meant.
#[derive(Debug, Clone, Copy)]
struct OneRun {
    /// `None` where only its log is left.
    pid: Option<u32>,
    /// What was written to the log, as far as that is on record.
    bytes: u64,
}

/// How changes are learnt of.
enum Watching {
    NotYet,
    Told(Changes),
    /// The system can't tell.
    Looking,
}

/// What was known of the bytes.
#[derive(Debug, Default)]
struct Seen {
    bytes: bool,
    time: bool,
    stream: bool,
}

/// Whether there is more to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Printed {
    /// All that is there.
    All,
    /// All that was asked for, or that anybody wants.
    Enough,
}

impl<'a> Session<'a> {
    /// Opens the log, and goes to where printing begins.
    pub fn open(args: &'a LogsArgs, place: Place, places: Places) -> Result<Self, BoundsError> {
        let (log_dir, config_file, name) = (&place.log_dir, &place.config_file, &place.log_name());
        // One that was removed is made anew while it is followed.
        let mut reader = if args.follow && place.is_running() {
            LogReader::expect(log_dir, config_file, name)?
        } else {
            LogReader::open(log_dir, config_file, name)?
        };
        if let Some(options) = place.options() {
            reader.written_as(options.format);
        }
        let runs = args.run.runs().unwrap_or(Runs::All);
        let one_run = OneRun::of(runs, &place);
        let mut bounds = Bounds::of(runs, &place, &mut reader)?;
        if let Some(since) = args.since {
            bounds.since(since, &mut reader)?;
        }
        if let Some(until) = args.until.filter(|until| !args.follow || *until < Timestamp::now()) {
            bounds.until(until, &mut reader)?;
        }
        if !args.follow {
            let end = reader.end()?;
            bounds.end = Some(bounds.end.map_or(end, |own| own.min(end)));
        }
        if let Some(end) = bounds.end {
            reader.stop_at(end);
        }
        reader.seek(bounds.start);
        if let Some(lines) = args.lines {
            reader.seek_last_lines(lines, |stream| args.wants(stream))?;
        }
        Ok(Self {
            args,
            place,
            places,
            reader,
            end: bounds.end,
            one_run,
            has_ended: false,
            watching: Watching::NotYet,
            late: None,
            seen: Seen::default(),
        })
    }

    /// Prints.
    pub fn run(&mut self, tally: &mut Tally<'_>) -> Result<(), Failure> {
        let mut output = Output::new()?;
        let style = match output.is_terminal() && !self.args.raw {
            true => Style::Terminal { tint: self.args.tints() },
            false => Style::Exact,
        };
        let mut printer = Printer::new(style, self.args.timestamps);
        let mut life = Life::of(self.place.sandbox.as_ref());
        let hold = self.hold(style);
        loop {
            let over = life.is_over(self.one_run.is_some());
            // Its end is in the index before it is over; what the index does not tell of may be the
            // next run's.
            let all = over && self.one_run.is_none();
            self.reader.hold(if all { Hold::Nothing } else { hold });
            if self.print(&mut printer, &mut output, tally)? == Printed::Enough || self.is_done() {
                break;
            }
            if over && !all && !self.has_ended {
                self.reader.hold(Hold::Nothing);
                if self.print(&mut printer, &mut output, tally)? == Printed::Enough {
                    break;
                }
            }
            if over {
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
                self.reader.hold(hold.min(Hold::Parts));
                if self.print(&mut printer, &mut output, tally)? == Printed::Enough {
                    break;
                }
                self.late = None;
            }
            if self.wait(&life, hold, &output) == Next::Leave {
                break;
            }
        }
        self.tell_unknown(tally);
        Ok(())
    }

    /// What waits for the index: that takes up to 200 ms, so only what can't be shown without.
    fn hold(&self, style: Style) -> Hold {
        let args = self.args;
        let needs_streams = args.stream.is_some() || style == Style::Terminal { tint: true };
        let needs_times = args.timestamps || args.until.is_some() || self.one_run.is_some();
        if (needs_streams || needs_times) && self.place.has_late_times() {
            Hold::Untold
        } else if args.follow {
            Hold::Parts
        } else {
            Hold::Nothing
        }
    }

    /// Prints all that is there.
    fn print(
        &mut self,
        printer: &mut Printer,
        output: &mut Output,
        tally: &mut Tally<'_>,
    ) -> Result<Printed, Failure> {
        let printed = loop {
            match self.reader.next() {
                Ok(Some(Entry::Bytes { time, stream, bytes })) => {
                    if self.args.until.zip(time).is_some_and(|(until, time)| until <= time) {
                        break Printed::Enough;
                    }
                    self.has_ended = false;
                    self.seen.note(time.is_some(), stream.is_some());
                    if self.args.wants(stream) && !bytes.is_empty() {
                        printer.add(time, stream, bytes);
                        self.late = None;
                    }
                }
                Ok(Some(Entry::Mark { mark: Mark::Start { pid }, .. }))
                    if self.one_run.is_some_and(|run| run.ends_with(pid)) =>
                {
                    break Printed::Enough;
                }
                Ok(Some(Entry::Mark { mark, .. })) => {
                    self.has_ended = matches!(mark, Mark::Stop(_));
                }
                Ok(None) => break Printed::All,
                Err(error) => {
                    output.write(printer.take())?;
                    tally.failed(&format!("can't read the log of {}: {error}", self.place));
                    return Ok(Printed::Enough);
                }
            }
            if printer.waiting() >= BATCH && output.write(printer.take())? == Wanted::Enough {
                return Ok(Printed::Enough);
            }
        };
        if output.write(printer.take())? == Wanted::Enough {
            return Ok(Printed::Enough);
        }
        for warning in self.reader.take_warnings() {
            self.tell(&warning, tally);
        }
        Ok(printed)
    }

    fn tell(&self, warning: &Warning, tally: &mut Tally<'_>) {
        let args = self.args;
        let needs_index = args.since.is_some()
            || args.until.is_some()
            || args.stream.is_some()
            || args.timestamps
            || self.one_run.is_some();
        match warning {
            Warning::Missed { .. } | Warning::Damaged { .. } => tally.failed(&warning.to_string()),
            Warning::Index { .. } if needs_index => tally.failed(&warning.to_string()),
            _ => warn!("{warning}"),
        }
    }

    /// Says what could not be done because nothing is known.
    fn tell_unknown(&self, tally: &mut Tally<'_>) {
        if !self.seen.bytes {
            return self.tell_gone(tally);
        }
        if !self.seen.time && (self.args.since.is_some() || self.args.until.is_some()) {
            tally.failed(&format!(
                "the log of {} does not tell when its bytes came: --since and --until left out only files that did not change since",
                self.place
            ));
        }
        if !self.seen.stream && self.args.stream.is_some() {
            tally.failed(&format!(
                "the log of {} does not tell stdout from stderr: all of it counts as stdout",
                self.place
            ));
        }
    }

    /// Says that there was output and that it is gone.
    fn tell_gone(&self, tally: &mut Tally<'_>) {
        let args = self.args;
        let all = args.lines.is_none() && args.since.is_none() && args.until.is_none();
        if let Some(OneRun { bytes: 1.., .. }) = self.one_run.filter(|_| all) {
            let place = &self.place;
            tally.failed(&format!("what this run of {place} printed is no longer in its log"));
        }
    }

    /// Whether nothing more is meant, whatever comes.
    fn is_done(&self) -> bool {
        match self.end {
            Some(end) => self.reader.position() >= end || !self.reader.is_holding(),
            None => self.args.until.is_some_and(|until| later(until) < Timestamp::now()),
        }
    }

    /// Whether bytes have lacked their times for too long.
    fn is_late(&mut self) -> bool {
        if !self.reader.is_holding() {
            self.late = None;
            return false;
        }
        self.late.get_or_insert_with(Instant::now).elapsed() >= LATE
    }

    /// Watches what may change. Says whether something of it is to be read before it is waited for.
    fn watch(&mut self, hold: Hold) -> bool {
        let log = self.reader.path();
        let index = index_of(log);
        let mut targets = vec![Target::Directory(log.parent().unwrap_or(log)), Target::Named(log)];
        targets.extend(self.reader.file().map(Target::Open));
        if hold == Hold::Untold {
            targets.push(Target::Named(&index));
        }
        self.watching.watch(&targets)
    }

    /// Waits until there may be more to read.
    fn wait(&mut self, life: &Life, hold: Hold, output: &Output) -> Next {
        let late = self.late.filter(|_| hold == Hold::Untold);
        let until = self.args.until.map(|until| later(until).since(Timestamp::now()));
        let times = [
            late.map(|since| LATE.saturating_sub(since.elapsed())),
            until,
            life.look(),
            self.watching.look(),
        ];
        let mut fds: Vec<PollFd<'_>> =
            life.told().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).into_iter().collect();
        if let Watching::Told(changes) = &self.watching {
            fds.push(PollFd::new(changes.as_fd(), PollFlags::POLLIN));
        }
        let next = output.pause().wait_for(&fds, times.into_iter().flatten().min());
        self.watching.clear();
        next
    }

    /// The life that follows one that is over: where somebody restarts the sandbox, or has done so.
    fn next_life(&mut self, output: &Output) -> Result<Option<Life>, Failure> {
        if !self.args.follow || self.end.is_some() || self.one_run.is_some() {
            return Ok(None);
        }
        let (config_file, name) = (&self.place.config_file, &self.place.name);
        let mut lock = restarting::of(&self.places, config_file, name);
        while let Some(file) = lock {
            if !self.watching.watch(&[Target::Held(file.as_fd())]) {
                let mut fds = Vec::new();
                if let Watching::Told(changes) = &self.watching {
                    fds.push(PollFd::new(changes.as_fd(), PollFlags::POLLIN));
                }
                // A lock goes a moment after the word that its file is closed (Linux: `__fput`).
                if output.pause().wait_for(&fds, Some(LOOK)) == Next::Leave {
                    return Ok(None);
                }
                self.watching.clear();
            }
            lock = restarting::is_held(file);
        }
        let record = Record::read(&self.args.shared)?;
        let is_it = |it: &&Recorded| it.config_file == *config_file && it.name == *name;
        let Some(sandbox) = record.sandboxes().iter().find(is_it) else { return Ok(None) };
        let id = |sandbox: &Recorded| sandbox.latest().and_then(|run| run.id);
        if sandbox.running().is_none() || self.place.sandbox.as_ref().map(id) == Some(id(sandbox)) {
            return Ok(None);
        }
        let before = self.place.log_dir.clone();
        self.place = Place::of(sandbox.clone(), self.place.console.clone(), before.clone());
        if self.place.log_dir != before {
            return Ok(None);
        }
        if let Some(options) = self.place.options() {
            self.reader.written_as(options.format);
        }
        Ok(Some(Life::of(Some(sandbox))))
    }
}

impl OneRun {
    fn of(runs: Runs, place: &Place) -> Option<Self> {
        if runs == Runs::All {
            return None;
        }
        let run = place.run(runs);
        let bytes = run.and_then(|run| match &place.console {
            None => run.bytes_logged,
            Some(console) => {
                let its = run.consoles.iter().find(|its| its.name == console.as_str());
                its.map(|its| its.bytes_logged)
            }
        });
        Some(Self { pid: run.and_then(|run| run.pid), bytes: bytes.unwrap_or(0) })
    }

    /// Whether another one begins with this process. Its own beginning may be read too.
    fn ends_with(self, pid: u32) -> bool {
        self.pid != Some(pid)
    }
}

impl Watching {
    /// Says whether something is watched that was not watched before.
    fn watch(&mut self, targets: &[Target<'_>]) -> bool {
        let told = match self {
            Self::NotYet => Changes::new().and_then(|mut changes| {
                changes.watch(targets)?;
                *self = Self::Told(changes);
                Ok(true)
            }),
            Self::Told(changes) => changes.watch(targets),
            Self::Looking => Ok(false),
        };
        told.unwrap_or_else(|error| {
            let (reason, every) = (reason(&error), LOOK.as_millis());
            warn!(
                "the system can't tell of changes ({reason}): they are looked for every {every} ms"
            );
            *self = Self::Looking;
            true
        })
    }

    fn clear(&self) {
        if let Self::Told(changes) = self {
            changes.clear();
        }
    }

    fn look(&self) -> Option<Duration> {
        matches!(self, Self::Looking).then_some(LOOK)
    }
}

impl Seen {
    fn note(&mut self, time: bool, stream: bool) {
        self.bytes = true;
        self.time |= time;
        self.stream |= stream;
    }
}

/// When all has come that was there before this time.
fn later(until: Timestamp) -> Timestamp {
    let late = u64::try_from(LATE.as_nanos()).unwrap_or(u64::MAX);
    Timestamp::from_nanoseconds(until.nanoseconds().saturating_add(late))
}

/// Where the index of a log is.
fn index_of(log: &Path) -> PathBuf {
    let mut path = log.as_os_str().to_owned();
    path.push(".idx");
    path.into()
}
