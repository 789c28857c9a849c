//! asciicast v2, the format of asciinema: a header line of JSON, then one line an event.

use std::str::Utf8Error;
use std::time::Duration;

use serde_json::json;
use vmon::logfile::read::Entry;
use vmon::logfile::{Mark, Stream, Timestamp};

use super::About;
use crate::output::merged;
use crate::timeline::Timeline;

/// Columns and rows of a terminal whose size is not known.
const SIZE: (u16, u16) = (80, 24);

/// An asciicast recording.
#[derive(Debug)]
pub struct Asciicast {
    about: About,
    size: (u16, u16),
    /// Whether the header is written.
    begun: bool,
    timeline: Timeline,
    texts: [Text; 2],
}

impl Asciicast {
    pub fn new(about: About) -> Self {
        let (timeline, texts) = (Timeline::default(), Default::default());
        Self { about, size: SIZE, begun: false, timeline, texts }
    }

    /// Appends the events of an entry to `out`.
    pub fn entry(&mut self, entry: &Entry<'_>, out: &mut Vec<u8>) {
        match *entry {
            Entry::Mark { time, mark: mark @ Mark::Start { .. } } => {
                self.end_texts(out);
                self.timeline.mark(time, mark);
            }
            Entry::Mark { time, mark: Mark::Resize { columns, rows } } => {
                let at = self.timeline.at(Some(time));
                let before = std::mem::replace(&mut self.size, (columns, rows));
                if self.begun && before != self.size {
                    event(at, "r", &format!("{columns}x{rows}"), out);
                }
            }
            Entry::Mark { time, mark } => {
                self.timeline.mark(time, mark);
            }
            Entry::Bytes { time, stream, bytes } => {
                let at = self.timeline.at(time);
                self.begin(out);
                let [out_text, err_text] = &mut self.texts;
                let text = if stream == Some(Stream::Stderr) { err_text } else { out_text };
                text.take(bytes, stream == Some(Stream::Tty));
                text.write_event(at, out);
            }
        }
    }

    /// Appends what is pending to `out`.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.begin(out);
        self.end_texts(out);
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.begun, true) {
            let head = header(&self.about, self.size, self.timeline.moment());
            out.extend_from_slice(head.as_bytes());
        }
    }

    fn end_texts(&mut self, out: &mut Vec<u8>) {
        let at = self.timeline.at(None);
        for text in &mut self.texts {
            text.end();
            text.write_event(at, out);
        }
    }
}

fn header(about: &About, (width, height): (u16, u16), moment: Option<Timestamp>) -> String {
    let mut header =
        json!({ "version": 2, "width": width, "height": height, "title": about.title });
    if let Some(command) = &about.command {
        header = merged(header, json!({ "command": command }));
    }
    if let Some(moment) = moment {
        header = merged(header, json!({ "timestamp": moment.nanoseconds() / 1_000_000_000 }));
    }
    format!("{header}\n")
}

fn event(at: Duration, kind: &str, text: &str, out: &mut Vec<u8>) {
    let (seconds, micros) = (at.as_secs(), at.subsec_micros());
    let line = format!("[{seconds}.{micros:06}, \"{kind}\", {}]\n", json!(text));
    out.extend_from_slice(line.as_bytes());
}

/// Decodes the bytes of one stream as text for a terminal.
#[derive(Debug, Default)]
struct Text {
    text: String,
    /// The first bytes of an incomplete character.
    begun: Vec<u8>,
    /// Whether the last byte was a carriage return.
    returned: bool,
}

impl Text {
    /// Decodes bytes. `raw` is true for terminal output. Output from a pipe gets a carriage return
    /// at the end of each line, because the player's terminal is in raw mode.
    fn take(&mut self, bytes: &[u8], raw: bool) {
        let bytes = [std::mem::take(&mut self.begun).as_slice(), bytes].concat();
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.push(chunk.valid(), raw);
            let is_begun = |error: Utf8Error| error.error_len().is_none();
            match chunk.invalid() {
                [] => {}
                last if chunks.peek().is_none() && str::from_utf8(last).is_err_and(is_begun) => {
                    self.begun = last.to_vec();
                }
                _ => self.push("\u{fffd}", raw),
            }
        }
    }

    fn push(&mut self, text: &str, raw: bool) {
        for line in text.split_inclusive('\n') {
            match line.strip_suffix('\n') {
                Some(line) if !raw => {
                    self.text.push_str(line);
                    let returned =
                        if line.is_empty() { self.returned } else { line.ends_with('\r') };
                    self.text.push_str(if returned { "\n" } else { "\r\n" });
                    self.returned = false;
                }
                _ => {
                    self.text.push_str(line);
                    self.returned = line.ends_with('\r');
                }
            }
        }
    }

    /// Handles the end of the stream.
    fn end(&mut self) {
        if !std::mem::take(&mut self.begun).is_empty() {
            self.text.push('\u{fffd}');
        }
        self.returned = false;
    }

    /// Writes the decoded text as an event.
    fn write_event(&mut self, at: Duration, out: &mut Vec<u8>) {
        if !self.text.is_empty() {
            event(at, "o", &self.text, out);
            self.text.clear();
        }
    }
}
