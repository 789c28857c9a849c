//! The log as a sink: what happens if it can't be written.

use std::fmt::Display;
use std::mem;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::pty::Winsize;
use tracing::field::display;
use tracing::{info, warn};

use super::audience::notice;
use super::drivers::{Drivers, KINDS, Taken, kind};
use crate::logfile::{KeptGenerations, LogError, LogFile, Mark, Stream};
use crate::reactor::Sources;

/// The delay after a failure before the log is tried again.
pub(crate) const RETRY: Duration = Duration::from_millis(100);

/// A log whose last write failed.
#[derive(Debug)]
struct Failure {
    /// The first failure since a write succeeded.
    since: Instant,
    /// The next write is tried at this instant.
    again: Instant,
    /// The last error.
    reason: String,
    /// Whether there was an error: a driver that takes no more for now has none.
    failed: bool,
}

/// Whether the end of a run is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It has not ended.
    Open,
    /// It has ended, and bytes that the log holds back could not be written.
    Waiting,
    /// Everything is written, or given up.
    Over,
}

/// What a log writes to.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "almost every log is a file of our own")]
pub(crate) enum LogTarget {
    /// A log that vmon keeps, with marks.
    File(LogFile),
    /// Drivers of the host's choice, or none. They hold no marks and are not read back.
    Drivers(Box<Drivers>),
    /// A log that vmon keeps, and drivers beside it.
    Both(Box<Both>),
}

/// A log that vmon keeps and drivers. The log is first: the drivers get what it has taken.
#[derive(Debug)]
pub(crate) struct Both {
    file: LogFile,
    drivers: Drivers,
    /// For each kind of bytes, how many of those that are offered next the file has already.
    ahead: [usize; KINDS],
}

impl Both {
    pub(crate) fn new(file: LogFile, drivers: Drivers) -> Self {
        Self { file, drivers, ahead: [0; KINDS] }
    }

    /// The log, when nothing more is written.
    pub(crate) fn into_file(self) -> LogFile {
        self.file
    }

    fn write(&mut self, spare: &mut [u8], stream: Stream, bytes: &[u8]) -> Taken {
        let Some(ahead) = self.ahead.get_mut(kind(stream)) else {
            return Taken { count: 0, error: None };
        };
        let (known, rest) = bytes.split_at((*ahead).min(bytes.len()));
        let mut in_file = write_file(&mut self.file, spare, stream, rest);
        in_file.count += known.len();
        let shared = bytes.get(..in_file.count).unwrap_or_default();
        let in_all = self.drivers.write(spare, stream, shared);
        *ahead = in_file.count - in_all.count;
        if in_all.count < in_file.count { in_all } else { in_file }
    }

    fn skip(&mut self, stream: Stream) {
        self.drivers.skip(stream);
        if let Some(ahead) = self.ahead.get_mut(kind(stream)) {
            *ahead = 0;
        }
    }
}

fn write_file(file: &mut LogFile, spare: &mut [u8], stream: Stream, bytes: &[u8]) -> Taken {
    match file.write_using(spare, stream, bytes) {
        Ok(()) => Taken { count: bytes.len(), error: None },
        Err(error) => Taken { count: error.written, error: Some(error.source) },
    }
}

impl LogTarget {
    fn write(&mut self, spare: &mut [u8], stream: Stream, bytes: &[u8]) -> Taken {
        match self {
            Self::File(file) => write_file(file, spare, stream, bytes),
            Self::Drivers(drivers) => drivers.write(spare, stream, bytes),
            Self::Both(both) => both.write(spare, stream, bytes),
        }
    }

    fn file(&self) -> Option<&LogFile> {
        match self {
            Self::File(file) => Some(file),
            Self::Drivers(_) => None,
            Self::Both(both) => Some(&both.file),
        }
    }

    fn drivers(&mut self) -> Option<&mut Drivers> {
        match self {
            Self::File(_) => None,
            Self::Drivers(drivers) => Some(drivers),
            Self::Both(both) => Some(&mut both.drivers),
        }
    }

    /// The log that vmon keeps, if it was rotated.
    pub(crate) fn rotated(&self) -> Option<KeptGenerations> {
        self.file()?.rotated()
    }
}

