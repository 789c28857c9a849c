//! The terminal state that a session has changed, and how it is restored.

use vte::Params;

use super::CONTROL_SEQUENCE;

/// Largest size of the stored attribute sequences, in bytes. Programs reset all attributes long
/// before.
const COLOURS: usize = 256;

const NO_COLOURS: &[u8] = b"\x1b[m";

/// A display mode.
struct Mode {
    /// Whether it is a DEC private mode, with a question mark.
    private: bool,
    number: u16,
    /// Its default value.
    normal: bool,
}

const fn private(number: u16, normal: bool) -> Mode {
    Mode { private: true, number, normal }
}

/// In the order in which they are reset.
const MODES: [Mode; 7] = [
    private(SYNCHRONIZED, false),
    Mode { private: false, number: 4, normal: false }, // insert
    private(ORIGIN, false),
    private(MARGINS, false),
    private(5, false), // reverse video
    private(7, true),  // autowrap
    private(25, true), // a visible cursor
];

/// Synchronized output: the display is not updated.
const SYNCHRONIZED: u16 = 2026;

/// Origin mode: rows count from the top of the scrolling region.
const ORIGIN: u16 = 6;

/// Left and right margin mode.
const MARGINS: u16 = 69;

/// Alternate screen modes, without and with saving of the cursor.
const ALTERNATE: [u16; 3] = [47, 1047, 1049];

/// Saves and restores the cursor.
const CURSOR: u16 = 1048;

/// The changed state.
#[derive(Debug, Default, Clone)]
pub struct TerminalState {
    /// The sequences that set attributes since the last reset.
    colours: Vec<u8>,
    /// The mode with which the alternate screen was entered.
    alternate: Option<u16>,
    /// Top and bottom row of the scrolling region.
    region: Option<(u16, u16)>,
    /// Bit set of the [`MODES`] that differ from the default.
    modes: u16,
    /// Bit set of those that have ever differed: restoring the cursor may set them again.
    touched: u16,
    /// Whether the second character set (G1) is in use.
    shifted: bool,
    /// Whether G0 and G1 are line-drawing sets.
    lines: [bool; 2],
    second_set_touched: bool,
}

impl TerminalState {
    /// Records a sequence that sets attributes. `reset`: it first resets all attributes; `only`: it
    /// does nothing else.
    pub fn colour(&mut self, reset: bool, only: bool, sequence: &[u8]) {
        if reset {
            self.colours.clear();
        }
        if reset && only {
            return;
        }
        self.colours.extend_from_slice(sequence);
        while self.colours.len() > COLOURS {
            let next = self.colours.iter().skip(1).position(|&byte| byte == b'\x1b');
            self.colours.drain(..next.map_or(self.colours.len(), |at| at + 1));
        }
    }

    pub fn shift(&mut self, byte: u8) {
        self.shifted = byte == b'\x0e';
    }

    pub fn character_set(&mut self, set: u8, characters: u8) {
        let [first, second] = &mut self.lines;
        match set {
            b'(' => *first = characters == b'0',
            _ => {
                *second = characters == b'0';
                self.second_set_touched = true;
            }
        }
    }

    pub fn region(&mut self, params: &Params) {
        let mut numbers = params.iter().map(|param| param.first().copied().unwrap_or_default());
        let region = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
        self.region = (region != (0, 0)).then_some(region);
    }

    pub fn has_margins(&self) -> bool {
        modes_in(self.modes).any(|mode| mode.private && mode.number == MARGINS)
    }

    /// Sets a mode if it is permitted.
    pub fn mode(&mut self, private: bool, number: u16, on: bool, out: &mut Vec<u8>) {
        let known = MODES.iter().position(|mode| (mode.private, mode.number) == (private, number));
        match known {
            Some(at) => {
                let bit = 1 << at;
                let normal = MODES.get(at).is_some_and(|mode| mode.normal == on);
                self.modes = if normal { self.modes & !bit } else { self.modes | bit };
                self.touched |= self.modes;
            }
            None if private && ALTERNATE.contains(&number) => {
                // Leaving it without having entered it would move the cursor.
                if !on && self.alternate.is_none() {
                    return;
                }
                self.alternate = on.then_some(self.alternate.unwrap_or(number));
            }
            None if private && number == CURSOR => {}
            None => return,
        }
        set(private, number, on, out);
    }

    /// Resets the attributes.
    pub fn undo_colours(&self, out: &mut Vec<u8>) {
        if !self.colours.is_empty() {
            out.extend_from_slice(NO_COLOURS);
        }
    }

    /// Restores the terminal.
    pub fn undo(&self, out: &mut Vec<u8>) {
        if let Some(number) = self.alternate {
            // First, because it restores the cursor with its attributes and character set.
            set(true, number, false, out);
        }
        self.undo_rest(out);
    }

    /// Performs a soft reset: everything but the alternate screen is restored.
    pub fn undo_soft(&mut self, out: &mut Vec<u8>) {
        self.undo_rest(out);
        let alternate = self.alternate.take();
        *self = Self { alternate, touched: self.touched, ..Self::default() };
    }

    fn undo_rest(&self, out: &mut Vec<u8>) {
        // Attributes and G0 are always reset, because restoring the cursor may have changed them.
        out.extend_from_slice(NO_COLOURS);
        out.extend_from_slice(b"\x0f\x1b(B");
        if self.second_set_touched {
            out.extend_from_slice(b"\x1b)B");
        }
        let mut homed = false;
        for mode in modes_in(self.touched) {
            set(mode.private, mode.number, mode.normal, out);
            homed |= mode.private && mode.number == ORIGIN;
        }
        match (self.region, homed) {
            (None, false) => {}
            (Some(_), false) => out.extend_from_slice(b"\x1b7\x1b[r\x1b8"),
            // The cursor is at the top now. Below all output it overwrites nothing.
            (_, true) => out.extend_from_slice(b"\x1b[r\x1b[9999H\n"),
        }
    }

    /// Returns to the recorded state.
    pub fn redo(&self, out: &mut Vec<u8>) {
        if let Some(number) = self.alternate {
            set(true, number, true, out);
        }
        if let Some((top, bottom)) = self.region {
            out.extend_from_slice(format!("\x1b[{top};{bottom}r").as_bytes());
        }
        for mode in modes_in(self.modes) {
            set(mode.private, mode.number, !mode.normal, out);
        }
        for (set, lines) in [b'(', b')'].into_iter().zip(self.lines) {
            if lines {
                out.extend_from_slice(&[b'\x1b', set, b'0']);
            }
        }
        if self.shifted {
            out.push(b'\x0e');
        }
        out.extend_from_slice(&self.colours);
    }
}

fn modes_in(bits: u16) -> impl Iterator<Item = &'static Mode> {
    MODES.iter().enumerate().filter(move |(at, _)| bits & 1 << at != 0).map(|(_, mode)| mode)
}

fn set(private: bool, number: u16, on: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(CONTROL_SEQUENCE);
    if private {
        out.push(b'?');
    }
    out.extend_from_slice(number.to_string().as_bytes());
    out.push(if on { b'h' } else { b'l' });
}
