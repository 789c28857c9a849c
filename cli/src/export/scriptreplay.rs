//! The format of script(1) and scriptreplay(1): one file with the bytes and one with their times,
//! in the advanced format that also has window sizes (util-linux 2.35 and later).

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use vmon::logfile::read::Entry;
use vmon::logfile::{Mark, Timestamp};

use super::About;
use crate::messages::printable;
use crate::timeline::Timeline;

/// The contents of both files.
#[derive(Debug, Default)]
pub struct Script {
    pub script: Vec<u8>,
    pub timing: Vec<u8>,
}

/// A script recording.
#[derive(Debug)]
pub struct Recording {
    about: About,
    size: Option<(u16, u16)>,
    /// Whether the headers are written.
    begun: bool,
    timeline: Timeline,
    /// Time of the last entry written, in microseconds.
    written: u64,
}

impl Recording {
    pub fn new(about: About) -> Self {
        Self { about, size: None, begun: false, timeline: Timeline::default(), written: 0 }
    }

    /// Appends an entry to both files.
    pub fn entry(&mut self, entry: &Entry<'_>, out: &mut Script) {
        match *entry {
            Entry::Mark { time, mark: mark @ Mark::Start { .. } } => {
                self.timeline.mark(time, mark);
            }
            Entry::Mark { time, mark: Mark::Resize { columns, rows } } => {
                let at = self.timeline.at(Some(time));
                let before = self.size.replace((columns, rows));
                if self.begun && before != self.size {
                    let delay = self.delay(at);
                    line(out, &format!("S {delay} SIGWINCH ROWS={rows} COLS={columns}"));
                }
            }
            Entry::Mark { time, mark } => {
                self.timeline.mark(time, mark);
            }
            Entry::Bytes { time, bytes, .. } => {
                let at = self.timeline.at(time);
                self.begin(out);
                let delay = self.delay(at);
                line(out, &format!("O {delay} {}", bytes.len()));
                out.script.extend_from_slice(bytes);
            }
        }
    }

    /// Appends what is pending.
    pub fn finish(&mut self, out: &mut Script) {
        self.begin(out);
    }

    fn begin(&mut self, out: &mut Script) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let mut head = "Script started".to_owned();
        let started = self.timeline.moment().map(short);
        if let Some(started) = &started {
            head.push_str(&format!(" on {started}"));
        }
        // A player skips the first line.
        out.script
            .extend_from_slice(format!("{head} [{}]\n", printable(&self.about.title)).as_bytes());
        let mut headers = Vec::new();
        headers.extend(started.map(|started| ("START_TIME", started)));
        if let Some((columns, rows)) = self.size {
            headers.extend([("COLUMNS", columns.to_string()), ("LINES", rows.to_string())]);
        }
        headers.extend(
            self.about.command.as_ref().map(|command| ("COMMAND", printable(command).into_owned())),
        );
        for (name, value) in headers {
            line(out, &format!("H {} {name} {value}", Delay(0)));
        }
    }

    /// The delay since the last entry. Computed from absolute times, so that rounding errors do not
    /// add up.
    fn delay(&mut self, at: Duration) -> Delay {
        let at = u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
        let delay = at.saturating_sub(self.written);
        self.written = at;
        Delay(delay)
    }
}

/// In microseconds.
struct Delay(u64);

impl std::fmt::Display for Delay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

fn line(out: &mut Script, line: &str) {
    out.timing.extend_from_slice(line.as_bytes());
    out.timing.push(b'\n');
}

fn short(moment: Timestamp) -> String {
    let time =
        DateTime::<Utc>::from(std::time::UNIX_EPOCH + Duration::from_nanos(moment.nanoseconds()));
    time.to_rfc3339_opts(SecondsFormat::Secs, false).replacen('T', " ", 1)
}
