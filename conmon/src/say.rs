//! What this program says of itself: a line on stderr, which is the null device once it is in the
//! background, and with `--syslog` a message to the system log.
//!
//! Both this program's own messages and those of the library are events of tracing, which the
//! subscriber here writes.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use chrono::Local;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber, span};

/// The socket of the system log.
const SYSLOG: &str = "/dev/log";

/// How many bytes of the container's id a message to the system log has.
const SHORT_ID: usize = 20;

/// The level of a `--log-level`; `None` for a word that is no level.
pub fn level(word: &OsStr) -> Option<LevelFilter> {
    Some(match word.to_str()?.to_ascii_lowercase().as_str() {
        "error" | "fatal" | "panic" => LevelFilter::ERROR,
        "warn" | "warning" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => return None,
    })
}

/// Writes events up to this level from now on, and with `syslog`, the id of the container, to the
/// system log as well.
pub fn install(level: LevelFilter, syslog: Option<&OsStr>) {
    let short_id = syslog.map(|id| {
        let id = id.as_bytes();
        OsString::from_vec(id.get(..SHORT_ID).unwrap_or(id).to_vec())
    });
    // Fails only if there is a subscriber already, and this is called once.
    let _ = tracing::subscriber::set_global_default(Lines { level, short_id });
}

/// Writes an error before [`install`].
pub fn error_on_stderr(text: &str) {
    write_stderr(format!("[conmon:e]: {text}\n").as_bytes());
}

/// Writes to stderr in one piece. A failure has nowhere to be reported.
pub fn write_stderr(bytes: &[u8]) {
    let _ = std::io::stderr().write_all(bytes);
}

struct Lines {
    level: LevelFilter,
    /// Set with `--syslog`.
    short_id: Option<OsString>,
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let words = Words::of(*event.metadata().level());
        write_stderr(format!("[conmon:{}]: {}\n", words.letter, text.0).as_bytes());
        if let Some(short_id) = &self.short_id {
            send(Path::new(SYSLOG), &words, short_id, &text.0);
        }
    }

    // No span is enabled.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// How a level is written.
struct Words {
    letter: char,
    /// In the system log.
    tag: &'static str,
    /// Facility `user`, and `LOG_ERR` or `LOG_INFO` (syslog(3)).
    priority: u8,
}

impl Words {
    fn of(level: Level) -> Self {
        let (letter, tag, priority) = match level {
            Level::ERROR => ('e', "<error>", 11),
            Level::WARN => ('w', "<nwarn>", 14),
            Level::INFO => ('i', "<ninfo>", 14),
            Level::DEBUG => ('d', "<ndebug>", 14),
            Level::TRACE => ('d', "<ntrace>", 14),
        };
        Self { letter, tag, priority }
    }
}

/// Sends a message to the system log (syslog(3), RFC 3164) without waiting, if there is one.
fn send(socket: &Path, words: &Words, short_id: &OsStr, text: &str) {
    let at = Local::now().format("%b %e %T");
    let Words { tag, priority, .. } = words;
    let mut message = format!("<{priority}>{at} conmon: conmon ").into_bytes();
    message.extend_from_slice(short_id.as_bytes());
    message.extend_from_slice(format!(" {tag}: {text}").as_bytes());
    let sent = UnixDatagram::unbound().and_then(|unbound| {
        unbound.set_nonblocking(true)?;
        unbound.send_to(&message, socket)
    });
    // There is nowhere left to report a failure.
    let _ = sent;
}

/// The text of an event: its message, and its fields as `key=value`. One line.
struct Text(String);

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.record_debug(field, &format_args!("{value}")),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let gap = if self.0.is_empty() { "" } else { " " };
        let written = match field.name() {
            "message" => format!("{gap}{value:?}"),
            name => format!("{gap}{name}={value:?}"),
        };
        // A line break would look like a message of its own.
        self.0.extend(written.chars().map(|it| if it.is_control() { ' ' } else { it }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_words_in_any_case() {
        for (word, expected) in [
            ("error", Some(LevelFilter::ERROR)),
            ("Fatal", Some(LevelFilter::ERROR)),
            ("PANIC", Some(LevelFilter::ERROR)),
            ("warn", Some(LevelFilter::WARN)),
            ("warning", Some(LevelFilter::WARN)),
            ("info", Some(LevelFilter::INFO)),
            ("Debug", Some(LevelFilter::DEBUG)),
            ("trace", Some(LevelFilter::TRACE)),
            ("", None),
            ("loud", None),
        ] {
            assert_eq!(level(OsStr::new(word)), expected, "{word}");
        }
    }

    #[test]
    fn a_message_to_the_system_log_has_the_start_of_the_container_id() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let socket = UnixDatagram::bind(&path).unwrap();
        send(&path, &Words::of(Level::INFO), OsStr::new("0123456789"), "started");
        let mut received = [0; 200];
        let count = socket.recv(&mut received).unwrap();
        let text = std::str::from_utf8(&received[..count]).unwrap();
        assert!(text.starts_with("<14>"), "{text}");
        assert!(text.ends_with(" conmon: conmon 0123456789 <ninfo>: started"), "{text}");
        // `Nov  1 11:04:26`
        assert_eq!(text.find(" conmon: "), Some("<14>".len() + 15), "{text}");
    }
}
