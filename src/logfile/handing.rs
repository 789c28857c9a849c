//! Which generations wait for somebody to work on each of them, to compress it say, and who works
//! now: on disk too, so that none is forgotten when a process or a machine goes down.
//!
//! The note is `<name>.log.todo`, one line, and is there only while there is anything to say: the
//! number of the first generation that nobody has finished, and where somebody is at work also that
//! of the last one which he has got, and a word of who he is. Generations that are not there, or
//! compressed, have been taken care of.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::directory::Directory;
use super::{LogError, LogFile, LogOptions};

/// What the name of the note ends with.
const SUFFIX: &str = ".todo";

/// Longer ones are not ours.
const LONGEST: u64 = 1024;

/// A generation that has been rotated away.
#[derive(Debug, Clone)]
pub(crate) struct Rotated {
    pub(crate) number: u64,
    /// Absolute.
    pub(crate) path: PathBuf,
}

/// What waits, and who works.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Handing {
    /// Those of this number and above wait; `None` for none.
    next: Option<u64>,
    at_work: Option<AtWork>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct AtWork {
    first: u64,
    last: u64,
    who: String,
    /// Not read from a note.
    ours: bool,
}

impl Handing {
    /// What an earlier `LogFile` has left to be done.
    pub(super) fn read(directory: &Directory, log: &str) -> Self {
        match directory.read(&format!("{log}{SUFFIX}"), LONGEST) {
            Ok(Some(note)) => Self::parse(&note),
            Ok(None) => Self::default(),
            Err(error) => {
                tracing::warn!(%error, "what waits to be worked on is not known");
                Self::default()
            }
        }
    }

    /// Somebody who works, and whose generation is not known.
    pub(super) fn stranger(&self) -> Option<&AtWork> {
        self.at_work.as_ref().filter(|at_work| !at_work.ours)
    }

    /// What a note says. Of one that can't be read everything is to be done: better twice than
    /// never.
    fn parse(note: &[u8]) -> Self {
        let text = String::from_utf8_lossy(note);
        // What follows is left of an earlier, longer one.
        let mut words = text.lines().next().unwrap_or_default().trim_end().splitn(3, ' ');
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        match (number(), number()) {
            (Some(first), Some(last)) => {
                let who = words.next().unwrap_or_default().to_owned();
                let at_work = Some(AtWork { first, last, who, ours: false });
                Self { next: last.checked_add(1), at_work }
            }
            (first, _) => Self { next: Some(first.unwrap_or(0)), at_work: None },
        }
    }

    fn note(&self) -> Option<String> {
        let mut line = String::new();
        match (&self.at_work, self.next) {
            (Some(AtWork { first, last, who, .. }), _) => writeln!(line, "{first} {last} {who}"),
            (None, Some(next)) => writeln!(line, "{next}"),
            (None, None) => return None,
        }
        // A String takes everything.
        .map_or(None, |()| Some(line))
    }

    /// A note that can't be written is missed only after a crash; the log goes on.
    fn put(&self, directory: &Directory, log: &str) {
        let name = format!("{log}{SUFFIX}");
        let put = match self.note() {
            Some(line) => directory.overwrite(&name, line.as_bytes()),
            None => directory.remove(&name),
        };
        if let Err(error) = put {
            tracing::debug!(%error, "what waits is not on disk");
        }
    }

    /// The next one to be rotated away has this number: noted before that is done.
    pub(super) fn expect(&mut self, number: u64, directory: &Directory, log: &str) {
        if self.next.is_none() {
            self.next = Some(number);
            if self.at_work.is_none() {
                self.put(directory, log);
            }
        }
    }
}

impl LogFile {
    /// As [`open`](Self::open), and keeps in mind which generations wait to be worked on.
    pub(crate) fn open_handing_out(
        log_dir: &Path,
        config_file: &str,
        name: &str,
        options: LogOptions,
    ) -> Result<Self, LogError> {
        Self::open_as(log_dir, config_file, name, options, true)
    }

    /// Who is said to be at work since before the log was opened.
    pub(crate) fn stranger_at_work(&self) -> Option<&str> {
        Some(&self.handing.as_ref()?.stranger()?.who)
    }

    /// The first generation that waits, unless somebody is at work. Those that are gone or
    /// compressed are passed over.
    pub(crate) fn hand_out(&mut self) -> Option<Rotated> {
        let handing = self.handing.as_ref()?;
        let next = handing.next?;
        if handing.at_work.is_some() {
            return None;
        }
        let directory = self.place.existing().ok()??;
        let log = self.place.log_name();
        self.generations.survey(&directory, log).ok()?;
        let found = self.generations.plain_from(&directory, log, next);
        let handing = self.handing.as_mut()?;
        let Some(number) = found else {
            handing.next = None;
            handing.put(&directory, log);
            return None;
        };
        // Somebody who is gone may have begun, a moment before that could be noted.
        self.generations.remove_compressed(&directory, log, number);
        handing.next = Some(number);
        // Before anybody makes something beside it.
        self.generations.work_begins(&directory, log, number);
        let path = directory.path().join(super::generations::name(log, number));
        Some(Rotated { number, path })
    }

