//! The queue of the post-rotate command: the generations that it has not processed yet, and the
//! command that runs now. The queue is also on disk, so that a crash of the process or the machine
//! loses no generation.
//!
//! The queue file is `<name>.log.todo`, one line. It exists only while the queue is not empty or a
//! command runs. It has the number of the first unfinished generation. While a command runs, it
//! also has the number of the last generation that was passed to the command, and the identity of
//! its process. Generations that are compressed or do not exist count as finished.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::directory::Directory;
use super::{LogError, LogFile, LogOptions, names};

/// The longest queue file that is read.
const LONGEST: u64 = 1024;

/// A generation that the post-rotate command is to process.
#[derive(Debug, Clone)]
pub(crate) struct Rotated {
    pub(crate) number: u64,
    /// The absolute path.
    pub(crate) path: PathBuf,
}

/// The queue, and the command that runs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PostRotateQueue {
    /// The number of the first generation in the queue; `None` if the queue is empty.
    next: Option<u64>,
    at_work: Option<AtWork>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct AtWork {
    first: u64,
    last: u64,
    process: String,
    /// Whether this process started the command. Otherwise it was read from the queue file.
    started_here: bool,
}

impl PostRotateQueue {
    /// Reads the queue that an earlier run has left.
    pub(super) fn read(directory: &Directory, log: &str) -> Self {
        match directory.read(&names::queue(log), LONGEST) {
            Ok(Some(note)) => Self::parse(&note),
            Ok(None) => Self::default(),
            Err(error) => {
                tracing::warn!("{error}; the queue of the post-rotate command is lost");
                Self::default()
            }
        }
    }

    /// A command of an earlier run. The generation that it works on is not known.
    pub(super) fn inherited(&self) -> Option<&AtWork> {
        self.at_work.as_ref().filter(|at_work| !at_work.started_here)
    }

    /// Decodes a queue file. A damaged one queues every generation: processing one twice is better
    /// than never.
    fn parse(note: &[u8]) -> Self {
        let text = String::from_utf8_lossy(note);
        // Further lines are the rest of an earlier, longer queue file.
        let mut words = text.lines().next().unwrap_or_default().trim_end().splitn(3, ' ');
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        match (number(), number()) {
            (Some(first), Some(last)) => {
                let process = words.next().unwrap_or_default().to_owned();
                let at_work = Some(AtWork { first, last, process, started_here: false });
                Self { next: last.checked_add(1), at_work }
            }
            (first, _) => Self { next: Some(first.unwrap_or(0)), at_work: None },
        }
    }

    fn encode(&self) -> Option<String> {
        let mut line = String::new();
        match (&self.at_work, self.next) {
            (Some(AtWork { first, last, process, .. }), _) => {
                writeln!(line, "{first} {last} {process}")
            }
            (None, Some(next)) => writeln!(line, "{next}"),
            (None, None) => return None,
        }
        // Writing to a String never fails.
        .map_or(None, |()| Some(line))
    }

    /// Writes or removes the queue file. A failure matters only after a crash, so the log goes on.
    fn save(&self, directory: &Directory, log: &str) {
        let name = names::queue(log);
        let saved = match self.encode() {
            Some(line) => directory.overwrite(&name, line.as_bytes()),
            None => directory.remove(&name),
        };
        if let Err(error) = saved {
            tracing::debug!(%error, "the queue of the post-rotate command is not on disk");
        }
    }

    /// Queues the generation that a rotation is about to make.
    pub(super) fn expect(&mut self, number: u64, directory: &Directory, log: &str) {
        if self.next.is_none() {
            self.next = Some(number);
            if self.at_work.is_none() {
                self.save(directory, log);
            }
        }
    }
}

impl LogFile {
    /// As [`open`](Self::open), with a queue for the post-rotate command.
    pub(crate) fn open_with_queue(
        log_dir: &Path,
        config_file: &str,
        name: &str,
        options: LogOptions,
    ) -> Result<Self, LogError> {
        Self::open_as(log_dir, config_file, name, options, true)
    }

    /// The process of a command of an earlier run, as the queue file has it.
    pub(crate) fn earlier_command(&self) -> Option<&str> {
        Some(&self.queue.as_ref()?.inherited()?.process)
    }

    /// The first generation in the queue, unless a command runs. Removed and compressed ones are
    /// skipped.
    pub(crate) fn next_rotated(&mut self) -> Option<Rotated> {
        let queue = self.queue.as_ref()?;
        let next = queue.next?;
        if queue.at_work.is_some() {
            return None;
        }
        let directory = self.place.existing().ok()??;
        let log = self.place.log_name();
        self.generations.survey(&directory, log).ok()?;
        let found = self.generations.plain_from(&directory, log, next);
        let queue = self.queue.as_mut()?;
        let Some(number) = found else {
            queue.next = None;
            queue.save(&directory, log);
            return None;
        };
        // A command may have started before a crash and before the queue file recorded it.
        self.generations.remove_compressed(&directory, log, number);
        queue.next = Some(number);
        // Measured before the command creates a file beside it.
        self.generations.work_begins(&directory, log, number);
        let path = directory.path().join(names::generation(log, number));
        Some(Rotated { number, path })
    }

