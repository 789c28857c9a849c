//! The lines of Docker's json-file driver:
//! `{"log":"text\n","stream":"stdout","time":"2026-11-23T17:02:03.123456789Z"}`.

use memchr::{memchr, memchr2};

use super::{Kept, Out, Record, time};
use crate::logfile::entry::{Stream, Timestamp};

const HEAD: &[u8; 8] = br#"{"log":""#;

/// The replacement for each byte of invalid UTF-8, as in Go.
const REPLACED: &[u8; 6] = br"\ufffd";

/// The longest encoding of one byte.
pub(super) const LONGEST_ESCAPE: usize = REPLACED.len();

/// The overhead of a record.
pub(super) const AROUND: usize =
    br#"{"log":"","stream":"stdout","time":"Z"}"#.len() + time::LENGTH + b"\n".len();

/// Encodes as many records of `kept` and `bytes` as fit. Returns how many of `bytes` are in records
/// or held back.
pub(super) fn encode(
    time: Timestamp,
    stream: &[u8; 6],
    bytes: &[u8],
    longest: usize,
    kept: &mut Kept,
    out: &mut Out<'_>,
) -> usize {
    let tail = tail(time, stream);
    let mut rest = bytes;
    while !rest.is_empty() {
        if let Some(longer) = kept.and(rest) {
            *kept = longer;
            return bytes.len();
        }
        let (begun, count, joined) = kept.join(rest);
        let begun = begun.get(..count).unwrap_or_default();
        let after = rest.get(joined..).unwrap_or_default();
        let text = piece(after, longest.saturating_sub(begun.len()));
        if record(begun, text, &tail, out).is_none() {
            break;
        }
        *kept = Kept::default();
        rest = after.get(text.len()..).unwrap_or_default();
    }
    bytes.len() - rest.len()
}

/// Encodes one record of `bytes`, if it fits.
pub(super) fn write(
    time: Timestamp,
    stream: &[u8; 6],
    bytes: &[u8],
    out: &mut Out<'_>,
) -> Option<()> {
    record(b"", bytes, &tail(time, stream), out)
}

