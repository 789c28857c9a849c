//! Converts log entries to output: unchanged bytes, or text that is safe for a terminal.

use std::time::{Duration, UNIX_EPOCH};

use chrono::{DateTime, Local, SecondsFormat};
use vmon::logfile::{Stream, Timestamp};

use super::super::screen::Screen;

/// SGR sequences: red foreground, default foreground.
const TINT: &[u8] = b"\x1b[31m";
const NO_TINT: &[u8] = b"\x1b[39m";

/// The output style.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Unchanged bytes.
    Exact,
    /// Filtered for a terminal. `tint` colours stderr.
    Terminal { tint: bool },
    /// Characters, newlines and tabs only.
    Plain,
}

/// Converts the bytes of a log to output.
pub struct Printer {
    screens: Option<Screens>,
    /// Set if each line is prefixed with its time.
    stamp: Option<Stamp>,
    /// Whether the next byte starts a line.
    at_start: bool,
    /// Width of the time prefix of the current line.
    width: usize,
    out: Vec<u8>,
}

/// The filters of both streams, on one terminal.
struct Screens {
    output: Screen,
    errors: Screen,
    tint: bool,
    current: Option<Side>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Output,
    Errors,
}

/// The time prefix of a line. Formatted once for all lines with the same time.
#[derive(Debug, Default)]
struct Stamp {
    time: Option<Timestamp>,
    text: String,
}

impl Printer {
    pub fn new(style: Style, with_times: bool) -> Self {
        let screens = match style {
            Style::Exact => None,
            Style::Terminal { tint } => Some(Screens::new(Screen::text, tint)),
            Style::Plain => Some(Screens::new(Screen::plain, false)),
        };
        let stamp = with_times.then(Stamp::default);
        Self { screens, stamp, at_start: true, width: 0, out: Vec::new() }
    }

    /// Adds bytes of a log.
    pub fn add(&mut self, time: Option<Timestamp>, stream: Option<Stream>, bytes: &[u8]) {
        let side = if stream == Some(Stream::Stderr) { Side::Errors } else { Side::Output };
        if self.stamp.is_none() && self.screens.is_none() {
            self.out.extend_from_slice(bytes);
            return;
        }
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            if let Some(stamp) = &mut self.stamp
                && self.at_start
            {
                let text = stamp.of(time);
                if let Some(screens) = &mut self.screens {
                    screens.leave(&mut self.out);
                }
                self.out.extend_from_slice(text.as_bytes());
                self.width = text.len();
            }
            self.at_start = line.ends_with(b"\n");
            match &mut self.screens {
                Some(screens) => {
                    let from = self.out.len();
                    screens.show(side, line, &mut self.out);
                    if self.stamp.is_some() {
                        return_to(self.width, from, &mut self.out);
                    }
                }
                None => self.out.extend_from_slice(line),
            }
        }
    }

    /// Number of bytes ready for output.
    pub fn waiting(&self) -> usize {
        self.out.len()
    }

    /// The output so far. It leaves the terminal in its original state.
    pub fn take(&mut self) -> &mut Vec<u8> {
        if let Some(screens) = &mut self.screens {
            screens.leave(&mut self.out);
        }
        &mut self.out
    }
}

/// Has each carriage return from `from` on lead to the end of the time prefix, of this width,
/// instead of the beginning of the line: what follows would overwrite the time.
fn return_to(width: usize, from: usize, out: &mut Vec<u8>) {
    if !out.iter().skip(from).any(|&byte| byte == b'\r') {
        return;
    }
    // Cursor forward (CUF).
    let forward = format!("\r\x1b[{width}C");
    for byte in out.split_off(from) {
        match byte {
            b'\r' => out.extend_from_slice(forward.as_bytes()),
            _ => out.push(byte),
        }
    }
}

impl Screens {
    fn new(screen: fn() -> Screen, tint: bool) -> Self {
        Self { output: screen(), errors: screen(), tint, current: None }
    }

    fn show(&mut self, side: Side, line: &[u8], out: &mut Vec<u8>) {
        if self.current != Some(side) {
            self.leave(out);
            self.current = Some(side);
            if side == Side::Errors && self.tint {
                out.extend_from_slice(TINT);
            }
            self.screen(side).resume(out);
        }
        self.screen(side).filter(line, out);
    }

    /// Resets the terminal's attributes.
    fn leave(&mut self, out: &mut Vec<u8>) {
        let Some(side) = self.current.take() else { return };
        self.screen(side).suspend(out);
        if side == Side::Errors && self.tint {
            out.extend_from_slice(NO_TINT);
        }
    }

