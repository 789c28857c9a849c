//! Finds the control sequences that concern modes.
//!
//! The states of a terminal's parser (<https://vt100.net/emu/dec_ansi_parser>), as far as they
//! matter here. ESC begins a new sequence in each of them, and CAN ends one.

use memchr::memchr3;

use super::keyboard::Change;

const ESCAPE: u8 = 0x1b;
const CAN: u8 = 0x18;
const SUB: u8 = 0x1a;
const BELL: u8 = 0x07;
/// Shift out and shift in: select G1 and G0.
const SO: u8 = 0x0e;
const SI: u8 = 0x0f;

/// How many parameters are kept. Further ones are ignored.
const PARAMETERS: usize = 16;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Ground,
    Escape,
    Control,
    /// OSC, DCS, APC, PM, SOS, or the title of screen(1).
    String,
}

/// The parser's state between two bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Parser {
    state: State,
    /// One of `<=>?` at the start of the parameters.
    prefix: u8,
    /// The last of the bytes from 0x20 to 0x2f.
    intermediate: u8,
    parameters: [u16; PARAMETERS],
    /// The number of the current parameter.
    at: u8,
    /// The next parameter of a complete sequence that sets several modes, and its final byte.
    modes: Option<(u8, bool)>,
}

/// A sequence that concerns modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sequence {
    Shift(bool),
    CharacterSet { second: bool, lines: bool },
    Keypad(bool),
    RestoreCursor,
    Reset,
    SoftReset,
    Mode { private: bool, number: u16, on: bool },
    Attributes { reset: bool },
    Region(u16, u16),
    CursorStyle(u8),
    OtherKeys(u8),
    Keyboard(Change),
}

impl Parser {
    pub(super) fn is_ground(&self) -> bool {
        self.state == State::Ground
    }

    /// Finds the next sequence, and takes the bytes up to its end from `bytes`.
    #[inline]
    pub(super) fn next(&mut self, bytes: &mut &[u8]) -> Option<Sequence> {
        if let Some((at, on)) = self.modes.take() {
            return self.next_mode(at, on);
        }
        loop {
            let rest = *bytes;
            let skipped = match self.state {
                State::Ground => memchr3(ESCAPE, SO, SI, rest),
                State::String => memchr3(ESCAPE, BELL, CAN, rest),
                State::Escape | State::Control => Some(0),
            };
            let Some((&byte, after)) = rest.get(skipped.unwrap_or(rest.len())..)?.split_first()
            else {
                *bytes = &[];
                return None;
            };
            *bytes = after;
            if let Some(sequence) = self.byte(byte) {
                return Some(sequence);
            }
        }
    }

    fn byte(&mut self, byte: u8) -> Option<Sequence> {
        match (self.state, byte) {
            (_, ESCAPE) => {
                *self = Self { state: State::Escape, ..Self::default() };
                None
            }
            (_, CAN | SUB) | (State::String, BELL) => self.end(None),
            (State::String, _) => None,
            (_, SO | SI) => Some(Sequence::Shift(byte == SO)),
            // Other control characters take effect within a sequence.
            (State::Ground, _) | (_, ..0x20 | 0x7f) => None,
            (_, 0x20..=0x2f) => {
                self.intermediate = byte;
                None
            }
            (State::Escape, _) => self.escape(byte),
            (State::Control, b'<'..=b'?') => {
                self.prefix = byte;
                None
            }
            (State::Control, b'0'..=b'9') => {
                if let Some(number) = self.parameters.get_mut(usize::from(self.at)) {
                    *number = number.saturating_mul(10).saturating_add(u16::from(byte - b'0'));
                }
                None
            }
            (State::Control, b':' | b';') => {
                self.at = self.at.saturating_add(1);
                None
            }
            (State::Control, 0x40..) => self.control(byte),
        }
    }

    fn end(&mut self, sequence: Option<Sequence>) -> Option<Sequence> {
        self.state = State::Ground;
        sequence
    }

    fn escape(&mut self, byte: u8) -> Option<Sequence> {
        match (self.intermediate, byte) {
            (0, b'[') => self.state = State::Control,
            (0, b']' | b'P' | b'X' | b'^' | b'_' | b'k') => self.state = State::String,
            _ => self.state = State::Ground,
        }
        match (self.intermediate, byte) {
            (0, b'=' | b'>') => Some(Sequence::Keypad(byte == b'=')),
            (0, b'8') => Some(Sequence::RestoreCursor),
            (0, b'c') => Some(Sequence::Reset),
            (set @ (b'(' | b')'), _) => {
                Some(Sequence::CharacterSet { second: set == b')', lines: byte == b'0' })
            }
            _ => None,
        }
    }

    fn parameter(&self, at: usize) -> u16 {
        self.parameters.get(at).copied().unwrap_or_default()
    }

    fn control(&mut self, byte: u8) -> Option<Sequence> {
        let (first, second) = (self.parameter(0), self.parameter(1));
        let flags = u8::try_from(first).unwrap_or_default();
        let found = match (self.prefix, self.intermediate, byte) {
            (0 | b'?', 0, b'h' | b'l') => {
                self.state = State::Ground;
                return self.next_mode(0, byte == b'h');
            }
            (0, 0, b'm') => {
                let reset = self.parameters.iter().all(|&parameter| parameter == 0);
                Sequence::Attributes { reset }
            }
            (0, 0, b'r') => Sequence::Region(first, second),
            (0, 0, b'u') => Sequence::RestoreCursor,
            (b'>', 0, b'u') => Sequence::Keyboard(Change::Push(flags)),
            (b'<', 0, b'u') => Sequence::Keyboard(Change::Pop(first.max(1))),
            (b'=', 0, b'u') => Sequence::Keyboard(Change::Set { flags, how: second }),
            (b'>', 0, b'm') if first == 0 => Sequence::OtherKeys(0),
            (b'>', 0, b'm') if first == 4 => {
                Sequence::OtherKeys(u8::try_from(second).unwrap_or_default())
            }
            (b'>', 0, b'n') if first == 4 => Sequence::OtherKeys(0),
            (0, b' ', b'q') => Sequence::CursorStyle(flags),
            (0, b'!', b'p') => Sequence::SoftReset,
            _ => return self.end(None),
        };
        self.end(Some(found))
    }

    /// The mode at this parameter; the ones after it follow.
    fn next_mode(&mut self, at: u8, on: bool) -> Option<Sequence> {
        let last = usize::from(self.at).min(PARAMETERS - 1);
        if usize::from(at) < last {
            self.modes = Some((at + 1, on));
        }
        let number = self.parameter(at.into());
        Some(Sequence::Mode { private: self.prefix == b'?', number, on })
    }
}
