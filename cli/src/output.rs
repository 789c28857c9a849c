//! Output of commands: tables and JSON, and the format of times, exit codes and states in them.
//!
//! Another program may have written the database, so control characters are escaped.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use chrono::{DateTime, Local, Utc};
use comfy_table::{ColumnConstraint, Table, Width, presets};
use serde_json::Value;
use vmon::child::Signal;
use vmon::registry::{Run, RunStatus};
use vmon::terminal;

use super::{Failure, messages, reason, signalled};

/// Writes to stdout. A reader that has closed it is not an error.
pub fn stdout(answer: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(answer).and_then(|()| stdout.flush()) {
        Err(error) if terminal::peer_has_gone(&error, false) => Ok(()),
        written => written,
    }
}

/// Writes to stdout.
pub fn print(answer: &str) -> Result<(), Failure> {
    stdout(answer.as_bytes()).map_err(|error| Failure::Output(reason(&error)))
}

/// Writes a value as indented JSON.
pub fn print_json(value: &Value) -> Result<(), Failure> {
    print(&format!("{}\n", escaped(format!("{value:#}"))))
}

/// Formats a value as JSON on one line, without a newline.
pub fn json_line(value: &Value) -> String {
    escaped(value.to_string())
}

/// Escapes the control characters that serialization leaves: DEL and U+0080 to U+009F, which a
/// terminal takes for escape sequences. They occur in strings only, so the value stays the same.
fn escaped(json: String) -> String {
    if !json.contains(is_left) {
        return json;
    }
    let mut escaped = String::with_capacity(json.len() + 8);
    for character in json.chars() {
        if is_left(character) {
            escaped.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            escaped.push(character);
        }
    }
    escaped
}

fn is_left(character: char) -> bool {
    character.is_control() && character != '\n'
}

/// Whether stdout is a terminal.
pub fn is_at_terminal() -> bool {
    terminal::stdout().is_terminal()
}

/// Formats a table without trailing blanks.
pub fn table<R: IntoIterator<Item = String>>(
    header: impl IntoIterator<Item = &'static str>,
    rows: impl IntoIterator<Item = R>,
) -> String {
    TablePages::new(header).page(rows)
}

/// The blanks between two columns.
const GAP: u16 = 2;

/// A table that is formatted page by page. A column may get wider with a page, but never narrower.
#[derive(Debug)]
pub struct TablePages {
    /// Taken by the first page.
    header: Option<Vec<&'static str>>,
    /// Of the pages so far.
    widths: Vec<u16>,
}

impl TablePages {
    pub fn new(header: impl IntoIterator<Item = &'static str>) -> Self {
        Self { header: Some(header.into_iter().collect()), widths: Vec::new() }
    }

    /// Formats the next page. The first one begins with the header.
    pub fn page<R: IntoIterator<Item = String>>(
        &mut self,
        rows: impl IntoIterator<Item = R>,
    ) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        if let Some(header) = self.header.take() {
            table.set_header(header);
        }
        for row in rows {
            let cells = row.into_iter().map(|cell| messages::printable(&cell).into_owned());
            table.add_row(cells);
        }
        let mut widths = table.column_max_content_widths();
        for (width, before) in widths.iter_mut().zip(&self.widths) {
            *width = before.max(width).to_owned();
        }
        for (column, width) in table.column_iter_mut().zip(&widths) {
            column.set_padding((0, GAP));
            let width = Width::Fixed(width.saturating_add(GAP));
            column.set_constraint(ColumnConstraint::LowerBoundary(width));
        }
        self.widths = widths;
        table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }

    /// The header, if there was no page.
    pub fn end(mut self) -> String {
        match self.header {
            Some(_) => self.page(std::iter::empty::<[String; 0]>()),
            None => String::new(),
        }
    }
}

/// A JSON array that is printed element by element, as [`print_json`] prints a whole one.
#[derive(Debug, Default)]
pub struct JsonArray {
    has_elements: bool,
}

