//! What a session has changed of our terminal, and how that is undone.

use vte::Params;

use super::CONTROL_SEQUENCE;

/// Attributes that are remembered, in bytes: a program sets them all anew long before.
const COLOURS: usize = 256;

const NO_COLOURS: &[u8] = b"\x1b[m";

/// A mode of the picture.
struct Mode {
    /// With a question mark.
    private: bool,
    number: u16,
    /// As it is in a terminal of which nobody has wanted anything.
    normal: bool,
}

const fn private(number: u16, normal: bool) -> Mode {
    Mode { private: true, number, normal }
}

/// In the order in which they are undone.
const MODES: [Mode; 7] = [
    private(SYNCHRONIZED, false),
    Mode { private: false, number: 4, normal: false }, // insert
    private(ORIGIN, false),
    private(MARGINS, false),
    private(5, false), // reverse video
    private(7, true),  // autowrap
    private(25, true), // a visible cursor
];

/// Nothing is shown meanwhile.
const SYNCHRONIZED: u16 = 2026;

/// Rows count from the top of the scrolling region.
const ORIGIN: u16 = 6;

/// Columns scroll too.
const MARGINS: u16 = 69;

/// The screen of programs that fill it: without saving the cursor, and with.
const ALTERNATE: [u16; 3] = [47, 1047, 1049];

/// Saves or restores the cursor.
const CURSOR: u16 = 1048;

#[derive(Debug, Default, Clone)]
pub struct Changes {
    /// What has set the attributes, since they were none.
    colours: Vec<u8>,
    /// How the alternate screen was entered.
    alternate: Option<u16>,
    /// The top and bottom of what scrolls.
    region: Option<(u16, u16)>,
    /// Which of [`MODES`] are not normal, a bit each.
    modes: u16,
    /// Which have ever been so: a restored cursor may bring them back.
    touched: u16,
    /// The second character set is in use.
    shifted: bool,
    /// Lines are drawn with the first set, with the second.
    lines: [bool; 2],
    second_set_touched: bool,
}

impl Changes {
    /// Takes in that `sequence` has set attributes; `reset`: and has first taken all others away,
    /// or, `only`, has done nothing else.
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

    /// Sets a mode, if it is one that may be set.
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
                // Nothing is left that was not entered: that would move the cursor.
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

    /// Takes away the attributes.
    pub fn undo_colours(&self, out: &mut Vec<u8>) {
        if !self.colours.is_empty() {
            out.extend_from_slice(NO_COLOURS);
        }
    }

    /// Gives the terminal back as it was.
    pub fn undo(&self, out: &mut Vec<u8>) {
        if let Some(number) = self.alternate {
            // First: the cursor comes back with the attributes and the character set that it had.
            set(true, number, false, out);
        }
        self.undo_rest(out);
    }

    /// What a terminal's soft reset does: all but the alternate screen is as it was.
    pub fn undo_soft(&mut self, out: &mut Vec<u8>) {
        self.undo_rest(out);
        let alternate = self.alternate.take();
        *self = Self { alternate, touched: self.touched, ..Self::default() };
    }

    fn undo_rest(&self, out: &mut Vec<u8>) {
        // Attributes and the first character set also where they seem to be as they were: a
        // restored cursor brings back others.
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
            // The cursor is at the top: below everything is where it does no harm.
            (_, true) => out.extend_from_slice(b"\x1b[r\x1b[9999H\n"),
        }
    }

    /// Takes the terminal where it was.
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
