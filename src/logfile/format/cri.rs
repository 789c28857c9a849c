//! The lines of the Kubernetes container runtime interface, as its kubelet reads them:
//! `2026-11-23T17:02:03.123456789+00:00 stdout F text`. The offset is always a number, never `Z`.

use memchr::memchr;

use super::time::Zone;
use super::{Out, Record, STDERR, STDOUT, time};
use crate::logfile::entry::{Stream, Timestamp};

/// The size of the head, before the child's bytes.
const HEAD: usize = time::LENGTH + time::SUFFIX + b" stdout F ".len();

/// The overhead of a record.
pub(super) const AROUND: usize = HEAD + 1;

/// The fields before the child's bytes.
struct Head {
    time: Timestamp,
    stream: Stream,
    /// Whether the child's line continues in the next record.
    partial: bool,
    /// Where the child's bytes begin.
    size: usize,
}

/// Encodes as many records of `bytes` as fit. Returns how many of `bytes` they carry, and whether
/// the last one leaves a line open; `None` if there is no record.
pub(super) fn encode(
    (time, zone): (Timestamp, Zone),
    stream: &[u8; 6],
    bytes: &[u8],
    longest: usize,
    out: &mut Out<'_>,
) -> (usize, Option<bool>) {
    let full = write_head(time, zone, stream, b'F');
    let partial = write_head(time, zone, stream, b'P');
    let (mut rest, mut open) = (bytes, None);
    while !rest.is_empty() {
        let most = rest.get(..longest).unwrap_or(rest);
        let newline = memchr(b'\n', most);
        let (text, after) = match newline {
            Some(at) => rest.split_at(at + 1),
            None => rest.split_at(most.len()),
        };
        // The newline of a whole line also ends the record.
        let (head, size) = match newline {
            Some(_) => (&full, HEAD + text.len()),
            None => (&partial, AROUND + text.len()),
        };
        let Some((place, body)) = out.take(size).and_then(<[u8]>::split_first_chunk_mut) else {
            break;
        };
        *place = *head;
        let (place, end) = body.split_at_mut(text.len());
        place.copy_from_slice(text);
        end.fill(b'\n');
        (rest, open) = (after, Some(newline.is_none()));
    }
    (bytes.len() - rest.len(), open)
}

/// The size of the first record of `bytes`, which are not empty.
pub(super) fn first_size(bytes: &[u8], longest: usize) -> usize {
    let most = bytes.get(..longest).unwrap_or(bytes);
    match memchr(b'\n', most) {
        Some(at) => HEAD + at + 1,
        None => AROUND + most.len(),
    }
}

fn write_head(time: Timestamp, zone: Zone, stream: &[u8; 6], tag: u8) -> [u8; HEAD] {
    let mut head = [b' '; HEAD];
    let (time, zone) = (time::format(zone.shown(time)), zone.suffix());
    let parts = [time.as_slice(), &zone, b" ", stream, b" ", &[tag]];
    for (place, byte) in head.iter_mut().zip(parts.into_iter().flatten()) {
        *place = *byte;
    }
    head
}

/// Decodes one line; `None` if it is not a record of this format.
pub(super) fn decode(line: &[u8]) -> Option<Record<'_>> {
    let head = head(line)?;
    // The newline behind a partial line belongs to the format, not to the child's bytes.
    let end = line.len() - usize::from(head.partial);
    let bytes = line.get(head.size..end)?;
    Some(Record { time: Some(head.time), stream: Some(head.stream), bytes, size: line.len() })
}

/// Whether these bytes start like a record. The line may be incomplete.
pub(super) fn begins(beginning: &[u8]) -> bool {
    head(beginning).is_some()
}

/// Whether an incomplete line may be the beginning of a record.
pub(super) fn is_begun(line: &[u8]) -> bool {
    let mut words = line.splitn(4, |&byte| byte == b' ');
    let [time, stream, _, text] = [(); 4].map(|()| words.next());
    let of_time = |byte: &u8| byte.is_ascii_digit() || b"-:.+TZ".contains(byte);
    match (time, stream) {
        (Some(time), None) => time.iter().all(of_time),
        (Some(time), Some(stream)) if text.is_none() => {
            let is_stream = |name: &[u8; 6]| name.starts_with(stream);
            time::parse(time).is_some() && [STDOUT, STDERR].into_iter().any(is_stream)
        }
        _ => begins(line),
    }
}

fn head(line: &[u8]) -> Option<Head> {
    let mut words = line.splitn(4, |&byte| byte == b' ');
    let (time, stream, tags) = (words.next()?, words.next()?, words.next()?);
    words.next()?;
    let size = time.len() + stream.len() + tags.len() + 3;
    let stream = match stream {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    // Further tags may follow behind colons. The first one has this meaning.
    let partial = match tags {
        b"F" | [b'F', b':', ..] => false,
        b"P" | [b'P', b':', ..] => true,
        _ => return None,
    };
    Some(Head { time: time::parse(time)?, stream, partial, size })
}
