//! The modes that output has set in a terminal: which are in force, how they are undone and set
//! again.

mod keyboard;
mod parser;

use keyboard::Keyboard;
use parser::{Parser, Sequence};

/// A mode that is set and reset by number (SM and RM, DECSET and DECRST).
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

const fn ansi(number: u16) -> Mode {
    Mode { private: false, number, normal: false }
}

/// In the order in which they are reset. The index of a mode is its bit in a set of modes.
const MODES: [Mode; 23] = [
    private(2026, false), // synchronized output: the display is not updated
    ansi(4),              // insert
    private(6, false),    // origin: rows count from the top of the scrolling region
    private(69, false),   // left and right margins
    private(5, false),    // reverse video
    private(7, true),     // autowrap
    private(25, true),    // a visible cursor
    private(1, false),    // application cursor keys
    private(66, false),   // application keypad
    ansi(20),             // newline
    private(9, false),    // mouse: presses
    private(1000, false), // mouse: presses and releases
    private(1002, false), // mouse: motion while pressed
    private(1003, false), // mouse: all motion
    private(1005, false), // mouse: UTF-8 coordinates
    private(1006, false), // mouse: SGR coordinates
    private(1015, false), // mouse: urxvt coordinates
    private(1016, false), // mouse: pixels
    private(1004, false), // focus
    private(2004, false), // bracketed paste
    private(2031, false), // reports of a new colour scheme
    private(2048, false), // reports of a new size
    private(9001, false), // win32 input
];

const SYNCHRONIZED: u32 = 1;
const INSERT: u32 = 1 << 1;
const ORIGIN: u32 = 1 << 2;
const MARGINS: u32 = 1 << 3;
const AUTOWRAP: u32 = 1 << 5;
const CURSOR: u32 = 1 << 6;
const CURSOR_KEYS: u32 = 1 << 7;
const KEYPAD: u32 = 1 << 8;

// Bits beside those of `MODES`. The ones without a value of their own are for `seen`.

const KEYBOARD: u32 = 1 << 23;
const SCREEN: u32 = 1 << 28;
const REGION: u32 = 1 << 29;
const CURSOR_STYLE: u32 = 1 << 30;
const OTHER_KEYS: u32 = 1 << 31;

/// Character attributes (SGR). Not set again: a program that redraws sets its own.
const ATTRIBUTES: u32 = 1 << 24;
/// G0 and G1 are the line-drawing set.
const G0: u32 = 1 << 25;
const G1: u32 = 1 << 26;
/// G1 is in use (SO).
const SHIFT: u32 = 1 << 27;

/// Modes that the restoring of a saved cursor may set again.
const SAVED: u32 = ORIGIN | AUTOWRAP;
/// What is reset after the restoring of a saved cursor in any case.
const RESTORED: u32 = ATTRIBUTES | G0 | SHIFT;
/// What a soft reset (DECSTR) resets.
const SOFT: u32 = INSERT
    | ORIGIN
    | MARGINS
    | AUTOWRAP
    | CURSOR
    | CURSOR_KEYS
    | KEYPAD
    | ATTRIBUTES
    | G0
    | G1
    | SHIFT;

/// Modes of the alternate screen, without and with saving of the cursor.
const ALTERNATE: [u16; 3] = [47, 1047, 1049];

/// CAN: cancels an incomplete sequence, and has no effect on its own (ECMA-48).
const CANCEL: u8 = 0x18;

/// The modes that output has set in a terminal, by the control sequences in it.
///
/// A scanner without a screen: it has a fixed size of some 80 bytes and allocates nothing. It knows
/// the alternate screen, the cursor's visibility and style, mouse, focus and paste reports,
/// application keys, the keyboard protocols of kitty and xterm (modifyOtherKeys), the scrolling
/// region, line-drawing characters, and whether attributes were set. Sequences may be split between
/// calls at any byte.
///
/// ```
/// use vmon::terminal::Modes;
///
/// let mut modes = Modes::default();
/// modes.scan(b"\x1b[?1049h\x1b[?2");
/// modes.scan(b"5l in full screen");
/// assert!(modes.alternate_screen());
/// let (mut undo, mut set) = (Vec::new(), Vec::new());
/// modes.undo(&mut undo);
/// modes.set(&mut set);
/// assert_eq!(undo, b"\x1b[?1049l\x1b[?25h");
/// assert_eq!(set, b"\x1b[?1049h\x1b[?25l");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Modes {
    parser: Parser,
    /// Bit set of what differs from the default.
    set: u32,
    /// Bit set of what has ever differed.
    touched: u32,
    /// Bit set of what any sequence has set or reset.
    seen: u32,
    /// The mode with which the alternate screen was entered.
    alternate: Option<u16>,
    /// Top and bottom row of the scrolling region.
    region: Option<(u16, u16)>,
    /// The cursor's style (DECSCUSR).
    cursor_style: u8,
    /// The value of modifyOtherKeys.
    other_keys: u8,
    /// The kitty keyboard protocol, which each screen has for itself.
    main_keyboard: Keyboard,
    alternate_keyboard: Keyboard,
}

