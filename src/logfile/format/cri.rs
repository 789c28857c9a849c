//! The lines of the Kubernetes container runtime interface, as its kubelet reads them:
//! `2026-11-23T17:02:03.123456789+00:00 stdout F text`.

use super::{Record, time};
use crate::logfile::entry::{Stream, Timestamp};

/// What a line says before the child's bytes.
struct Head {
    time: Timestamp,
    stream: Stream,
    /// Whether the child's line goes on in the next record.
    partial: bool,
    /// Where the child's bytes begin.
    size: usize,
}

/// Reads one line; `None` for what is none of this format.
pub(super) fn decode(line: &[u8]) -> Option<Record<'_>> {
    let head = head(line)?;
    // The newline behind a partial line is the format's.
    let end = line.len() - usize::from(head.partial);
    let bytes = line.get(head.size..end)?;
    Some(Record { time: Some(head.time), stream: Some(head.stream), bytes, size: line.len() })
}

/// Whether a first line begins as one of this format. It need not be whole.
pub(super) fn begins(beginning: &[u8]) -> bool {
    head(beginning).is_some()
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
    // More of them may follow one day, behind colons; the first has this meaning.
    let partial = match tags {
        b"F" | [b'F', b':', ..] => false,
        b"P" | [b'P', b':', ..] => true,
        _ => return None,
    };
    Some(Head { time: time::parse(time)?, stream, partial, size })
}
