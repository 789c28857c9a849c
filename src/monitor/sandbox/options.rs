//! The values of a sandbox's options, and their text forms.

use std::fmt;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::str::FromStr;

pub use crate::relay::{LogRate, OverRate};
use crate::values::{ValueError, size, words};

/// The root file system of a sandbox. It is recorded and never mounted.
///
/// The text form is that of the column `rootfs_paths`, `native:PATH` or `overlayfs:PATH:PATH…`. It
/// replaces bytes that are not UTF-8, and a layer with a colon is read back as two layers.
///
/// ```
/// use vmon::monitor::Rootfs;
/// let rootfs = Rootfs::Overlayfs(vec!["/base".into(), "/top".into()]);
/// assert_eq!(rootfs.to_string(), "overlayfs:/base:/top");
/// assert_eq!("overlayfs:/base:/top".parse(), Ok(rootfs));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rootfs {
    /// One directory, used as it is.
    Native(PathBuf),
    /// Overlayfs layers, lowest first.
    Overlayfs(Vec<PathBuf>),
}

impl fmt::Display for Rootfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Native(path) => write!(f, "native:{}", path.display()),
            Self::Overlayfs(layers) => {
                f.write_str("overlayfs")?;
                layers.iter().try_for_each(|layer| write!(f, ":{}", layer.display()))
            }
        }
    }
}

impl FromStr for Rootfs {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.split_once(':') {
            Some(("native", path)) => Ok(Self::Native(path.into())),
            Some(("overlayfs", layers)) => {
                Ok(Self::Overlayfs(layers.split(':').map(PathBuf::from).collect()))
            }
            _ => Err(ValueError::Rootfs),
        }
    }
}

/// Whether the child's output is forwarded, in addition to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Forward {
    /// To the log only.
    #[default]
    Off,
    /// To this process's stdout and stderr. While those are full, the child is not read: it blocks on
    /// its full pipe, and nothing is lost.
    Block,
    /// To this process's stdout and stderr. Output that those do not accept in time is dropped and
    /// counted, and a line in its place states the number of bytes. The child and its log are not
    /// affected.
    Drop,
}

words!(Forward { Off = "off", Block = "block", Drop = "drop" });

/// The child's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Input {
    /// None: the null device, or for a child that a host has started an input that is closed at once.
    /// A child on a PTY still reads the input of attached clients.
    #[default]
    Null,
    /// This process's stdin, up to end of file. At most one sandbox of a process should use it.
    Forward,
    /// The input of attached clients: a pipe that stays open while no client is attached.
    Attached,
}

words!(Input { Null = "null", Forward = "forward", Attached = "attached" });

/// What happens while the log can't be written: a full disk, a quota, a read-only file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnLogError {
    /// Stop reading the child, and retry until the write succeeds. Nothing is lost.
    #[default]
    Pause,
    /// Continue, and count the bytes that are missing in the log.
    Drop,
}

words!(OnLogError { Pause = "pause", Drop = "drop" });

impl fmt::Display for LogRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { per_second, burst, over } = self;
        write!(f, "{per_second}/s,burst={burst},over={over}")
    }
}

impl FromStr for LogRate {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let mut parts = text.split(',');
        let per_second = parts.next().and_then(|part| part.strip_suffix("/s"));
        let per_second = size(per_second.ok_or(ValueError::Rate)?)?;
        let mut rate = Self::new(NonZeroU64::new(per_second).ok_or(ValueError::NoRate)?);
        for part in parts {
            match part.split_once('=') {
                Some(("burst", burst)) => rate.burst = size(burst)?,
                Some(("over", over)) => rate.over = over.parse()?,
                _ => return Err(ValueError::Rate),
            }
        }
        Ok(rate)
    }
}

/// Whether a command is restarted when it ends. After a stop it never is.
///
/// The delay before the first restart is 100 ms. It doubles with each further restart, up to 30 s,
/// and is reset to 100 ms by a run of at least ten seconds.
///
/// The text form is `no`, `on-failure`, `on-failure:N` or `always`.
///
/// ```
/// use vmon::monitor::Restart;
///
/// let restart: Restart = "on-failure:5".parse().unwrap();
/// assert!(matches!(restart, Restart::OnFailure { max: Some(5), .. }));
/// assert_eq!(Restart::Always.to_string(), "always");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Restart {
    /// Never.
    #[default]
    No,
    /// After an exit code other than 0, or a signal.
    OnFailure {
        /// The maximum total number of restarts; `None` means no limit.
        max: Option<u32>,
    },
    /// After every end.
    Always,
}