impl Modes {
    /// Scans output. Returns whether a mode may have changed.
    pub fn scan(&mut self, bytes: &[u8]) -> bool {
        let mut changed = false;
        let mut rest = bytes;
        while let Some(sequence) = self.parser.next(&mut rest) {
            changed |= self.apply(&sequence);
        }
        changed
    }

    /// Whether the output so far ends within a control sequence or string.
    pub fn is_in_sequence(&self) -> bool {
        !self.parser.is_ground()
    }

    /// Whether the alternate screen is shown.
    pub fn alternate_screen(&self) -> bool {
        self.alternate.is_some()
    }

    /// Whether left and right margins can be set, so that `CSI s` sets them instead of saving the
    /// cursor.
    pub fn margins(&self) -> bool {
        self.set & MARGINS != 0
    }

    /// Whether a scrolling region is set.
    pub fn scrolling_region(&self) -> bool {
        self.region.is_some()
    }

    /// Appends the sequences that undo all modes. Nothing if no mode has been set.
    pub fn undo(&self, out: &mut Vec<u8>) {
        if self.is_in_sequence() {
            out.push(CANCEL);
        }
        if let Some(number) = self.alternate {
            self.alternate_keyboard.undo(out);
            // First, because it restores the cursor with its attributes and character set.
            set_mode(true, number, false, out);
        }
        self.undo_soft(out);
        self.main_keyboard.undo(out);
        if self.other_keys != 0 {
            out.extend_from_slice(b"\x1b[>4m");
        }
        if self.cursor_style != 0 {
            out.extend_from_slice(b"\x1b[0 q");
        }
    }

    /// Appends the sequences that undo the modes except the alternate screen, the keyboard's
    /// protocols and the cursor's style: a soft reset (DECSTR) of what output has changed.
    pub fn undo_soft(&self, out: &mut Vec<u8>) {
        for (bit, sequence) in
            [(ATTRIBUTES, "\x1b[m"), (SHIFT, "\x0f"), (G0, "\x1b(B"), (G1, "\x1b)B")]
        {
            if self.touched & bit != 0 {
                out.extend_from_slice(sequence.as_bytes());
            }
        }
        let resets = self.set | (self.touched & SAVED);
        write_modes(resets, true, out);
        match (self.region, resets & ORIGIN != 0) {
            (None, false) => {}
            (Some(_), false) => out.extend_from_slice(b"\x1b7\x1b[r\x1b8"),
            // The cursor is at the top now. Below all output it overwrites nothing.
            (_, true) => out.extend_from_slice(b"\x1b[r\x1b[9999H\n"),
        }
    }

    /// Appends the sequences that set the modes again on a terminal in its default state. The
    /// contents of the alternate screen, attributes and the scrolling region are the program's to
    /// draw and to set: a terminal drops the region when its size changes, so that it may not apply
    /// to the terminal's size now.
    pub fn set(&self, out: &mut Vec<u8>) {
        self.main_keyboard.set(out);
        if let Some(number) = self.alternate {
            set_mode(true, number, true, out);
            self.alternate_keyboard.set(out);
        }
        write_modes(self.set & !SYNCHRONIZED, false, out);
        for (bit, sequence) in [(G0, "\x1b(0"), (G1, "\x1b)0"), (SHIFT, "\x0e")] {
            if self.set & bit != 0 {
                out.extend_from_slice(sequence.as_bytes());
            }
        }
        if self.other_keys != 0 {
            out.extend_from_slice(format!("\x1b[>4;{}m", self.other_keys).as_bytes());
        }
        if self.cursor_style != 0 {
            out.extend_from_slice(format!("\x1b[{} q", self.cursor_style).as_bytes());
        }
    }

    /// Appends the sequence that sets the scrolling region again, for output that is not drawn again.
    /// Nothing if there is none. It moves the cursor.
    pub fn set_region(&self, out: &mut Vec<u8>) {
        if let Some((top, bottom)) = self.region {
            out.extend_from_slice(format!("\x1b[{top};{bottom}r").as_bytes());
        }
    }

