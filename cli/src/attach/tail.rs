//! The end of the log, as a terminal gets it before the output: filtered as a replay is, because the
//! answers to old queries would be the command's input.

use vmon::terminal::Modes;

use crate::screen::Screen;

/// Bytes before the tail that show where a sequence or a character begins.
pub const CONTEXT: u64 = 256;

/// Most continuation bytes in a UTF-8 character.
const MOST_CONTINUATION: usize = 3;

/// The part of the log that is still to come.
pub struct Tail {
    /// Bytes before the tail, which are not shown.
    context: u64,
    /// Bytes of the tail.
    left: u64,
    phase: TailPhase,
    /// The state of the bytes before.
    before: Modes,
    screen: Screen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TailPhase {
    /// Before the first whole character and sequence; the number of bytes of an incomplete
    /// character that were skipped.
    Rest(usize),
    Shown,
    /// After the tail; the number of bytes of its last character that were shown.
    End(usize),
}

impl Tail {
    /// `received` bytes of the log come first, and `wanted` of them are to be shown. `modes` are the
    /// sequences that have set the modes of the terminal.
    pub fn new(received: u64, wanted: u64, modes: &str) -> Self {
        let context = received.saturating_sub(wanted);
        let mut screen = Screen::session();
        screen.filter(modes.as_bytes(), &mut Vec::new());
        let phase = TailPhase::Rest(0);
        Self { context, left: received - context, phase, before: Modes::default(), screen }
    }

    /// Filters the part of `bytes` that belongs to the tail. Returns the other part; `None` if the
    /// tail is not complete.
    pub fn filter<'a>(&mut self, bytes: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
        for (at, byte) in bytes.iter().enumerate() {
            if self.context == 0 && self.left == 0 && self.is_whole_before(*byte) {
                return bytes.get(at..);
            }
            let byte = std::slice::from_ref(byte);
            if self.context > 0 {
                self.context -= 1;
                self.before.scan(byte);
                continue;
            }
            self.left = self.left.saturating_sub(1);
            if self.begins_with(byte) {
                self.screen.filter(byte, out);
            }
            self.before.scan(byte);
        }
        None
    }

    /// Whether this byte is shown: not one of a sequence or character that began before the tail.
    fn begins_with(&mut self, byte: &[u8]) -> bool {
        match self.phase {
            TailPhase::Rest(_) if self.before.is_in_sequence() => return false,
            TailPhase::Rest(skipped)
                if skipped < MOST_CONTINUATION && matches!(byte, [0x80..=0xbf]) =>
            {
                self.phase = TailPhase::Rest(skipped + 1);
                return false;
            }
            TailPhase::Rest(_) => self.phase = TailPhase::Shown,
            TailPhase::Shown | TailPhase::End(_) => {}
        }
        true
    }

    /// Whether the tail ends before this byte, and not within a sequence or a character.
    fn is_whole_before(&mut self, byte: u8) -> bool {
        let shown = if let TailPhase::End(shown) = self.phase { shown } else { 0 };
        self.phase = TailPhase::End(shown + 1);
        let continues = matches!(byte, 0x80..=0xbf) && shown < MOST_CONTINUATION;
        !self.before.is_in_sequence() && !continues
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shown of the last `wanted` bytes of a log, and of output after them.
    fn shown(log: &str, wanted: u64, after: &str) -> String {
        let received = (log.len() as u64).min(wanted + CONTEXT);
        let bytes = [&log.as_bytes()[log.len() - received as usize..], after.as_bytes()].concat();
        let mut whole = None;
        for size in [1, 2, bytes.len().max(1)] {
            let mut tail = Tail::new(received, wanted, "");
            let mut out = Vec::new();
            let mut over = received == 0;
            for piece in bytes.chunks(size) {
                let rest = if over { Some(piece) } else { tail.filter(piece, &mut out) };
                out.extend(rest.unwrap_or_default());
                over = rest.is_some();
            }
            let out = String::from_utf8(out).unwrap();
            assert_eq!(whole.get_or_insert_with(|| out.clone()), &out, "in pieces of {size}");
        }
        whole.unwrap()
    }

    #[test]
    fn the_tail_has_no_queries_and_the_output_after_it_all() {
        assert_eq!(shown("\x1b[6na\x1b[c\x1b]11;?\x07b", 100, "\x1b[6nc"), "ab\x1b[6nc");
        assert_eq!(shown("", 100, "\x1b[6nc"), "\x1b[6nc");
        let log = format!("{}\x1b[31mred\x1b[mend", "x".repeat(1000));
        assert_eq!(shown(&log, 5, ""), "end");
        assert_eq!(shown(&log, 9, ""), "red\x1b[mend");
        assert_eq!(shown(&log, 12, ""), "red\x1b[mend");
        assert_eq!(shown(&log, 14, ""), "\x1b[31mred\x1b[mend");
    }

    #[test]
    fn the_tail_begins_and_ends_with_whole_sequences_and_characters() {
        let log = format!("{}\u{1f980}\x1b]0;a long title\x07end\u{e4}", "x".repeat(1000));
        for wanted in 0..20 {
            let out = shown(&log, wanted, "after");
            assert!("end\u{e4}after".ends_with(&out), "{wanted}: {out:?}");
        }
        // What the log has of a sequence, the output completes.
        let out = |log: &str, after| shown(log, 100, after);
        assert_eq!(out("a\x1b[3", "1mb"), "a\x1b[31mb");
        assert_eq!(out("a\x1b[", "6nb\x1b[c"), "ab\x1b[c");
    }
}