    /// Somebody works on this generation, which was handed out.
    pub(crate) fn work_begins(&mut self, number: u64, who: String) {
        self.work(number, number, who);
    }

    /// Nobody works on what was handed out: it waits still.
    pub(crate) fn take_back(&mut self) {
        self.generations.work_is_put_off();
    }

    /// Somebody has got all that wait, and those from `first` on that were not finished.
    pub(crate) fn work_is_left(&mut self, first: u64, last: u64, who: String) {
        self.work(first, last, who);
    }

    fn work(&mut self, first: u64, last: u64, who: String) {
        let Some(handing) = &mut self.handing else { return };
        handing.at_work = Some(AtWork { first, last, who, ours: true });
        handing.next = last.checked_add(1);
        if let Ok(Some(directory)) = self.place.existing() {
            handing.put(&directory, self.place.log_name());
        }
    }

    /// Whoever worked on this generation has ended. Where that failed and it is still there, what
    /// was made of it is removed.
    pub(crate) fn work_ends(&mut self, number: u64, succeeded: bool) {
        let Some(handing) = &mut self.handing else { return };
        handing.at_work = None;
        let Ok(Some(directory)) = self.place.existing() else { return };
        let log = self.place.log_name();
        if !succeeded {
            self.generations.remove_compressed(&directory, log, number);
        }
        self.generations.work_ends(&directory, log, number);
        if self.generations.survey(&directory, log).is_ok() {
            self.generations.prune(&directory, log, &self.keep());
        }
        self.note_what_waits(&directory);
    }

    /// Whoever was at work is gone, and nobody has seen how he ended: what he has left waits again.
    pub(crate) fn work_was_lost(&mut self) {
        let Some(handing) = &mut self.handing else { return };
        if let Some(AtWork { first, .. }) = handing.at_work.take() {
            handing.next = Some(first);
        }
        // What he has made of them is to be learnt.
        self.generations.forget();
        if let Ok(Some(directory)) = self.place.existing() {
            self.note_what_waits(&directory);
        }
    }

    /// The first and the last that wait, or will when whoever works has ended: those above the one
    /// that is known to be `at_work`, else those too that a stranger has got.
    pub(crate) fn waiting(&mut self, at_work: Option<u64>) -> Option<(u64, u64)> {
        let handing = self.handing.as_ref()?;
        let next = match (at_work, handing.stranger()) {
            (Some(number), _) => number.checked_add(1)?,
            (None, Some(stranger)) => stranger.first,
            (None, None) => handing.next?,
        };
        let directory = self.place.existing().ok()??;
        let log = self.place.log_name();
        self.generations.survey(&directory, log).ok()?;
        let first = self.generations.plain_from(&directory, log, next)?;
        Some((first, self.generations.newest()?))
    }

    fn note_what_waits(&mut self, directory: &Directory) {
        let Some(handing) = &mut self.handing else { return };
        let log = self.place.log_name();
        // What has not been looked for is not gone.
        if self.generations.survey(directory, log).is_ok() {
            handing.next = handing.next.filter(|&next| self.generations.next() > next);
        }
        handing.put(directory, log);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logfile::{Retention, Stream};

    #[test]
    fn a_note_says_again_what_was_noted() {
        let at_work =
            |first, last, who: &str| AtWork { first, last, who: who.to_owned(), ours: false };
        for (handing, note) in [
            (Handing { next: Some(7), at_work: None }, Some("7\n")),
            (Handing::default(), None),
            (
                Handing { next: Some(10), at_work: Some(at_work(8, 9, "1 2 x")) },
                Some("8 9 1 2 x\n"),
            ),
        ] {
            assert_eq!(handing.note().as_deref(), note);
            if let Some(note) = note {
                assert_eq!(Handing::parse(note.as_bytes()), handing);
            }
        }
    }

    #[test]
    fn only_the_first_line_of_a_note_counts() {
        let handing = Handing::parse(b"10\n9 2 5 4026531836 x\n");
        assert_eq!(handing, Handing { next: Some(10), at_work: None });
    }

    #[test]
    fn what_was_lost_waits_again_in_a_log_that_has_not_been_rotated_since() {
        let directory = tempfile::tempdir().unwrap();
        let retention = Retention { max_size: 10, max_files: 9, ..Retention::default() };
        let options = LogOptions { retention, ..LogOptions::default() };
        let open = || LogFile::open_handing_out(directory.path(), "c", "x", options).unwrap();
        let mut log = open();
        log.write(Stream::Stdout, b"0123456789\n0123456789\n01234").unwrap();
        let first = log.hand_out().unwrap();
        log.work_begins(first.number, "1 2 3 x".to_owned());
        drop(log);
        let mut log = open();
        assert_eq!(log.stranger_at_work(), Some("1 2 3 x"));
        log.work_was_lost();
        assert!(directory.path().join("c/x.log.todo").exists());
        assert_eq!(log.hand_out().map(|rotated| rotated.number), Some(first.number));
    }

    #[test]
    fn what_a_broken_note_says_is_that_everything_waits() {
        for note in ["", "\n", "x", "\u{0}\u{0}", "-1"] {
            assert_eq!(Handing::parse(note.as_bytes()).next, Some(0), "{note:?}");
        }
    }
}
