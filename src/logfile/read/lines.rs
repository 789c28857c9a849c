//! A log of records that are lines and tell their times themselves.

use std::io;
use std::ops::ControlFlow;

use super::super::entry::{Stream, Timestamp};
use super::super::format::Decoder;
use super::super::options::Format;
use super::content::{BLOCK, Content, MOST};

/// The state of reading such a log.
#[derive(Debug)]
pub(super) struct Lines {
    decoder: Decoder,
    /// Whether a line goes on that is longer than what can be held. It is no record.
    overlong: bool,
}

/// A line that is there to be read, and its size in the file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Line {
    Whole(u64),
    /// The file ends within it. Of a record it is a part that a crash has left, which is no part of
    /// what the child wrote: its writer cuts it off, or writes the whole of it into the next file.
    Torn(u64),
    /// A part of one that is too long. The last one ends it.
    Part {
        size: u64,
        last: bool,
    },
}

impl Line {
    pub(super) fn size(self) -> u64 {
        match self {
            Self::Whole(size) | Self::Torn(size) | Self::Part { size, .. } => size,
        }
    }
}

/// What a line says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said<'a> {
    pub(super) time: Option<Timestamp>,
    pub(super) stream: Option<Stream>,
    pub(super) bytes: &'a [u8],
}

impl Lines {
    pub(super) fn new(format: Format) -> Self {
        Self { decoder: Decoder::new(format), overlong: false }
    }

    /// Finds the line that begins at `offset`; `None` at the end. One without an end is none while
    /// the file may grow.
    pub(super) fn find(
        &self,
        content: &mut Content,
        offset: u64,
        grows: bool,
    ) -> io::Result<Option<Line>> {
        if content.at(offset, u64::MAX)?.is_empty() {
            return Ok(None);
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

    /// Reads a line that has been found.
    pub(super) fn read<'a>(
        &'a mut self,
        content: &'a Content,
        offset: u64,
        line: Line,
    ) -> Said<'a> {
        let bytes = content.held(offset, line.size());
        match line {
            Line::Whole(_) => said(&mut self.decoder, bytes),
            Line::Part { last, .. } => {
                self.overlong = !last;
                Said { time: None, stream: None, bytes }
            }
            Line::Torn(_) => {
                let bytes = if self.decoder.is_begun(bytes) { b"" } else { bytes };
                Said { time: None, stream: None, bytes }
            }
        }
    }

    /// Whether a line that has been found is a part of a record.
    pub(super) fn is_part_of_record(&self, content: &Content, offset: u64, line: Line) -> bool {
        match line {
            Line::Torn(size) => self.decoder.is_begun(content.held(offset, size)),
            Line::Whole(_) | Line::Part { .. } => false,
        }
    }

    /// The first line that does not begin before `offset`.
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

    /// The time of the first record that tells one.
    pub(super) fn first_time(&mut self, content: &mut Content) -> io::Result<Option<Timestamp>> {
        let mut first = None;
        self.look(content, 0, BLOCK as u64, |time, _| {
            first = Some(time);
            ControlFlow::Break(())
        })?;
        Ok(first)
    }

    /// The first record of this time or a later one, or the end.
    pub(super) fn find_time(&mut self, content: &mut Content, time: Timestamp) -> io::Result<u64> {
        let (mut low, mut high) = (0, content.size()?.unwrap_or(0));
        while high - low > BLOCK as u64 {
            let middle = low + (high - low) / 2;
            let start = self.align(content, middle)?;
            let mut before = None;
            self.look(content, start, high, |at, end| {
                before = (at < time).then_some(end);
                ControlFlow::Break(())
            })?;
            match before {
                Some(end) => low = end,
                None => high = middle,
            }
        }
        self.look(content, low, u64::MAX, |at, _| match at < time {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        })
    }

    /// Shows the time and the end of each record that tells one, from the line at `offset` on to
    /// `until`. Where the line begins at which it was left, or all have ended.
    fn look(
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

fn said<'a>(decoder: &'a mut Decoder, line: &'a [u8]) -> Said<'a> {
    match decoder.next(line) {
        Some(record) => Said { time: record.time, stream: record.stream, bytes: record.bytes },
        None => Said { time: None, stream: None, bytes: line },
    }
}
