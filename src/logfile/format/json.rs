//! The lines of Docker's json-file driver:
//! `{"log":"text\n","stream":"stdout","time":"2026-11-23T17:02:03.123456789Z"}`.

use memchr::memchr2;

use super::{Record, time};
use crate::logfile::entry::{Stream, Timestamp};

/// The members of an object that mean something here, as they are between their quotes.
#[derive(Default)]
struct Members<'a> {
    log: Option<&'a [u8]>,
    stream: Option<&'a [u8]>,
    time: Option<&'a [u8]>,
    /// Whether there are others than Docker's.
    others: bool,
}

impl Members<'_> {
    fn stream(&self) -> Option<Stream> {
        match self.stream? {
            b"stdout" => Some(Stream::Stdout),
            b"stderr" => Some(Stream::Stderr),
            _ => None,
        }
    }

    fn time(&self) -> Option<Timestamp> {
        time::parse(self.time?)
    }
}

/// Reads one line; `None` for what is none of this format. What `scratch` held is overwritten.
pub(super) fn decode<'a>(line: &'a [u8], scratch: &'a mut Vec<u8>) -> Option<Record<'a>> {
    let members = members(line)?;
    let (time, stream) = (members.time(), members.stream());
    if time.is_none() && stream.is_none() {
        return None;
    }
    // Docker leaves an empty one out.
    let log = members.log.unwrap_or_default();
    let bytes = if log.contains(&b'\\') {
        unescape(log, scratch);
        scratch
    } else {
        log
    };
    Some(Record { time, stream, bytes, size: line.len() })
}

/// Whether a line is one that Docker could have written, and nobody else.
pub(super) fn is_record(line: &[u8]) -> bool {
    members(line).is_some_and(|members| {
        let told = members.time().is_some() && members.stream().is_some();
        told && members.log.is_some() && !members.others
    })
}

/// Takes an object apart. Only as strict as it must be to find the members.
fn members(line: &[u8]) -> Option<Members<'_>> {
    let mut members = Members::default();
    let mut rest = blank(line).strip_prefix(b"{")?;
    loop {
        rest = blank(rest);
        if let Some(after) = rest.strip_prefix(b"}") {
            return blank(after).is_empty().then_some(members);
        }
        let (name, after) = string(rest)?;
        let value = blank(blank(after).strip_prefix(b":")?);
        let place = match name {
            b"log" => Some(&mut members.log),
            b"stream" => Some(&mut members.stream),
            b"time" => Some(&mut members.time),
            _ => None,
        };
        rest = match (place, string(value)) {
            (Some(place), Some((text, after))) => {
                *place = Some(text);
                after
            }
            _ => {
                members.others |= name != b"attrs";
                skip(value)?
            }
        };
        rest = blank(rest);
        rest = match rest.strip_prefix(b",") {
            Some(after) => after,
            None => rest.starts_with(b"}").then_some(rest)?,
        };
    }
}

fn blank(bytes: &[u8]) -> &[u8] {
    bytes.trim_ascii_start()
}

/// What is between the quotes that `bytes` begin with, still escaped, and what follows.
fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = bytes.strip_prefix(b"\"")?;
    let mut at = 0;
    loop {
        at += memchr2(b'"', b'\\', text.get(at..)?)?;
        match text.get(at)? {
            b'"' => return Some((text.get(..at)?, text.get(at + 1..)?)),
            _ => at += 2,
        }
    }
}

/// What follows any value.
fn skip(mut bytes: &[u8]) -> Option<&[u8]> {
    let mut depth = 0_usize;
    loop {
        match bytes.first()? {
            b'"' => {
                bytes = string(bytes)?.1;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b',' | b']' if depth == 0 => return Some(bytes),
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        bytes = bytes.get(1..)?;
    }
}

/// Puts what an escaped text means into `out`. Half a surrogate pair is U+FFFD, as in Go.
fn unescape(mut text: &[u8], out: &mut Vec<u8>) {
    out.clear();
    while let Some(at) = memchr::memchr(b'\\', text) {
        let (plain, escape) = text.split_at(at);
        out.extend_from_slice(plain);
        let (character, size) = match escape.get(1) {
            Some(b'n') => ('\n', 2),
            Some(b'r') => ('\r', 2),
            Some(b't') => ('\t', 2),
            Some(b'b') => ('\u{8}', 2),
            Some(b'f') => ('\u{c}', 2),
            Some(b'u') => code_point(escape),
            Some(&other) => (char::from(other), 2),
            None => break,
        };
        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        text = escape.get(size..).unwrap_or_default();
    }
    out.extend_from_slice(text);
}

/// The character that `\u` and four digits name, or two of these, and their size.
fn code_point(escape: &[u8]) -> (char, usize) {
    let unit = |from: usize| {
        let digits = escape.get(from..from + 6)?.strip_prefix(b"\\u")?;
        u32::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
    };
    let character = |code: u32| char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
    match (unit(0), unit(6)) {
        (Some(high @ 0xd800..0xdc00), Some(low @ 0xdc00..0xe000)) => {
            (character(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)), 12)
        }
        (Some(code), _) => (character(code), 6),
        (None, _) => (char::REPLACEMENT_CHARACTER, 2),
    }
}