/// The log of a channel, shared by its outputs.
#[derive(Debug)]
pub(crate) struct Log {
    target: LogTarget,
    /// Whether bytes are left out while the log can't be written, instead of waiting.
    drop: bool,
    /// Boxed: almost every log is being written.
    failure: Option<Box<Failure>>,
    ending: Ending,
    taken: u64,
    dropped: u64,
    /// Dropped bytes that the log does not report yet.
    unreported: u64,
    /// The rest of a line in the log that reports dropped bytes.
    notice: Vec<u8>,
    /// The size of the child's terminal, as last noted in the log.
    size: Option<Winsize>,
}

impl Log {
    pub(crate) fn new(target: LogTarget, drop: bool) -> Self {
        Self {
            target,
            drop,
            failure: None,
            ending: Ending::Open,
            taken: 0,
            dropped: 0,
            unreported: 0,
            notice: Vec::new(),
            size: None,
        }
    }

    /// The file, if it is one that vmon keeps.
    pub(crate) fn file(&mut self) -> Option<&mut LogFile> {
        match &mut self.target {
            LogTarget::File(file) => Some(file),
            LogTarget::Drivers(_) => None,
            LogTarget::Both(both) => Some(&mut both.file),
        }
    }

    /// What was written to, when nothing more is written.
    pub(crate) fn into_target(mut self) -> LogTarget {
        if let Some(drivers) = self.target.drivers() {
            drivers.end_run();
        }
        self.target
    }

    /// Opens the log again by its path.
    pub(crate) fn reopen(&mut self) -> Result<(), LogError> {
        match &mut self.target {
            LogTarget::File(file) => file.reopen(),
            LogTarget::Drivers(drivers) => drivers.reopen(),
            LogTarget::Both(both) => both.file.reopen().and(both.drivers.reopen()),
        }
    }

    /// Bytes of the child that the log has taken, whatever became of them. It grows with output.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Bytes of the child in the log. Of several drivers, every one has them.
    pub(crate) fn logged(&self) -> u64 {
        match &self.target {
            LogTarget::Drivers(drivers) if drivers.is_empty() => 0,
            LogTarget::Both(both) => self.taken.saturating_sub(both.file.held_back()),
            _ => self.taken.saturating_sub(self.missing()),
        }
    }

