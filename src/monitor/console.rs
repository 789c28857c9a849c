//! The description of a console: its name, and where it is.
//!
//! Only a description: nothing here touches the disk or a descriptor.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::name::{Name, NameError};

/// The name of a console without a name of its own.
pub const DEFAULT_CONSOLE_NAME: &str = "console";

/// The name of the child's own streams where a console can be named. No console can have it.
pub const STDIO: &str = "stdio";

/// The name of another log beside that of a sandbox.
const SUPERVISOR: &str = "supervisor";

/// Checks whether a console may have this name.
///
/// # Errors
///
/// [`ConsoleError::Reserved`].
pub(super) fn check_name(name: &Name) -> Result<(), ConsoleError> {
    match name.as_str() {
        STDIO => Err(ConsoleError::Reserved(STDIO, "the child's own streams")),
        SUPERVISOR => Err(ConsoleError::Reserved(SUPERVISOR, "the supervisor's messages")),
        _ => Ok(()),
    }
}

/// A console of a sandbox, beside the child's own streams, such as the serial port of a microVM.
///
/// Each has a log of its own, `<log dir>/<config file>/<name>@<console>.log`.
/// [Attached](super::Monitor::attach) clients may write to it, except to a FIFO.
///
/// ```
/// use vmon::monitor::{Console, Sandbox};
///
/// # #[cfg(not(feature = "consoles"))]
/// # fn main() {}
/// # #[cfg(feature = "consoles")]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sandbox = Sandbox::new("web", "/var/lib/host/log")?
///     .console("serial=unix:/run/host/web-serial.sock".parse()?)
///     .console(Console::pty("hvc0".parse()?));
/// assert_eq!(sandbox.consoles.len(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Console {
    pub(crate) name: Name,
    pub(crate) address: ConsoleAddress,
}

/// Where a console is, and how it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ConsoleAddress {
    Connect {
        path: PathBuf,
        /// Whether any process may listen there.
        any: bool,
    },
    Listen(PathBuf),
    Pty,
    PtyAt(PathBuf),
    Fifo(PathBuf),
}

impl Console {
    /// A stream socket that the child listens at. Connecting is tried from the start of the child
    /// to its end, at first every 50 ms, then less often, up to every 2 s.
    ///
    /// The process that listens must be the child, of the child's session, or a descendant of
    /// those (`SO_PEERCRED`, unix(7); elsewhere than on Linux a process of our own user): at a path
    /// that another VM uses, its output would come into this log, and our input into its guest.
    pub fn connect(name: Name, path: impl Into<PathBuf>) -> Self {
        Self { name, address: ConsoleAddress::Connect { path: path.into(), any: false } }
    }

    /// As [`connect`](Self::connect), but any process may listen at the socket, such as a daemon
    /// that serves the consoles of many VMs.
    pub fn connect_any(name: Name, path: impl Into<PathBuf>) -> Self {
        Self { name, address: ConsoleAddress::Connect { path: path.into(), any: true } }
    }

    /// A stream socket that this process listens at, from before the start of the child to its end.
    /// One connection is served at a time. A further one takes its place as soon as all that has
    /// arrived on the first is in the log. The socket is for its
    /// owner alone (mode 0600) and is removed at the end. It replaces a stale socket, also one of a
    /// vmon that was killed, but nothing else.
    pub fn listen(name: Name, path: impl Into<PathBuf>) -> Self {
        Self { name, address: ConsoleAddress::Listen(path.into()) }
    }

    /// A PTY that this process makes before the child is started, in raw mode, without echo. Its
    /// path replaces each `{NAME}` in the command's arguments, NAME being the console's name.
    pub fn pty(name: Name) -> Self {
        Self { name, address: ConsoleAddress::Pty }
    }

    /// A PTY that the child makes, whose path, or a symbolic link to it, appears at `path`. It is
    /// tried as a socket is. A PTY that no process below the child has open is not used, as far as
    /// the system reports that: a stale link may lead to a terminal of any other process.
    ///
    /// Bytes that the child has written to a PTY and that have not been read are lost when the
    /// child closes it (Linux: `tty_ldisc_hangup`).
    pub fn pty_at(name: Name, path: impl Into<PathBuf>) -> Self {
        Self { name, address: ConsoleAddress::PtyAt(path.into()) }
    }

