//! A log whose records are lines that carry their time and stream.

use std::io;
use std::ops::{ControlFlow, Range};

use super::super::entry::{Stream, Timestamp};
use super::super::format::Decoder;
use super::super::options::Format;
use super::content::{BLOCK, Content, MOST};

/// The state of reading such a log.
#[derive(Debug)]
pub(super) struct Lines {
    decoder: Decoder,
    /// Whether the read position is within a line that is longer than the buffer. Such a line is
    /// not a record.
    overlong: bool,
    /// Whether NULs were read last, which a crash has left in place of records. What follows may be the
    /// end of a record.
    torn: bool,
}

/// A line that can be read, with its size in the file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Line {
    Whole(u64),
    /// The file ends within the line. A torn record is left out: after a crash, the writer cuts it
    /// off, or writes the whole record into the next file.
    Torn(u64),
    /// NULs where a line should begin.
    Zeros(u64),
    /// A part of a line that is longer than the buffer; `last` ends the line.
    Part {
        size: u64,
        last: bool,
    },
}

impl Line {
    pub(super) fn size(self) -> u64 {
        match self {
            Self::Whole(size) | Self::Torn(size) | Self::Zeros(size) | Self::Part { size, .. } => {
                size
            }
        }
    }
}

/// The decoded content of a line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decoded<'a> {
    pub(super) time: Option<Timestamp>,
    pub(super) stream: Option<Stream>,
    pub(super) bytes: &'a [u8],
}

impl Lines {
    pub(super) fn new(format: Format) -> Self {
        Self { decoder: Decoder::new(format), overlong: false, torn: false }
    }

    /// Finds the line that begins at `offset`; `None` at the end of the file, and for an unfinished
    /// line of a file that `grows`.
    pub(super) fn find(
        &self,
        content: &mut Content,
        offset: u64,
        grows: bool,
    ) -> io::Result<Option<Line>> {
        let bytes = content.at(offset, u64::MAX)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
        if zeros > 0 && !self.overlong {
            return Ok(Some(Line::Zeros(zeros as u64)));
        }
        let mut searched = 0;
        loop {
            let bytes = content.held(offset, u64::MAX);
            let rest = bytes.get(searched..).unwrap_or_default();
            if let Some(at) = memchr::memchr(b'\n', rest) {
                let size = (searched + at + 1) as u64;
                let part = Line::Part { size, last: true };
                return Ok(Some(if self.overlong { part } else { Line::Whole(size) }));
            }
            searched = bytes.len();
            if !content.extend(offset)? {
                break;
            }
        }
        let size = searched as u64;
        let part = Line::Part { size, last: false };
        Ok(match searched + BLOCK > MOST {
            true => Some(part),
            false if grows => None,
            false if self.overlong => Some(part),
            false => Some(Line::Torn(size)),
        })
    }

    /// Decodes a line that was found.
    pub(super) fn read<'a>(
        &'a mut self,
        content: &'a Content,
        offset: u64,
        line: Line,
    ) -> Decoded<'a> {
        let bytes = content.held(offset, line.size());
        let was_torn = std::mem::take(&mut self.torn);
        match line {
            Line::Whole(_) => match decode(&mut self.decoder, bytes) {
                Decoded { time: None, stream: None, .. } if was_torn => {
                    Decoded { time: None, stream: None, bytes: b"" }
                }
                decoded => decoded,
            },
            Line::Zeros(_) => {
                self.torn = true;
                Decoded { time: None, stream: None, bytes: b"" }
            }
            Line::Part { last, .. } => {
                self.overlong = !last;
                Decoded { time: None, stream: None, bytes }
            }
            Line::Torn(_) => {
                let bytes = if self.decoder.is_begun(bytes) { b"" } else { bytes };
                Decoded { time: None, stream: None, bytes }
            }
        }
    }

    /// Whether a line that was found is the beginning of a record.
    pub(super) fn is_part_of_record(&self, content: &Content, offset: u64, line: Line) -> bool {
        match line {
            Line::Torn(size) => self.decoder.is_begun(content.held(offset, size)),
            Line::Whole(_) | Line::Zeros(_) | Line::Part { .. } => false,
        }
    }

    /// The offset of the first line that starts at `offset` or later.
    pub(super) fn align(&mut self, content: &mut Content, offset: u64) -> io::Result<u64> {
        self.overlong = false;
        let Some(mut before) = offset.checked_sub(1) else { return Ok(0) };
        loop {
            let bytes = content.at(before, u64::MAX)?;
            let newline = memchr::memchr(b'\n', bytes);
            before += newline.map_or(bytes.len(), |at| at + 1) as u64;
            if newline.is_some() || bytes.is_empty() {
                return Ok(before);
            }
        }
    }

    /// The time of the first record that has one.
    pub(super) fn first_time(&mut self, content: &mut Content) -> io::Result<Option<Timestamp>> {
        let mut first = None;
        self.scan(content, 0, BLOCK as u64, |time, _| {
            first = Some(time);
            ControlFlow::Break(())
        })?;
        Ok(first)
    }

    /// The offset of the first record at or after this time between two offsets, or the second one. By
    /// bisection, if the end is known: `u64::MAX` is that of a compressed file.
    pub(super) fn find_time(
        &mut self,
        content: &mut Content,
        time: Timestamp,
        Range { start, end }: Range<u64>,
    ) -> io::Result<u64> {
        let (mut low, mut high) = (start, if end == u64::MAX { start } else { end });
        while high - low > BLOCK as u64 {
            let middle = low + (high - low) / 2;
            let from = self.align(content, middle)?;
            let mut before = None;
            self.scan(content, from, high, |at, end| {
                before = (at < time).then_some(end);
                ControlFlow::Break(())
            })?;
            match before {
                Some(end) => low = end,
                None => high = middle,
            }
        }
        self.scan(content, low, end, |at, _| match at < time {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        })
    }

    /// Calls `show` with the time and the end of each record that has a time, from the line at
    /// `offset` up to `until`. Returns the offset of the line at which `show` stopped, or of the
    /// end.
    fn scan(
        &mut self,
        content: &mut Content,
        mut offset: u64,
        until: u64,
        mut show: impl FnMut(Timestamp, u64) -> ControlFlow<()>,
    ) -> io::Result<u64> {
        self.overlong = false;
        while offset < until
            && let Some(line) = self.find(content, offset, false)?
        {
            let end = offset + line.size();
            let time = self.read(content, offset, line).time;
            if time.is_some_and(|time| show(time, end).is_break()) {
                break;
            }
            offset = end;
        }
        Ok(offset)
    }
}

fn decode<'a>(decoder: &'a mut Decoder, line: &'a [u8]) -> Decoded<'a> {
    match decoder.next(line) {
        Some(record) => Decoded { time: record.time, stream: record.stream, bytes: record.bytes },
        None => Decoded { time: None, stream: None, bytes: line },
    }
}