    /// Bytes of the child that the log lacks.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped + self.missing()
    }

    /// Bytes that were taken and are not in the log.
    fn missing(&self) -> u64 {
        match &self.target {
            LogTarget::File(file) => file.held_back(),
            LogTarget::Drivers(drivers) => drivers.dropped(),
            LogTarget::Both(both) => both.file.held_back() + both.drivers.dropped(),
        }
    }

    /// The error of the last write, and since when writes have failed.
    pub(crate) fn failure(&self) -> Option<(&str, Instant)> {
        self.failure.as_ref().map(|failure| (failure.reason.as_str(), failure.since))
    }

    /// Whether the next write is to be tried later.
    fn is_pausing(&self) -> bool {
        self.failure.as_ref().is_some_and(|failure| Instant::now() < failure.again)
    }

    /// Writes `bytes` of an output; returns how many are dealt with: in the log, or dropped. The
    /// rest must be offered again, after [`RETRY`]. `spare` is a buffer for the records of the
    /// log's format.
    pub(crate) fn write(&mut self, spare: &mut [u8], stream: Stream, bytes: &[u8]) -> usize {
        if self.is_pausing() || !self.report_unreported() {
            return self.refuse(stream, bytes.len(), 0);
        }
        let Taken { count, error } = self.target.write(spare, stream, bytes);
        self.taken += count as u64;
        match error {
            Some(error) => self.failed(&error),
            None if count < bytes.len() => self.stalled(),
            None => self.recovered(),
        }
        self.refuse(stream, bytes.len(), count)
    }

    /// Writes bytes that the log holds back, when nothing more comes. Returns false if that is to
    /// be tried again.
    pub(crate) fn finish(&mut self) -> bool {
        let unfinished = match &self.target {
            LogTarget::File(file) => file.is_unfinished(),
            LogTarget::Drivers(_) | LogTarget::Both(_) => true,
        };
        if self.ending == Ending::Over || !unfinished {
            self.ending = Ending::Over;
            return true;
        }
        if self.is_pausing() {
            self.ending = Ending::Waiting;
            return false;
        }
        let finished = match &mut self.target {
            LogTarget::File(file) => file.finish().map(|()| true),
            LogTarget::Drivers(drivers) => Ok(drivers.finish()),
            LogTarget::Both(both) => both.file.finish().map(|()| both.drivers.finish()),
        };
        self.ending = match finished {
            Ok(true) => Ending::Over,
            Ok(false) => {
                self.stalled();
                if self.drop { Ending::Over } else { Ending::Waiting }
            }
            Err(error) => {
                self.failed(&error);
                if self.drop { Ending::Over } else { Ending::Waiting }
            }
        };
        self.ending == Ending::Over
    }

    /// Whether [`finish`](Self::finish) has failed, and is to be tried again.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending == Ending::Waiting
    }

    /// Gives up bytes that can't be written.
    pub(crate) fn close<S: Copy>(&mut self, sources: &mut Sources<'_, S>) {
        self.report();
        if let Some(drivers) = self.target.drivers() {
            drivers.close(sources);
        }
        self.ending = Ending::Over;
    }

    /// Writes what drivers have in memory.
    pub(crate) fn flush<S: Copy>(&mut self, sources: &mut Sources<'_, S>) {
        if let Some(drivers) = self.target.drivers() {
            drivers.flush(sources);
        }
    }

    /// Watches what drivers wait for, under this key.
    pub(crate) fn follow<S: Copy>(&mut self, key: S, sources: &mut Sources<'_, S>) {
        if let Some(drivers) = self.target.drivers() {
            drivers.follow(key, sources);
        }
    }

    /// Whether drivers have something in memory that is to be written later.
    pub(crate) fn needs_retry(&self) -> bool {
        match &self.target {
            LogTarget::File(_) => false,
            LogTarget::Drivers(drivers) => drivers.need_retry(),
            LogTarget::Both(both) => both.drivers.need_retry(),
        }
    }

    /// Notes a mark before the bytes that come next.
    pub(crate) fn mark(&mut self, mark: Mark) {
        if let Some(file) = self.file() {
            file.mark(mark);
        }
    }

    /// The path of the log, if it is one that vmon keeps.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.target.file().map(LogFile::path)
    }

    /// The last bytes of the log, at most `most`; none if it can't be read.
    pub(crate) fn tail(&mut self, most: usize) -> Vec<u8> {
        let Some(file) = self.file() else { return Vec::new() };
        file.tail(most).unwrap_or_else(|error| {
            warn!("{error}");
            Vec::new()
        })
    }

    /// Notes a size of the child's terminal, unless it is the last one noted.
    pub(crate) fn note_size(&mut self, size: Winsize) {
        if self.size.replace(size).is_none_or(|known| known != size) {
            self.mark(Mark::Resize { columns: size.ws_col, rows: size.ws_row });
        }
    }

    /// Whether the log still has to report dropped bytes.
    pub(crate) fn has_unreported(&self) -> bool {
        self.unreported > 0 || !self.notice.is_empty()
    }

    /// Reports them in the log, if it can be written.
    pub(crate) fn report(&mut self) {
        if self.has_unreported() && self.report_unreported() {
            self.recovered();
        }
    }

    /// Reports bytes in the log that were left out before they came to it.
    pub(crate) fn report_dropped(&mut self, bytes: u64) {
        self.unreported += bytes;
        self.report();
    }

    /// Counts bytes that will never be in the log.
    pub(crate) fn give_up(&mut self, bytes: usize) {
        self.dropped += bytes as u64;
    }

    /// Returns how many of the bytes are dealt with that were offered, of which `written` are in the
    /// log.
    fn refuse(&mut self, stream: Stream, offered: usize, written: usize) -> usize {
        if !self.drop || written == offered {
            return written;
        }
        match &mut self.target {
            LogTarget::File(_) => {}
            LogTarget::Drivers(drivers) => drivers.skip(stream),
            LogTarget::Both(both) => both.skip(stream),
        }
        self.dropped += (offered - written) as u64;
        self.unreported += (offered - written) as u64;
        offered
    }

    /// Reports dropped bytes in the log; returns whether bytes of the child may follow.
    ///
    /// If nothing of the line could be written, the next attempt counts again: bytes that are
    /// dropped meanwhile belong before the bytes that follow the line.
    fn report_unreported(&mut self) -> bool {
        while self.has_unreported() {
            let begun = !self.notice.is_empty();
            let line = if begun { mem::take(&mut self.notice) } else { notice(self.unreported) };
            let Taken { count: written, error } = self.target.write(&mut [], Stream::Notice, &line);
            if begun || written > 0 {
                self.notice = line.get(written..).unwrap_or_default().to_vec();
            }
            if !begun && written > 0 {
                self.unreported = 0;
            }
            if let Some(error) = error {
                self.failed(&error);
                return false;
            }
            if written < line.len() {
                self.stalled();
                return false;
            }
        }
        true
    }

    fn failed(&mut self, error: &impl Display) {
        let now = Instant::now();
        let (reason, again) = (error.to_string(), now + RETRY);
        match &mut self.failure {
            Some(failure) if failure.failed => {
                failure.reason = reason;
                failure.again = again;
            }
            failure => {
                let policy =
                    if self.drop { "leaving bytes out" } else { "the child's output waits" };
                warn!("{reason}; {policy} until it works again");
                let since = failure.as_ref().map_or(now, |stalled| stalled.since);
                *failure = Some(Box::new(Failure { since, again, reason, failed: true }));
            }
        }
    }

    /// Notes that a driver takes no more for now. That is visible, and no failure: the next write is
    /// tried as soon as there is one.
    fn stalled(&mut self) {
        let now = Instant::now();
        let since = self.failure.as_ref().map_or(now, |failure| failure.since);
        let failed = self.failure.as_ref().is_some_and(|failure| failure.failed);
        let reason = "the journal takes no more entries for now".to_owned();
        self.failure = Some(Box::new(Failure { since, again: now, reason, failed }));
    }

    fn recovered(&mut self) {
        if self.failure.take().is_some_and(|failure| failure.failed) {
            let log = self.path().map(|path| display(path.display()));
            info!(log, "the log can be written again");
        }
    }
}