    /// The command was started for this generation.
    pub(crate) fn work_begins(&mut self, number: u64, process: String) {
        self.work(number, number, process);
    }

    /// The command was not started: the generation stays in the queue.
    pub(crate) fn take_back(&mut self) {
        self.generations.work_is_put_off();
    }

    /// A process that outlives this one got the unfinished generations from `first` to `last`.
    pub(crate) fn work_is_left(&mut self, first: u64, last: u64, process: String) {
        self.work(first, last, process);
    }

    fn work(&mut self, first: u64, last: u64, process: String) {
        let Some(queue) = &mut self.queue else { return };
        queue.at_work = Some(AtWork { first, last, process, started_here: true });
        queue.next = last.checked_add(1);
        if let Ok(Some(directory)) = self.place.existing() {
            queue.save(&directory, self.place.log_name());
        }
    }

    /// The command for this generation has ended. If it failed and the generation still exists, its
    /// partial output is removed.
    pub(crate) fn work_ends(&mut self, number: u64, succeeded: bool) {
        let Some(queue) = &mut self.queue else { return };
        queue.at_work = None;
        let Ok(Some(directory)) = self.place.existing() else { return };
        let log = self.place.log_name();
        if !succeeded {
            self.generations.remove_compressed(&directory, log, number);
        }
        self.generations.work_ends(&directory, log, number);
        if self.generations.survey(&directory, log).is_ok() {
            self.generations.prune(&directory, log, &self.keep());
        }
        self.update(&directory);
    }

    /// The command ended with an unknown status: its unfinished generations are queued again.
    pub(crate) fn work_was_lost(&mut self) {
        let Some(queue) = &mut self.queue else { return };
        if let Some(AtWork { first, .. }) = queue.at_work.take() {
            queue.next = Some(first);
        }
        // The command may have compressed some of them.
        self.generations.forget();
        if let Ok(Some(directory)) = self.place.existing() {
            self.update(&directory);
        }
    }

    /// The first and the last generation in the queue after the running command. With `at_work`,
    /// those above that number; with a command of an earlier run, also those passed to it.
    pub(crate) fn waiting(&mut self, at_work: Option<u64>) -> Option<(u64, u64)> {
        let queue = self.queue.as_ref()?;
        let next = match (at_work, queue.inherited()) {
            (Some(number), _) => number.checked_add(1)?,
            (None, Some(inherited)) => inherited.first,
            (None, None) => queue.next?,
        };
        let directory = self.place.existing().ok()??;
        let log = self.place.log_name();
        self.generations.survey(&directory, log).ok()?;
        let first = self.generations.plain_from(&directory, log, next)?;
        Some((first, self.generations.newest()?))
    }

    fn update(&mut self, directory: &Directory) {
        let Some(queue) = &mut self.queue else { return };
        let log = self.place.log_name();
        // The queue is kept if the directory can't be read.
        if self.generations.survey(directory, log).is_ok() {
            queue.next = queue.next.filter(|&next| self.generations.next() > next);
        }
        queue.save(directory, log);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logfile::{Retention, Stream};

    #[test]
    fn a_queue_file_is_decoded_as_it_was_encoded() {
        let at_work = |first, last, process: &str| AtWork {
            first,
            last,
            process: process.to_owned(),
            started_here: false,
        };
        for (queue, note) in [
            (PostRotateQueue { next: Some(7), at_work: None }, Some("7\n")),
            (PostRotateQueue::default(), None),
            (
                PostRotateQueue { next: Some(10), at_work: Some(at_work(8, 9, "1 2 x")) },
                Some("8 9 1 2 x\n"),
            ),
        ] {
            assert_eq!(queue.encode().as_deref(), note);
            if let Some(note) = note {
                assert_eq!(PostRotateQueue::parse(note.as_bytes()), queue);
            }
        }
    }

    #[test]
    fn only_the_first_line_of_a_queue_file_counts() {
        let queue = PostRotateQueue::parse(b"10\n9 2 5 4026531836 x\n");
        assert_eq!(queue, PostRotateQueue { next: Some(10), at_work: None });
    }

    #[test]
    fn unfinished_work_is_queued_again_in_a_log_that_was_not_rotated_since() {
        let directory = tempfile::tempdir().unwrap();
        let retention = Retention { max_size: 10, max_files: 9, ..Retention::default() };
        let options = LogOptions { retention, ..LogOptions::default() };
        let open = || LogFile::open_with_queue(directory.path(), "c", "x", options).unwrap();
        let mut log = open();
        log.write(Stream::Stdout, b"0123456789\n0123456789\n01234").unwrap();
        let first = log.next_rotated().unwrap();
        log.work_begins(first.number, "1 2 3 x".to_owned());
        drop(log);
        let mut log = open();
        assert_eq!(log.earlier_command(), Some("1 2 3 x"));
        log.work_was_lost();
        assert!(directory.path().join("c/x.log.todo").exists());
        assert_eq!(log.next_rotated().map(|rotated| rotated.number), Some(first.number));
    }

    #[test]
    fn a_damaged_queue_file_queues_every_generation() {
        for note in ["", "\n", "x", "\u{0}\u{0}", "-1"] {
            assert_eq!(PostRotateQueue::parse(note.as_bytes()).next, Some(0), "{note:?}");
        }
    }
}
