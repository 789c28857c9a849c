//! Packets with the framing of conmon, and the bytes that wait to be sent in them.

use std::collections::VecDeque;

use crate::logfile::Stream;

/// Bytes of the child in one packet, at most. Podman and CRI-O read packets of 8193 bytes; the
/// kernel discards what is longer.
pub(super) const PAYLOAD: usize = 8192;

/// The first byte of a packet: the stream of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    /// The child's stdout, or its terminal.
    Stdout = 2,
    /// The child's stderr.
    Stderr = 3,
}

impl Tag {
    pub(super) fn of(stream: Stream) -> Self {
        match stream {
            Stream::Stdout | Stream::Tty | Stream::Notice => Self::Stdout,
            Stream::Stderr => Self::Stderr,
        }
    }
}

/// One packet.
pub(super) struct Packet {
    tag: Tag,
    bytes: [u8; 1 + PAYLOAD],
    len: usize,
}

impl Default for Packet {
    fn default() -> Self {
        Self { tag: Tag::Stdout, bytes: [0; 1 + PAYLOAD], len: 0 }
    }
}

impl Packet {
    /// Puts these bytes in it, [`PAYLOAD`] of them at most.
    pub(super) fn fill(&mut self, tag: Tag, bytes: &[u8]) {
        self.tag = tag;
        self.len = bytes.len().min(PAYLOAD);
        if let Some((first, rest)) = self.bytes.split_first_mut()
            && let (Some(to), Some(from)) = (rest.get_mut(..self.len), bytes.get(..self.len))
        {
            *first = tag as u8;
            to.copy_from_slice(from);
        }
    }

    pub(super) fn tag(&self) -> Tag {
        self.tag
    }

    /// The bytes of the child.
    pub(super) fn payload(&self) -> &[u8] {
        self.bytes.get(1..=self.len).unwrap_or_default()
    }

    /// All of it.
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..=self.len).unwrap_or_default()
    }
}

/// Bytes that wait, of both streams in the order in which they came. Pieces of one stream that
/// follow each other are sent together.
#[derive(Debug, Default)]
pub(super) struct Queue {
    bytes: Vec<u8>,
    /// How many of the bytes have been sent.
    sent: usize,
    /// The streams of the others.
    runs: VecDeque<Run>,
}

/// Bytes of one stream that follow each other.
#[derive(Debug)]
struct Run {
    tag: Tag,
    len: usize,
}

impl Queue {
    /// The memory that is in use, in bytes.
    pub(super) fn size(&self) -> usize {
        self.bytes.len() - self.sent + self.runs.len() * size_of::<Run>()
    }

    /// Appends bytes.
    pub(super) fn push(&mut self, tag: Tag, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.sent > 0 && self.sent >= self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        self.bytes.extend_from_slice(bytes);
        match self.runs.back_mut() {
            Some(run) if run.tag == tag => run.len += bytes.len(),
            Some(_) | None => self.runs.push_back(Run { tag, len: bytes.len() }),
        }
    }

    /// The payload of the next packet, and its stream.
    pub(super) fn front(&self) -> Option<(Tag, &[u8])> {
        let run = self.runs.front()?;
        let end = self.sent + run.len.min(PAYLOAD);
        Some((run.tag, self.bytes.get(self.sent..end)?))
    }

    /// The first `count` bytes, which are at most those of [`front`](Self::front), have been sent.
    pub(super) fn advance(&mut self, count: usize) {
        let Some(run) = self.runs.front_mut() else { return };
        run.len = run.len.saturating_sub(count);
        if run.len == 0 {
            self.runs.pop_front();
        }
        self.sent += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(queue: &mut Queue) -> Option<(Tag, Vec<u8>)> {
        let (tag, bytes) = queue.front()?;
        let next = (tag, bytes.to_vec());
        queue.advance(next.1.len());
        Some(next)
    }

    #[test]
    fn pieces_of_one_stream_are_sent_together_and_streams_stay_in_order() {
        let mut queue = Queue::default();
        for (tag, bytes) in [
            (Tag::Stdout, &b"a"[..]),
            (Tag::Stdout, b"b"),
            (Tag::Stderr, b"c"),
            (Tag::Stdout, b"d"),
            (Tag::Stdout, b""),
        ] {
            queue.push(tag, bytes);
        }
        assert_eq!(next(&mut queue), Some((Tag::Stdout, b"ab".to_vec())));
        queue.push(Tag::Stdout, b"e");
        assert_eq!(next(&mut queue), Some((Tag::Stderr, b"c".to_vec())));
        assert_eq!(next(&mut queue), Some((Tag::Stdout, b"de".to_vec())));
        assert_eq!((next(&mut queue), queue.size()), (None, 0));
    }

    #[test]
    fn a_long_run_is_cut_into_whole_payloads() {
        let mut queue = Queue::default();
        let bytes: Vec<u8> = (0..2 * PAYLOAD + 5).map(|n| n as u8).collect();
        let (first, second) = bytes.split_at(PAYLOAD - 1);
        queue.push(Tag::Stderr, first);
        queue.push(Tag::Stderr, second);
        let mut sizes = Vec::new();
        let mut sent = Vec::new();
        while let Some((tag, bytes)) = next(&mut queue) {
            assert_eq!(tag, Tag::Stderr);
            sizes.push(bytes.len());
            sent.extend_from_slice(&bytes);
        }
        assert_eq!((sizes, sent == bytes), (vec![PAYLOAD, PAYLOAD, 5], true));
    }

    #[test]
    fn a_packet_is_its_stream_and_at_most_a_payload() {
        let mut packet = Packet::default();
        packet.fill(Tag::Stderr, &[7; PAYLOAD + 1]);
        assert_eq!((packet.as_bytes().len(), packet.as_bytes()[0]), (PAYLOAD + 1, 3));
        packet.fill(Tag::Stdout, b"x");
        assert_eq!((packet.as_bytes(), packet.payload()), (&b"\x02x"[..], &b"x"[..]));
    }
}
