//! Messages on stderr, one line each, and output on stdout.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};

use clap::CommandFactory;
use clap::error::ErrorKind;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Metadata, Subscriber, span};
use vmon::terminal::{self, Messages};

use super::Cli;

/// The words of [`LevelFilter`].
pub const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];

/// Installs a subscriber that writes tracing events to `messages`.
pub fn install(messages: &Messages, level: LevelFilter) {
    install_on(messages.clone(), level);
}

/// Installs a subscriber that passes tracing events to `listener`.
pub fn install_on(listener: impl Listener, level: LevelFilter) {
    let lines = Lines { listener, level };
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

/// Formats each event as a line, `vmon: warn: message key=value`. Spans are ignored.
struct Lines<L> {
    listener: L,
    level: LevelFilter,
}

impl<L: Listener> Subscriber for Lines<L> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(String::new());
        event.record(&mut fields);
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        self.listener.line(&format!("vmon: {level}: {}\n", one_line(&fields.0)));
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// The fields of an event in order: the message unchanged, the others as `key=value`.
struct Fields(String);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.record_debug(field, &format_args!("{value}")),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let Self(line) = self;
        let gap = if line.is_empty() { "" } else { " " };
        // Writing to a String does not fail.
        let _ = match field.name() {
            "message" => write!(line, "{gap}{value:?}"),
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

/// Writes to stdout. A reader that has closed it is not an error.
pub fn stdout(answer: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(answer).and_then(|()| stdout.flush()) {
        Err(error) if terminal::peer_has_gone(&error, false) => Ok(()),
        written => written,
    }
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

/// Reduces clap's message to one line: the problem, then its suggestion or how to get help.
pub fn usage_error(error: &clap::Error, args: &[OsString]) -> String {
    let subcommand = args.get(1).and_then(|arg| arg.to_str()).unwrap_or_default();
    match error.kind() {
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return "nothing to do: give a subcommand, such as 'run' or 'ps'; see 'vmon --help'"
                .to_owned();
        }
        ErrorKind::MissingRequiredArgument if subcommand == "run" => return no_command(args),
        _ => {}
    }
    let rendered = error.render().to_string();
    let mut paragraphs = without_usage(&rendered).split("\n\n").map(joined);
    let problem = paragraphs.next().unwrap_or_default();
    let problem = problem.strip_prefix("error: ").unwrap_or(&problem);
    // The tip to pass an unknown option as a value after `--` is right only for an option of the
    // command.
    let tips = paragraphs.find(|text| text.starts_with("tip: ")).unwrap_or_default();
    match tips.split("tip: ").find(|tip| !tip.is_empty() && !tip.starts_with("to pass ")) {
        Some(tip) => format!("{problem}; {}", tip.trim_end()),
        None if lists_values(error.kind(), problem) => problem.to_owned(),
        None => format!("{problem}; see '{} --help'", command_name(subcommand)),
    }
}

/// Joins the lines of a paragraph.
fn joined(paragraph: &str) -> String {
    paragraph.lines().map(str::trim).collect::<Vec<_>>().join(" ").trim().to_owned()
}

/// Whether the message itself lists the accepted values.
fn lists_values(kind: ErrorKind, problem: &str) -> bool {
    kind == ErrorKind::ValueValidation || problem.contains("[possible values:")
}

fn command_name(subcommand: &str) -> String {
    match Cli::command().find_subcommand(subcommand) {
        Some(command) => format!("vmon {}", command.get_name()),
        None => "vmon".to_owned(),
    }
}

/// Removes the last paragraphs of clap's message. Searches from the end, because the message can
/// quote an argument with any text.
fn without_usage(rendered: &str) -> &str {
    ["\n\nFor more information", "\n\nUsage:"]
        .iter()
        .fold(rendered, |text, end| text.rsplit_once(end).map_or(text, |(before, _)| before))
}

fn no_command(args: &[OsString]) -> String {
    let layers = |arg: &OsString| arg.to_string_lossy().starts_with("--overlayfs-layer");
    let hint =
        if args.iter().any(layers) { " ('--' ends the paths of --overlayfs-layer)" } else { "" };
    format!("no command to run: vmon run [OPTIONS] [--] COMMAND [ARG]...{hint}")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::Cli;

    fn error_of(args: &[&str]) -> String {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        usage_error(&Cli::try_parse_from(&args).unwrap_err(), &args)
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("a\u{1b}[1m\nb"), "a\\u{1b}[1m\\nb");
        assert_eq!(printable("plain ä"), "plain ä");
    }

    #[test]
    fn a_usage_error_is_one_line_with_a_suggestion() {
        assert_eq!(
            error_of(&["vmon", "run", "--nmae", "x", "true"]),
            "unexpected argument '--nmae' found; a similar argument exists: '--name'"
        );
        assert_eq!(
            error_of(&["vmon", "run", "--qqq", "true"]),
            "unexpected argument '--qqq' found; see 'vmon run --help'"
        );
        assert_eq!(
            error_of(&["vmon", "run", "--tty", "maybe", "true"]),
            "invalid value 'maybe' for '--tty <WHEN>' [possible values: auto, always, never]"
        );
        assert_eq!(
            error_of(&["vmon", "run", "--b\nUsage: x", "true"]),
            "unexpected argument '--b Usage: x' found; see 'vmon run --help'"
        );
        assert_eq!(
            error_of(&["vmon"]),
            "nothing to do: give a subcommand, such as 'run' or 'ps'; see 'vmon --help'"
        );
    }

    #[test]
    fn a_missing_command_is_reported_with_the_syntax() {
        let line = error_of(&["vmon", "run"]);
        assert_eq!(line, "no command to run: vmon run [OPTIONS] [--] COMMAND [ARG]...");
        let line = error_of(&["vmon", "run", "--overlayfs-layer", "/a", "true"]);
        assert!(line.ends_with("('--' ends the paths of --overlayfs-layer)"), "{line}");
    }
}