impl JsonArray {
    /// Prints further elements.
    pub fn add(&mut self, elements: impl IntoIterator<Item = Value>) -> Result<(), Failure> {
        let mut text = String::new();
        for element in elements {
            text.push_str(if self.has_elements { ",\n" } else { "[\n" });
            let element = escaped(format!("{element:#}"));
            element.lines().enumerate().for_each(|(index, line)| {
                text.push_str(if index == 0 { "  " } else { "\n  " });
                text.push_str(line);
            });
            self.has_elements = true;
        }
        print(&text)
    }

    /// Prints the end of the array.
    pub fn end(self) -> Result<(), Failure> {
        print(if self.has_elements { "\n]\n" } else { "[]\n" })
    }
}

/// The value, or a dash if it is not known.
pub fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// The status as microsandbox writes it.
pub fn word(status: RunStatus) -> &'static str {
    match status {
        RunStatus::Running => "RUNNING",
        RunStatus::Stopped => "STOPPED",
    }
}

/// A time for display: local, to the second.
pub fn short(time: DateTime<Utc>) -> String {
    time.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S").to_string()
}

/// A time for programs: RFC 3339, UTC, to the microsecond.
pub fn stamp(time: DateTime<Utc>) -> String {
    vmon::timestamp::rfc3339(time)
}

/// A time span for display: `7s`, `3m07s`, `2h03m`, `5d02h`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (0, hours, minutes, _) => format!("{hours}h{minutes:02}m"),
        (days, hours, _, _) => format!("{days}d{hours:02}h"),
    }
}

/// The exit code as a shell reports it: 128+n for signal n.
pub fn exit_code(run: &Run) -> Option<i32> {
    run.exit_code.or_else(|| Some(signalled(Signal::from_number(run.signal?)?).into()))
}

/// The exit code, or the name of the signal.
pub fn exit(code: Option<i32>, signal: Option<i32>) -> String {
    or_dash(code.map(|code| code.to_string()).or_else(|| signal.map(signal_name)))
}

fn signal_name(number: i32) -> String {
    match Signal::from_number(number).map(|signal| signal.to_string()) {
        Some(name) if name.starts_with("SIG") => name,
        // A real-time signal, or a signal of another system.
        _ => format!("SIG{number}"),
    }
}

/// An object with the members of both.
pub fn merged(mut object: Value, more: Value) -> Value {
    if let (Value::Object(members), Value::Object(more)) = (&mut object, more) {
        members.extend(more);
    }
    object
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn exit_is_the_code_or_the_name_of_the_signal() {
        assert_eq!(exit(Some(7), None), "7");
        assert_eq!(exit(None, Some(Signal::TERM.number())), "SIGTERM");
        assert_eq!(exit(None, Some(1000)), "SIG1000");
        assert_eq!(exit(None, None), "-");
    }

    #[test]
    fn an_empty_table_is_its_header() {
        let none: [[String; 2]; 0] = [];
        assert_eq!(table(["NAME", "EXIT"], none), "NAME  EXIT\n");
    }

    #[test]
    fn the_columns_of_further_pages_stand_below_those_of_the_first() {
        let row = |one: &str, two: &str| [one.to_owned(), two.to_owned()];
        let mut pages = TablePages::new(["A", "B"]);
        assert_eq!(pages.page([row("long", "1")]), "A     B\nlong  1\n");
        assert_eq!(pages.page([row("x", "2"), row("y", "3")]), "x     2\ny     3\n");
        assert_eq!(pages.page([row("longer", "4")]), "longer  4\n");
        assert_eq!(pages.page([row("z", "5")]), "z       5\n");
    }

    #[test]
    fn json_has_no_control_character_and_keeps_its_value() {
        let value = json!({ "name": "a\u{9b}2J\u{7f}\u{1b}\n\u{ad}", "\u{85}": ["ä"] });
        for text in [json_line(&value), escaped(format!("{value:#}"))] {
            assert!(!text.contains(is_left), "{text:?}");
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        }
        assert_eq!(json_line(&json!(["ä"])), "[\"ä\"]");
    }

    #[test]
    fn control_characters_in_a_cell_are_escaped() {
        let row = ["\u{1b}[2Jx".to_owned(), "a\nb".to_owned()];
        assert_eq!(table(["A", "B"], [row]).lines().count(), 2);
    }
}