impl fmt::Display for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::Always => f.write_str("always"),
            Self::OnFailure { max: None } => f.write_str("on-failure"),
            Self::OnFailure { max: Some(max) } => write!(f, "on-failure:{max}"),
        }
    }
}

impl FromStr for Restart {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        // The parser of u32 accepts a sign.
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        match (text, text.strip_prefix("on-failure:")) {
            ("no", _) => Ok(Self::No),
            ("always", _) => Ok(Self::Always),
            ("on-failure", _) => Ok(Self::OnFailure { max: None }),
            (_, Some(number)) if digits(number) => {
                let max = number.parse().map_err(|_| ValueError::Restart)?;
                Ok(Self::OnFailure { max: Some(max) })
            }
            _ => Err(ValueError::Restart),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::{Debug, Display};

    use super::*;
    use crate::child::Signal;
    use crate::logfile::Format;
    use crate::monitor::{Console, ConsoleState, Phase, Reason};

    #[track_caller]
    fn round_trip<T: FromStr<Err: Debug> + Display + PartialEq + Debug>(value: T) {
        let text = value.to_string();
        assert_eq!(text.parse::<T>().unwrap(), value, "{text:?}");
    }

    #[test]
    fn every_keyword_is_parsed_to_its_value() {
        macro_rules! all {
            ($($type:ty),+) => {$(
                for word in <$type>::WORDS {
                    let value: $type = word.parse().unwrap();
                    assert_eq!(value.to_string(), *word);
                    round_trip(value);
                }
                let error = "x".parse::<$type>().unwrap_err();
                assert_eq!(error.to_string(), format!("\"x\" is not one of {}", <$type>::WORDS.join(", ")));
            )+};
        }
        all!(Forward, Input, OnLogError, OverRate, Format, Phase, Reason, ConsoleState);
    }

    #[test]
    fn a_restart_is_read_as_it_was_written() {
        for max in [None, Some(0), Some(3), Some(u32::MAX)] {
            round_trip(Restart::OnFailure { max });
        }
        round_trip(Restart::No);
        round_trip(Restart::Always);
        for text in ["", "yes", "on-failure:", "on-failure:-1", "on-failure:+1", "no:1"] {
            assert_eq!(text.parse::<Restart>(), Err(ValueError::Restart), "{text:?}");
        }
    }

    #[test]
    fn a_log_rate_is_read_as_it_was_written() {
        let rate = LogRate::new(NonZeroU64::new(100).unwrap());
        for over in [OverRate::Block, OverRate::Drop] {
            round_trip(LogRate { over, ..rate });
            round_trip(LogRate { burst: 0, over, ..rate });
        }
        let read = |text: &str| text.parse::<LogRate>();
        assert_eq!(read("100/s"), Ok(LogRate { burst: 64 << 10, ..rate }));
        assert_eq!(read("1MiB/s").map(|rate| rate.burst), Ok(1 << 20));
        assert_eq!(read("100/s,burst=3M"), Ok(LogRate { burst: 3 << 20, ..rate }));
        assert_eq!(read("0/s"), Err(ValueError::NoRate));
        for text in
            ["", "1MiB", "1MiB/m", "1/s,", "1/s,3M", "1/s burst=3M", ",burst=1", "1/s,size=3"]
        {
            assert_eq!(read(text), Err(ValueError::Rate), "{text:?}");
        }
        for text in ["/s", "x/s", "-1/s", "1/s,burst=", "1/s,burst=x"] {
            assert_eq!(read(text), Err(ValueError::Size), "{text:?}");
        }
    }

    #[test]
    fn a_root_file_system_is_read_as_it_was_written() {
        round_trip(Rootfs::Native("/a:b".into()));
        round_trip(Rootfs::Overlayfs(vec!["/a".into(), "/b c".into()]));
        for text in ["", "native", "zfs:/a"] {
            assert_eq!(text.parse::<Rootfs>(), Err(ValueError::Rootfs), "{text:?}");
        }
    }

    #[test]
    fn a_signal_and_a_console_are_read_as_they_were_written() {
        (1..=64).filter_map(Signal::from_number).for_each(round_trip);
        for text in ["a=unix:/p", "b=listen:p", "c=pty", "d=pty:/dev/x", "e=fifo:/p=q"] {
            round_trip(text.parse::<Console>().unwrap());
        }
    }
}