    /// A FIFO that the child writes to. If none exists it is made, for its owner alone (mode 0600),
    /// and removed at the end. A FIFO that existed before stays, and so does that of a vmon that
    /// was killed. Only one console can read it at a time.
    pub fn fifo(name: Name, path: impl Into<PathBuf>) -> Self {
        Self { name, address: ConsoleAddress::Fifo(path.into()) }
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Its kind: `unix`, also for `unix-any`, `listen`, `pty` or `fifo`.
    pub fn kind(&self) -> &'static str {
        match self.address {
            ConsoleAddress::Connect { .. } => "unix",
            _ => self.address.word(),
        }
    }

    /// The path of its socket, FIFO or PTY; `None` for a PTY that this process makes.
    pub fn path(&self) -> Option<&Path> {
        self.address.path()
    }

    /// Checks the name, and the length of a socket's path: vmon can use a longer one, but most
    /// programs can't.
    ///
    /// # Errors
    ///
    /// [`ConsoleError::Reserved`] and [`ConsoleError::PathTooLong`].
    #[cfg(feature = "consoles")]
    pub fn check(&self) -> Result<(), ConsoleError> {
        check_name(&self.name)?;
        let limit = crate::socket::ADDRESS_LIMIT;
        match &self.address {
            ConsoleAddress::Connect { path, .. } | ConsoleAddress::Listen(path)
                if path.as_os_str().len() > limit =>
            {
                let (name, path) = (self.name.to_string(), path.clone());
                Err(ConsoleError::PathTooLong { name, path, limit })
            }
            _ => Ok(()),
        }
    }

    /// The same console at another path; a PTY that this process makes has none.
    #[must_use]
    pub fn at(mut self, path: impl Into<PathBuf>) -> Self {
        match &mut self.address {
            ConsoleAddress::Connect { path: old, .. }
            | ConsoleAddress::Listen(old)
            | ConsoleAddress::PtyAt(old)
            | ConsoleAddress::Fifo(old) => {
                *old = path.into();
            }
            ConsoleAddress::Pty => {}
        }
        self
    }

    /// The text that it is parsed from, with its name, byte for byte.
    pub fn to_os_string(&self) -> OsString {
        let mut text = OsString::from(format!("{}={}", self.name, self.address.word()));
        if let Some(path) = self.path() {
            text.push(":");
            text.push(path);
        }
        text
    }
}

/// `[NAME=]unix:PATH`, `[NAME=]unix-any:PATH`, `[NAME=]listen:PATH`, `[NAME=]pty`, `[NAME=]pty:PATH` or `[NAME=]fifo:PATH`;
/// without a name, [`DEFAULT_CONSOLE_NAME`] is its name.
impl FromStr for Console {
    type Err = ConsoleError;

    fn from_str(text: &str) -> Result<Self, ConsoleError> {
        Self::try_from(OsStr::new(text))
    }
}

/// The same, with a path that need not be UTF-8.
impl TryFrom<&OsStr> for Console {
    type Error = ConsoleError;

    fn try_from(text: &OsStr) -> Result<Self, ConsoleError> {
        let shown = || text.to_string_lossy().into_owned();
        let (head, path) = match split(text.as_bytes(), b':') {
            Some((head, path)) => (head, Some(path)),
            None => (text.as_bytes(), None),
        };
        // After the colon, '=' is a part of the path.
        let (name, kind) = match split(head, b'=') {
            Some((name, kind)) => (String::from_utf8_lossy(name).into_owned(), kind),
            None => (DEFAULT_CONSOLE_NAME.to_owned(), head),
        };
        let name = Name::new(name)?;
        check_name(&name)?;
        let path = match path {
            Some(b"") => return Err(ConsoleError::NoPath(shown())),
            path => path.map(|path| PathBuf::from(OsStr::from_bytes(path))),
        };
        let address = match (kind, path) {
            (b"unix", Some(path)) => ConsoleAddress::Connect { path, any: false },
            (b"unix-any", Some(path)) => ConsoleAddress::Connect { path, any: true },
            (b"listen", Some(path)) => ConsoleAddress::Listen(path),
            (b"pty", None) => ConsoleAddress::Pty,
            (b"pty", Some(path)) => ConsoleAddress::PtyAt(path),
            (b"fifo", Some(path)) => ConsoleAddress::Fifo(path),
            _ => return Err(ConsoleError::Unknown(shown())),
        };
        Ok(Self { name, address })
    }
}

fn split(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let (head, rest) = text.split_at(text.iter().position(|byte| *byte == at)?);
    Some((head, rest.get(1..).unwrap_or_default()))
}