/// The end of a record, the same for all records of a chunk.
fn tail(time: Timestamp, stream: &[u8; 6]) -> [u8; AROUND - HEAD.len()] {
    let mut tail = [0; AROUND - HEAD.len()];
    let time = time::format(time);
    let parts = [br#"","stream":""#.as_slice(), stream, br#"","time":""#, &time, b"Z\"}\n"];
    for (place, byte) in tail.iter_mut().zip(parts.into_iter().flatten()) {
        *place = *byte;
    }
    tail
}

/// Encodes one record, of a character that began in an earlier chunk and of text, if it fits.
fn record(begun: &[u8], text: &[u8], tail: &[u8], out: &mut Out<'_>) -> Option<()> {
    let start = out.used;
    let mut put = || {
        out.put(HEAD)?;
        escape(begun, out)?;
        escape(text, out)?;
        out.put(tail)
    };
    let fits = put();
    if fits.is_none() {
        out.used = start;
    }
    fits
}

/// The bytes of the next record: a line, or the part of it that one record may carry, without an
/// incomplete character at the end.
fn piece(bytes: &[u8], longest: usize) -> &[u8] {
    let most = bytes.get(..longest).unwrap_or(bytes);
    let end = match memchr(b'\n', most) {
        Some(at) => at + 1,
        None => most.len() - unfinished(most),
    };
    most.get(..end).unwrap_or(most)
}

/// The number of bytes at the end that are an incomplete character.
fn unfinished(bytes: &[u8]) -> usize {
    let is_begun = |count: &usize| {
        let end = bytes.len().checked_sub(*count).and_then(|from| bytes.get(from..));
        end.is_some_and(is_beginning)
    };
    (1..=3).find(is_begun).unwrap_or(0)
}

/// Whether `bytes` are the beginning of a character.
fn is_beginning(bytes: &[u8]) -> bool {
    str::from_utf8(bytes)
        .is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
}

impl Kept {
    /// The held-back bytes with all of `rest`, if that is still an incomplete character.
    fn and(&self, rest: &[u8]) -> Option<Self> {
        let mut longer = *self;
        for &byte in rest {
            *longer.bytes.get_mut(usize::from(longer.count))? = byte;
            longer.count += 1;
        }
        is_beginning(longer.bytes()).then_some(longer)
    }

    /// Completes the character with bytes of `rest`. Returns the bytes, their number, and how many
    /// are from `rest`: none if that does not make a character.
    fn join(&self, rest: &[u8]) -> ([u8; 4], usize, usize) {
        let [a, b, c] = self.bytes;
        let begun = [a, b, c, 0];
        let count = self.bytes().len();
        let mut character = begun;
        for (joined, &byte) in (1..).zip(rest) {
            let Some(place) = character.get_mut(count + joined - 1) else { break };
            *place = byte;
            if count > 0 && character.get(..count + joined).is_some_and(is_text) {
                return (character, count + joined, joined);
            }
        }
        (begun, count, 0)
    }
}

fn is_text(bytes: &[u8]) -> bool {
    str::from_utf8(bytes).is_ok()
}

/// Encodes `bytes` as the content of a JSON string, as Docker does.
fn escape(bytes: &[u8], out: &mut Out<'_>) -> Option<()> {
    if let Ok(text) = str::from_utf8(bytes) {
        return escape_text(text, out);
    }
    for chunk in bytes.utf8_chunks() {
        escape_text(chunk.valid(), out)?;
        for _ in chunk.invalid() {
            out.put(REPLACED)?;
        }
    }
    Some(())
}

fn escape_text(text: &str, out: &mut Out<'_>) -> Option<()> {
    let mut rest = text.as_bytes();
    while let Some(at) = first_special(rest) {
        let (plain, special) = rest.split_at(at);
        out.put(plain)?;
        let size = match *special {
            [0xe2, 0x80, 0xa8 | 0xa9, ..] => 3,
            _ => 1,
        };
        match *special {
            [b'\n', ..] => out.put(br"\n")?,
            [b'\r', ..] => out.put(br"\r")?,
            [byte @ (b'"' | b'\\'), ..] => out.put(&[b'\\', byte])?,
            // Line terminators in JavaScript.
            [0xe2, 0x80, 0xa8, ..] => out.put(br"\u2028")?,
            [0xe2, 0x80, 0xa9, ..] => out.put(br"\u2029")?,
            [0xe2, ..] => out.put(&[0xe2])?,
            [byte, ..] => {
                out.put(br"\u00")?;
                out.put(&[byte >> 4, byte & 15].map(digit))?;
            }
            [] => {}
        }
        rest = special.get(size..).unwrap_or_default();
    }
    out.put(rest)
}

fn digit(nibble: u8) -> u8 {
    nibble + if nibble < 10 { b'0' } else { b'a' - 10 }
}

/// The index of the first byte that may need an escape.
fn first_special(bytes: &[u8]) -> Option<usize> {
    let (words, _) = bytes.as_chunks();
    let plain = words.iter().take_while(|word| !holds_special(**word)).count() * WORD;
    let rest = bytes.get(plain..)?;
    Some(plain + rest.iter().position(|&byte| may_be_escaped(byte))?)
}

const WORD: usize = size_of::<u64>();

/// Whether a byte of a word may need an escape. Each test sets the high bit of the bytes that pass
/// it, and possibly of the byte after, so there are false positives but no false negatives.
fn holds_special(word: [u8; WORD]) -> bool {
    const EACH: u64 = u64::from_le_bytes([1; WORD]);
    let word = u64::from_le_bytes(word);
    let below = |word: u64, limit: u8| word.wrapping_sub(EACH * u64::from(limit)) & !word;
    let is = |word: u64, byte: u8| below(word ^ (EACH * u64::from(byte)), 1);
    // '<' and '>' differ in this bit.
    let found = below(word, 0x20)
        | is(word, b'"')
        | is(word, b'&')
        | is(word, b'\\')
        | is(word | (EACH * 2), b'>')
        | is(word, 0xe2);
    found & (EACH << 7) != 0
}

/// Includes the characters of HTML that Go escapes. 0xe2 starts two characters that need an escape,
/// and many that do not.
fn may_be_escaped(byte: u8) -> bool {
    matches!(byte, 0..0x20 | b'"' | b'\\' | b'<' | b'>' | b'&' | 0xe2)
}

/// The known members of an object, as the escaped content of their strings.
#[derive(Default)]
struct Members<'a> {
    log: Option<&'a [u8]>,
    stream: Option<&'a [u8]>,
    time: Option<&'a [u8]>,
    /// Whether there are members that Docker does not write.
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

/// Decodes one line; `None` if it is not a record of this format. Overwrites `scratch`.
pub(super) fn decode<'a>(line: &'a [u8], scratch: &'a mut Vec<u8>) -> Option<Record<'a>> {
    let members = members(line)?;
    let (time, stream) = (members.time(), members.stream());
    if time.is_none() && stream.is_none() {
        return None;
    }
    // Docker omits an empty one.
    let log = members.log.unwrap_or_default();
    let bytes = if log.contains(&b'\\') {
        unescape(log, scratch);
        scratch
    } else {
        log
    };
    Some(Record { time, stream, bytes, size: line.len() })
}

/// Whether Docker could have written this line, with no other members.
pub(super) fn is_record(line: &[u8]) -> bool {
    members(line).is_some_and(|members| {
        let is_complete = members.time().is_some() && members.stream().is_some();
        is_complete && members.log.is_some() && !members.others
    })
}

/// Whether an incomplete line may be the beginning of a record that vmon wrote.
pub(super) fn is_begun(line: &[u8]) -> bool {
    line.starts_with(HEAD) || HEAD.starts_with(line)
}

/// Parses an object, only as strictly as is necessary to find its members.
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

/// The escaped content of the string at the start of `bytes`, and the bytes behind it.
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

/// The bytes behind the value at the start of `bytes`.
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

/// Decodes an escaped text into `out`. A lone surrogate becomes U+FFFD, as in Go.
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

/// The character of one `\uXXXX` escape or a surrogate pair of two, and the size of the escape.
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
