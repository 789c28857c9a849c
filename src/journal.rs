//! Output of a child in the journal of systemd, by journald's native protocol (systemd's
//! `JOURNAL_NATIVE_PROTOCOL`): one datagram for each line. Linux only.
//!
//! Nothing waits here, and nothing is lost while journald is slow or is restarted: entries wait in
//! a bounded queue, and when that is full, no more is taken.

mod field;
mod socket;

use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use crate::logfile::Stream;
pub use field::{Field, FieldError};
use socket::{Put, Socket};

/// The most bytes of a line without a newline that wait for the rest of the line.
const WAITING: usize = 8191;

/// The most bytes that a long line is cut into, as in records of a log.
const LONGEST: usize = 16 << 10;

const MESSAGE: &[u8] = b"MESSAGE";
const INFORMATION: &[u8] = b"PRIORITY=6\n";
const ERROR: &[u8] = b"PRIORITY=3\n";

/// The entries of a [`Journal`]: their socket and their fields.
///
/// An entry has `MESSAGE`, the fields of `before_priority`, `PRIORITY` (6 for standard output and
/// terminals, 3 for standard error), those of `after_priority`, `partial` if the entry ends no
/// line, `last`, and the level.
///
/// ```
/// use vmon::journal::{Field, JournalOptions};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let options = JournalOptions {
///     after_priority: vec![Field::new("SYSLOG_IDENTIFIER", "web")?],
///     ..JournalOptions::default()
/// };
/// assert!(options.socket.ends_with("journal/socket"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct JournalOptions {
    /// The socket of journald: `/run/systemd/journal/socket` by default.
    pub socket: PathBuf,
    /// Fields of every entry, before its priority.
    pub before_priority: Vec<Field>,
    /// Fields of every entry, after its priority.
    pub after_priority: Vec<Field>,
    /// A field of entries that end no line.
    pub partial: Option<Field>,
    /// Further fields of every entry.
    pub last: Vec<Field>,
    /// The name of a field for the level of a line that begins with `<0>` to `<7>`, as sd-daemon(3)
    /// has it: the digit. The line keeps these characters, and `PRIORITY` stays 6 or 3, because
    /// `podman logs` ends at any other. journald leaves out a name that [`Field::new`] would refuse.
    pub level: Option<&'static str>,
    /// Whether a line keeps its newline in `MESSAGE`. Otherwise the newline is left out, and a
    /// carriage return before it, which a terminal adds.
    pub keep_newline: bool,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self {
            socket: socket::default_path().to_owned(),
            before_priority: Vec::new(),
            after_priority: Vec::new(),
            partial: None,
            last: Vec::new(),
            level: None,
            keep_newline: false,
        }
    }
}

/// Sends the lines of a child to the journal. It is given to a monitor as a [log
/// driver](crate::monitor::LogDriver).
///
/// A line is put together from several reads. Of one without a newline, up to 8,191 bytes wait for
/// the rest, for each stream; longer ones, and what waits at the end of the child, are sent as
/// partial entries of at most 16 KiB and what waited. Bytes are sent as they are. An entry that is
/// too large for a datagram is sent as a sealed file in memory (memfd_create(2)).
///
/// While journald does not read, up to 1 MiB of entries wait, and after that the child. While it is
/// restarted they wait for ten seconds. Without a journald, entries are dropped and counted: with
/// one warning if it has gone, without any if it was never there.
///
/// After a crash of this process, the journal has all entries that did not wait.
///
/// ```
/// use vmon::journal::{Journal, JournalOptions};
/// use vmon::monitor::{LogDriver, Monitor, Sandbox};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let journal = Journal::new(JournalOptions::default());
/// let sandbox = Sandbox::new("web", "/var/lib/host/log")?;
/// let builder = Monitor::builder(sandbox).log_drivers([LogDriver::Journal(journal)]);
/// # drop(builder);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Journal {
    socket: Socket,
    fields: Fields,
    stdout: Line,
    stderr: Line,
    dropped: u64,
}

/// The parts of an entry that are always the same.
#[derive(Debug)]
struct Fields {
    before_priority: Box<[u8]>,
    after_priority: Box<[u8]>,
    partial: Box<[u8]>,
    last: Box<[u8]>,
    level: Option<&'static str>,
    keep_newline: bool,
}

/// The line of a stream that has not ended.
#[derive(Debug, Default)]
struct Line {
    waiting: Vec<u8>,
    /// Whether a part of it has been sent.
    begun: bool,
}

impl Journal {
    /// Connects with the first entry.
    pub fn new(options: JournalOptions) -> Self {
        let JournalOptions { socket, before_priority, after_priority, partial, last, .. } =
            &options;
        let fields = Fields {
            before_priority: Field::join(before_priority),
            after_priority: Field::join(after_priority),
            partial: Field::join(partial.as_slice()),
            last: Field::join(last),
            level: options.level,
            keep_newline: options.keep_newline,
        };
        let (stdout, stderr) = (Line::default(), Line::default());
        Self { socket: Socket::new(socket.clone()), fields, stdout, stderr, dropped: 0 }
    }