    /// Appends the sequences that have the effect on modes that all output so far has had, on a
    /// terminal in any state: in the place of output that is left out. Nothing if that has had none.
    pub(crate) fn changes(&self, out: &mut Vec<u8>) {
        if self.seen & SCREEN != 0 {
            let number = self.alternate.unwrap_or(1049);
            set_mode(true, number, self.alternate.is_some(), out);
        }
        if self.seen & KEYBOARD != 0 {
            match self.alternate {
                Some(_) => self.alternate_keyboard.changes(out),
                None => self.main_keyboard.changes(out),
            }
        }
        if self.seen & REGION != 0 {
            match self.region {
                Some(_) => self.set_region(out),
                None => out.extend_from_slice(b"\x1b[r"),
            }
        }
        write_modes(self.seen & !self.set, true, out);
        write_modes(self.seen & self.set, false, out);
        for (bit, on, off) in [
            (ATTRIBUTES, "", "\x1b[m"),
            (G0, "\x1b(0", "\x1b(B"),
            (G1, "\x1b)0", "\x1b)B"),
            (SHIFT, "\x0e", "\x0f"),
        ] {
            if self.seen & bit != 0 {
                let sequence = if self.set & bit != 0 { on } else { off };
                out.extend_from_slice(sequence.as_bytes());
            }
        }
        if self.seen & OTHER_KEYS != 0 {
            out.extend_from_slice(format!("\x1b[>4;{}m", self.other_keys).as_bytes());
        }
        if self.seen & CURSOR_STYLE != 0 {
            out.extend_from_slice(format!("\x1b[{} q", self.cursor_style).as_bytes());
        }
    }

    /// Applies a sequence. Returns whether it concerns a mode.
    fn apply(&mut self, sequence: &Sequence) -> bool {
        match *sequence {
            Sequence::Shift(on) => self.switch(SHIFT, on),
            Sequence::CharacterSet { second, lines } => {
                self.switch(if second { G1 } else { G0 }, lines);
            }
            Sequence::Keypad(on) => self.switch(KEYPAD, on),
            Sequence::RestoreCursor => self.touched |= RESTORED,
            Sequence::Reset => {
                let parser = self.parser;
                *self = Self { parser, seen: u32::MAX, ..Self::default() };
            }
            Sequence::SoftReset => {
                self.set &= !SOFT;
                self.seen |= SOFT | REGION;
                self.region = None;
            }
            Sequence::Mode { private, number, on } => return self.mode(private, number, on),
            Sequence::Attributes { reset } => {
                let was = self.set & ATTRIBUTES != 0;
                self.switch(ATTRIBUTES, !reset);
                return was == reset;
            }
            Sequence::Region(top, bottom) => {
                self.seen |= REGION;
                self.region = (top != 0 || bottom != 0).then_some((top, bottom));
            }
            Sequence::CursorStyle(style) => {
                self.seen |= CURSOR_STYLE;
                self.cursor_style = style;
            }
            Sequence::OtherKeys(value) => {
                self.seen |= OTHER_KEYS;
                self.other_keys = value;
            }
            Sequence::Keyboard(change) => {
                self.seen |= KEYBOARD;
                match self.alternate {
                    Some(_) => self.alternate_keyboard.apply(change),
                    None => self.main_keyboard.apply(change),
                }
            }
        }
        true
    }

    fn switch(&mut self, bit: u32, on: bool) {
        self.seen |= bit;
        self.set = if on { self.set | bit } else { self.set & !bit };
        self.touched |= self.set;
    }

    fn mode(&mut self, private: bool, number: u16, on: bool) -> bool {
        let known = MODES.iter().enumerate();
        let mut known = known.filter(|(_, mode)| (mode.private, mode.number) == (private, number));
        if let Some((at, mode)) = known.next() {
            self.switch(1 << at, on != mode.normal);
        } else if private && ALTERNATE.contains(&number) {
            self.seen |= SCREEN;
            self.alternate = on.then_some(self.alternate.unwrap_or(number));
            if !on && number == 1049 {
                self.touched |= RESTORED;
            }
        } else if private && number == 1048 && !on {
            self.touched |= RESTORED;
        } else {
            return false;
        }
        true
    }
}

/// Writes the modes of a bit set with their default values, or with the others.
fn write_modes(bits: u32, normal: bool, out: &mut Vec<u8>) {
    for (at, mode) in MODES.iter().enumerate().filter(|(at, _)| bits & 1 << at != 0) {
        let on = mode.normal == normal;
        match 1 << at {
            // As programs do: terminals without mode 66 know these.
            KEYPAD => out.extend_from_slice(if on { b"\x1b=" } else { b"\x1b>" }),
            _ => set_mode(mode.private, mode.number, on, out),
        }
    }
}

fn set_mode(private: bool, number: u16, on: bool, out: &mut Vec<u8>) {
    let (mark, end) = (if private { "?" } else { "" }, if on { 'h' } else { 'l' });
    out.extend_from_slice(format!("\x1b[{mark}{number}{end}").as_bytes());
}

#[cfg(test)]
mod tests;