/// The text that it is parsed from, with its name.
impl fmt::Display for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_os_string().to_string_lossy())
    }
}

impl ConsoleAddress {
    /// Its word on the command line.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Connect { any: false, .. } => "unix",
            Self::Connect { any: true, .. } => "unix-any",
            Self::Listen(_) => "listen",
            Self::Pty | Self::PtyAt(_) => "pty",
            Self::Fifo(_) => "fifo",
        }
    }

    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::Connect { path, .. }
            | Self::Listen(path)
            | Self::PtyAt(path)
            | Self::Fifo(path) => Some(path),
            Self::Pty => None,
        }
    }
}

/// Why a console can't be described or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsoleError {
    /// Its name can't be a part of a file name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Its name is reserved.
    #[error("a console can't be named {0:?}: that is {1}")]
    Reserved(&'static str, &'static str),
    /// The text describes no console.
    #[error(
        "{0:?} is no console: give [NAME=]unix:PATH, [NAME=]unix-any:PATH, [NAME=]listen:PATH, [NAME=]pty, [NAME=]pty:PATH or [NAME=]fifo:PATH"
    )]
    Unknown(String),
    /// The text has nothing after its colon.
    #[error("{0:?} has no path behind its colon")]
    NoPath(String),
    /// Two consoles have the same name.
    #[error("two consoles have the name {0:?}: give each one of its own, as in NAME=pty")]
    Duplicate(String),
    /// The sandbox has a console, and the library was built without the feature `consoles`.
    #[error("the console {0} can't be opened: this program was built without consoles")]
    NotBuilt(String),
    /// No console has this name.
    #[error("there is no console {0:?}")]
    NoSuchConsole(String),
    /// Other programs can't connect to a socket with a path of this length.
    #[error(
        "the path of the console {name}, {}, is longer than a socket's may be, {limit} bytes: choose a shorter one",
        .path.display()
    )]
    PathTooLong {
        /// The console.
        name: String,
        /// Its path.
        path: PathBuf,
        /// The longest path in bytes.
        limit: usize,
    },
    /// A file of another kind is in its place.
    #[error("the console {name}: {} is not {wanted}: remove it, or choose another path", .path.display())]
    WrongKind {
        /// The console.
        name: String,
        /// Its path.
        path: PathBuf,
        /// What is expected there.
        wanted: &'static str,
    },
    /// Another process listens at its path, or another console reads the FIFO.
    #[error("the console {name}: another process uses {}: choose another path", .path.display())]
    InUse {
        /// The console.
        name: String,
        /// Its path.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("the console {name}: can't {what}: {source}")]
    System {
        /// The console.
        name: String,
        /// The operation, and its object.
        what: String,
        /// The error of the system call.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Console, ConsoleError> {
        text.parse()
    }

    #[test]
    fn every_kind_survives_parsing_and_display() {
        for text in [
            "a=unix:/p",
            "a=unix-any:/p",
            "b=listen:p/q",
            "c=pty",
            "d=pty:/dev/x",
            "e=fifo:/p=q:r",
            "f=unix::",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
    }

    /// A kind is a word of the enumeration `ConsoleKind` of the control interface.
    #[test]
    fn unix_and_unix_any_are_of_one_kind() {
        for text in ["a=unix:/p", "a=unix-any:/p"] {
            assert_eq!(parse(text).unwrap().kind(), "unix", "{text}");
        }
    }

    #[test]
    fn a_console_without_a_name_is_named_console_whatever_its_path_has() {
        for text in ["pty", "unix:/a=b", "listen:x=pty:y"] {
            let console = parse(text).unwrap();
            assert_eq!(console.name().as_str(), DEFAULT_CONSOLE_NAME);
            assert_eq!(console.to_string(), format!("console={text}"));
        }
    }

    #[test]
    fn an_invalid_console_is_refused() {
        for text in ["", "tty", "pt", "unix", "unix:", "a=", "a=b", "a=pty:", "tcp:1.2.3.4:5"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        for text in ["=pty", "a/b=pty", "a@b=pty", "-a=pty", "..=pty"] {
            assert!(matches!(parse(text), Err(ConsoleError::Name(_))), "{text:?}");
        }
        for text in ["stdio=pty", "supervisor=pty"] {
            assert!(matches!(parse(text), Err(ConsoleError::Reserved(..))), "{text}");
        }
    }
}