#[cfg(all(test, feature = "journald", target_os = "linux"))]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::journal::{Journal, JournalOptions};
    use crate::logfile::LogOptions;

    #[test]
    fn a_slow_journal_beside_the_file_loses_and_repeats_nothing_in_either() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let file = LogFile::open(directory.path(), "c", "x", LogOptions::default()).unwrap();
        let options = JournalOptions { socket: path, ..JournalOptions::default() };
        let drivers = Drivers::new([Journal::new(options).into()]);
        let mut log = Log::new(LogTarget::Both(Box::new(Both::new(file, drivers))), false);

        let text: String = (0..30_000).map(|number| format!("{number:099}\n")).collect();
        let (mut taken, mut stalled, mut entries) = (0, false, String::new());
        let mut buffer = [0; 1000];
        while taken < text.len() || !log.finish() {
            let rest = &text.as_bytes()[taken..];
            let count = log.write(&mut [], Stream::Stdout, rest);
            taken += count;
            stalled |= count < rest.len() && log.failure().is_some();
            while let Ok(count) = socket.recv(&mut buffer) {
                let entry = str::from_utf8(&buffer[..count]).unwrap();
                let line = entry.split('\n').next().unwrap();
                entries.push_str(line.strip_prefix("MESSAGE=").unwrap());
                entries.push('\n');
            }
        }
        while let Ok(count) = socket.recv(&mut buffer) {
            let entry = str::from_utf8(&buffer[..count]).unwrap();
            entries.push_str(entry["MESSAGE=".len()..].split_inclusive('\n').next().unwrap());
        }
        assert!(stalled, "the queue was never full");
        assert!(entries == text);
        assert!(fs::read(directory.path().join("c/x.log")).unwrap() == text.as_bytes());
        assert_eq!((log.logged(), log.dropped()), (text.len() as u64, 0));
    }
}