    /// How many bytes of the child's no journald has taken.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Sends the lines of `bytes`, or has them wait; returns how many bytes are dealt with. The rest
    /// is to be offered again once [`flush`](Self::flush) has made room.
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) -> usize {
        if self.socket.is_waiting() {
            self.flush();
        }
        let Self { socket, fields, stdout, stderr, dropped } = self;
        let (line, priority) = match stream {
            Stream::Stdout | Stream::Tty => (stdout, INFORMATION),
            Stream::Stderr | Stream::Notice => (stderr, ERROR),
        };
        let mut taken = 0;
        while let Some(rest) = bytes.get(taken..)
            && !rest.is_empty()
        {
            let most = rest.get(..LONGEST).unwrap_or(rest);
            let (part, ends) = match memchr::memchr(b'\n', most) {
                Some(at) => (most.get(..=at).unwrap_or_default(), true),
                None => (most, false),
            };
            let is_last = part.len() == rest.len();
            if !ends && is_last && line.waiting.len() + part.len() <= WAITING {
                line.waiting.extend(part);
                return bytes.len();
            }
            match fields.send(socket, priority, line, part, ends) {
                Put::Taken => {}
                Put::Lost => *dropped += (line.waiting.len() + part.len()) as u64,
                Put::Full => return taken,
            }
            line.waiting = Vec::new();
            line.begun = !ends;
            taken += part.len();
        }
        taken
    }

    /// Sends unfinished lines, at the end of a run. Returns whether nothing waits any more.
    pub(crate) fn finish(&mut self) -> bool {
        self.flush();
        let Self { socket, fields, stdout, stderr, dropped } = self;
        for (line, priority) in [(stdout, INFORMATION), (stderr, ERROR)] {
            if !line.waiting.is_empty() {
                match fields.send(socket, priority, line, b"", false) {
                    Put::Taken => {}
                    Put::Lost => *dropped += line.waiting.len() as u64,
                    Put::Full => return false,
                }
            }
            *line = Line::default();
        }
        !socket.is_waiting()
    }

    /// Sends entries that wait.
    pub(crate) fn flush(&mut self) {
        self.dropped += self.socket.flush();
    }

    /// Whether entries wait.
    pub(crate) fn is_waiting(&self) -> bool {
        self.socket.is_waiting()
    }

    /// The descriptor that becomes writable when entries that wait can be sent.
    pub(crate) fn waits_on(&self) -> Option<BorrowedFd<'_>> {
        self.socket.waits_on()
    }

    /// Gives up everything that waits.
    pub(crate) fn give_up(&mut self) {
        let lines = self.stdout.waiting.len() + self.stderr.waiting.len();
        self.dropped += self.socket.give_up() + lines as u64;
        (self.stdout, self.stderr) = (Line::default(), Line::default());
    }
}

impl Fields {
    /// Sends the waiting bytes of a line and this part of it as one entry.
    fn send(
        &self,
        socket: &mut Socket,
        priority: &[u8],
        line: &Line,
        part: &[u8],
        ends: bool,
    ) -> Put {
        let carries = line.waiting.len() + part.len();
        let (start, end) = match ends && !self.keep_newline {
            true => without_newline(&line.waiting, part),
            false => (line.waiting.as_slice(), part),
        };
        let binary = field::binary_head(start.len() + end.len());
        let head: &[u8] = if ends && self.keep_newline { &binary } else { b"=" };
        let level = self.level.filter(|_| !line.begun).and_then(|name| level(name, start, end));
        let level = level.unwrap_or_default();
        let entry = [
            MESSAGE,
            head,
            start,
            end,
            b"\n",
            &self.before_priority,
            priority,
            &self.after_priority,
            if ends { b"" } else { &self.partial },
            &self.last,
            &level,
        ];
        socket.put(&entry.map(IoSlice::new), carries)
    }
}

/// The field for the level that a line begins with.
fn level(name: &str, start: &[u8], end: &[u8]) -> Option<Vec<u8>> {
    let mut first = start.iter().chain(end).copied();
    match [first.next()?, first.next()?, first.next()?] {
        [b'<', digit @ b'0'..=b'7', b'>'] => {
            Some([name.as_bytes(), b"=", &[digit], b"\n"].concat())
        }
        _ => None,
    }
}

/// The two parts of a line without the newline at its end, and a carriage return before that.
fn without_newline<'a>(start: &'a [u8], end: &'a [u8]) -> (&'a [u8], &'a [u8]) {
    let end = end.strip_suffix(b"\n").unwrap_or(end);
    match end {
        [] => (start.strip_suffix(b"\r").unwrap_or(start), end),
        _ => (start, end.strip_suffix(b"\r").unwrap_or(end)),
    }
}

#[cfg(test)]
mod tests;
