//! Messages on stderr, one line each.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Metadata, Subscriber, span};
use vmon::terminal::Messages;

/// The words of [`LevelFilter`].
pub const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];

/// Installs a subscriber that writes tracing events to `messages`.
pub fn install(messages: &Messages, level: LevelFilter) {
    install_on(messages.clone(), level);
}

/// Installs a subscriber that passes tracing events to `listener`.
pub fn install_on(listener: impl Listener, level: LevelFilter) {
    let lines = Lines { listener, level, spans: Mutex::default() };
    // Fails only if the process has a subscriber already, which then stays in use.
    let _ = tracing::subscriber::set_global_default(lines);
}

/// Receives messages. Must not block.
pub trait Listener: Send + Sync + 'static {
    /// One line, with its newline.
    fn line(&self, line: &str);
}

impl Listener for Messages {
    fn line(&self, line: &str) {
        // Every write of `Messages` succeeds.
        let _ = self.clone().write_all(line.as_bytes());
    }
}

/// Formats each event as a line, `vmon: warn: message key=value`. The fields of its span come before
/// its own.
struct Lines<L> {
    listener: L,
    level: LevelFilter,
    /// The spans, at the index that is their id less one: one for each monitor of the process.
    spans: Mutex<Vec<OpenSpan>>,
}

/// A span. The place of one that is closed is used again.
#[derive(Default)]
struct OpenSpan {
    fields: String,
    /// The number of its handles; 0 once it is closed.
    handles: usize,
}

thread_local! {
    /// The id of the span that the thread is in, or 0. Spans of the library are not nested.
    static SPAN: Cell<u64> = const { Cell::new(0) };
}

impl<L: Listener> Subscriber for Lines<L> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        let span = self.span_fields(SPAN.get()).unwrap_or_default();
        let mut fields = Fields { line: String::new(), span };
        event.record(&mut fields);
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        self.listener.line(&format!("vmon: {level}: {}\n", one_line(&fields.line)));
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        let mut fields = Fields { line: String::new(), span: String::new() };
        span.record(&mut fields);
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        let free = spans.iter().position(|span| span.handles == 0).unwrap_or(spans.len());
        let span = OpenSpan { fields: fields.line, handles: 1 };
        match spans.get_mut(free) {
            Some(place) => *place = span,
            None => spans.push(span),
        }
        span::Id::from_u64(free as u64 + 1)
    }

    fn clone_span(&self, id: &span::Id) -> span::Id {
        self.with_span(id.into_u64(), |span| span.handles += 1);
        id.clone()
    }

    fn try_close(&self, id: span::Id) -> bool {
        let closed = self.with_span(id.into_u64(), |span| {
            span.handles = span.handles.saturating_sub(1);
            if span.handles == 0 {
                span.fields = String::new();
            }
            span.handles == 0
        });
        closed.unwrap_or(false)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, span: &span::Id) {
        SPAN.set(span.into_u64());
    }

    fn exit(&self, _: &span::Id) {
        SPAN.set(0);
    }
}

impl<L> Lines<L> {
    fn span_fields(&self, id: u64) -> Option<String> {
        self.with_span(id, |span| span.fields.clone())
    }

    /// Calls `act` with a span that is open.
    fn with_span<R>(&self, id: u64, act: impl FnOnce(&mut OpenSpan) -> R) -> Option<R> {
        let index = usize::try_from(id.checked_sub(1)?).ok()?;
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        spans.get_mut(index).filter(|span| span.handles > 0).map(act)
    }
}

/// The fields of an event in order: the message unchanged and the fields of the span, the others as
/// `key=value`.
struct Fields {
    line: String,
    span: String,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.record_debug(field, &format_args!("{value}")),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let Self { line, span } = self;
        let gap = if line.is_empty() { "" } else { " " };
        // Writing to a String does not fail.
        let _ = match field.name() {
            "message" if span.is_empty() => write!(line, "{gap}{value:?}"),
            "message" => write!(line, "{gap}{value:?} {span}"),
            name => write!(line, "{gap}{name}={value:?}"),
        };
    }
}

/// Writes the reason of a failure to stderr, as one line.
pub fn failure(messages: &Messages, text: &str) {
    // A single write, so that lines of several processes do not mix.
    messages.line(&failure_line(text));
}

/// Writes a message on a new line of a terminal whose cursor position is not known.
pub fn on_new_line(messages: &Messages, text: &str) {
    messages.line(&format!("\n{}", failure_line(text)));
}

/// Formats the reason of a failure as one line.
pub fn failure_line(text: &str) -> String {
    format!("vmon: {}\n", one_line(text))
}

/// Escapes control characters, so that `text` can neither break a line nor control a terminal.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut printable = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if character.is_control() {
            printable.extend(character.escape_default());
        } else {
            printable.push(character);
        }
    }
    Cow::Owned(printable)
}

fn one_line(text: &str) -> Cow<'_, str> {
    printable(text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("a\u{1b}[1m\nb"), "a\\u{1b}[1m\\nb");
        assert_eq!(printable("plain ä"), "plain ä");
    }
}