    fn screen(&mut self, side: Side) -> &mut Screen {
        match side {
            Side::Output => &mut self.output,
            Side::Errors => &mut self.errors,
        }
    }
}

impl Stamp {
    /// RFC 3339, local, to the nanosecond, so that all prefixes have the same width.
    fn of(&mut self, time: Option<Timestamp>) -> &str {
        let Some(time) = time else { return "- " };
        if self.time != Some(time) || self.text.is_empty() {
            let moment = UNIX_EPOCH + Duration::from_nanos(time.nanoseconds());
            let local = DateTime::<Local>::from(moment);
            self.text = format!("{} ", local.to_rfc3339_opts(SecondsFormat::Nanos, false));
            self.time = Some(time);
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Option<Timestamp> {
        Some(Timestamp::from_nanoseconds(seconds * 1_000_000_000 + 5))
    }

    fn printed(style: Style, times: bool, parts: &[(Option<Stream>, &str)]) -> String {
        let mut printer = Printer::new(style, times);
        for (stream, text) in parts {
            printer.add(stream.and_then(|_| at(1)), *stream, text.as_bytes());
        }
        String::from_utf8(printer.take().clone()).unwrap()
    }

    const OUT: Option<Stream> = Some(Stream::Stdout);
    const ERR: Option<Stream> = Some(Stream::Stderr);

    #[test]
    fn exact_output_is_not_changed() {
        let parts = [(OUT, "a\x1b]0;x\x07"), (ERR, "\x1b[31mb\n"), (None, "c")];
        assert_eq!(printed(Style::Exact, false, &parts), "a\x1b]0;x\x07\x1b[31mb\nc");
    }

    #[test]
    fn stderr_is_tinted_and_the_colour_is_reset() {
        let style = Style::Terminal { tint: true };
        let parts = [(OUT, "a\n"), (ERR, "b\n"), (OUT, "c\n")];
        assert_eq!(printed(style, false, &parts), "a\n\x1b[31mb\n\x1b[39mc\n");
        assert!(printed(style, false, &parts[..2]).ends_with("b\n\x1b[39m"));
        let plain = Style::Terminal { tint: false };
        assert_eq!(printed(plain, false, &parts), "a\nb\nc\n");
    }

    #[test]
    fn a_carriage_return_leads_to_the_end_of_the_time() {
        let style = Style::Terminal { tint: false };
        let shown = printed(style, true, &[(None, "\r 10%\r 20%\r\n"), (None, "\rend")]);
        assert_eq!(shown, "- \r\x1b[2C 10%\r\x1b[2C 20%\r\x1b[2C\n- \r\x1b[2Cend");
        assert_eq!(printed(style, false, &[(None, "\r 10%\n")]), "\r 10%\n");
        assert_eq!(printed(Style::Exact, true, &[(None, "\r 10%\n")]), "- \r 10%\n");
    }

    #[test]
    fn plain_output_is_text_only() {
        let parts =
            [(OUT, "\r\x1b[31mred\x1b[6n\x08\x07\ta\r\n"), (ERR, "\x1b]0;t\x07gr\u{fc}n\n")];
        assert_eq!(printed(Style::Plain, false, &parts), "red\ta\ngr\u{fc}n\n");
        assert_eq!(printed(Style::Plain, true, &[(None, "\ra\n")]), "- a\n");
    }

    #[test]
    fn colours_of_one_stream_do_not_apply_to_the_other() {
        let style = Style::Terminal { tint: true };
        let shown = printed(style, false, &[(OUT, "\x1b[1mbold"), (ERR, "err"), (OUT, " on")]);
        let plain = |text: &str| text.replace("\x1b[0m", "\x1b[m");
        assert_eq!(plain(&shown), "\x1b[1mbold\x1b[m\x1b[31merr\x1b[39m\x1b[1m on\x1b[m");
    }

    #[test]
    fn each_line_gets_the_time_of_its_first_byte_or_a_dash() {
        let local = DateTime::<Local>::from(UNIX_EPOCH + Duration::from_nanos(1_000_000_005));
        let stamp = local.to_rfc3339_opts(SecondsFormat::Nanos, false);
        let parts = [(OUT, "a\nb"), (ERR, "c\nd\n"), (None, "e\n\n")];
        let expected = format!("{stamp} a\n{stamp} bc\n{stamp} d\n- e\n- \n");
        assert_eq!(printed(Style::Exact, true, &parts), expected);
    }
}
