//! A filter for log output on a terminal.
//!
//! A log is untrusted input. Escape sequences can set titles, clipboard, keyboard modes and colours
//! permanently, and make the terminal send replies, which a shell reads as typed input. So the
//! output is parsed as a terminal would parse it, and sequences known to be harmless are encoded
//! again. Everything else is removed, so that nothing depends on how a terminal parses malformed
//! input.

mod attributes;
#[cfg(test)]
mod tests;

use vmon::terminal::Modes;
use vte::{Params, Perform};

use attributes::Attributes;

/// Number of bytes parsed at a time. The parser searches the rest of its input at each byte that is
/// not valid UTF-8.
const PIECE: usize = 1024;

/// Length of the longest UTF-8 sequence.
const LONGEST_CHARACTER: usize = 4;

/// CAN: cancels an incomplete sequence, and has no effect on its own (ECMA-48).
const CANCEL: &[u8] = b"\x18";

const CONTROL_SEQUENCE: &[u8] = b"\x1b[";

/// The private modes that a session may set: origin, autowrap, margins, reverse video, the cursor's
/// visibility, saving of the cursor, synchronized output.
const PRIVATE_MODES: [u16; 7] = [5, 6, 7, 25, 69, 1048, 2026];

/// Insert mode.
const INSERT: u16 = 4;

/// Alternate screen modes, without and with saving of the cursor.
const ALTERNATE: [u16; 3] = [47, 1047, 1049];

/// What the filter lets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strength {
    /// Characters, newline and tab.
    Plain,
    /// Text with colours, line by line.
    Text,
    /// A full-screen session.
    Session,
}

/// A filter for the output of one stream. Its memory is bounded.
pub struct Screen {
    // OSC sequences never pass, so no buffer is needed.
    parser: vte::Parser<0>,
    state: State,
}

struct State {
    strength: Strength,
    /// The modes that the output of a session has set.
    modes: Modes,
    attributes: Attributes,
    /// Inside the title sequence of screen(1) and tmux(1) (ESC k), which other terminals do not
    /// treat as a string.
    in_title: bool,
}

impl Screen {
    /// A filter for reading. Passes characters, their attributes (SGR), newline, tab, carriage
    /// return and backspace. A sequence ends with its line at the latest, so that an incomplete one
    /// hides no later text.
    pub fn text() -> Self {
        Self::new(Strength::Text)
    }

    /// A filter that passes characters, newline and tab only. Otherwise as [`text`](Self::text).
    pub fn plain() -> Self {
        Self::new(Strength::Plain)
    }

    /// A filter for a replay. Also passes cursor movement, erasing and scrolling, the alternate
    /// screen, the cursor's visibility and other display modes. [`suspend`](Self::suspend) and
    /// [`end`](Self::end) undo them. Keyboard and mouse modes and the scrollback are not changed.
    pub fn session() -> Self {
        Self::new(Strength::Session)
    }

    fn new(strength: Strength) -> Self {
        let (modes, attributes) = (Modes::default(), Attributes::default());
        let state = State { strength, modes, attributes, in_title: false };
        Self { parser: vte::Parser::default(), state }
    }

    /// Appends the permitted part of `bytes` to `out`. An incomplete sequence or character waits
    /// for the next call.
    pub fn filter(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let scanned = out.len();
        let mut writer = Writer { state: &mut self.state, out, scanned };
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            for piece in line.chunks(PIECE) {
                match piece.strip_suffix(b"\n") {
                    Some(before) if writer.state.strength != Strength::Session => {
                        advance(&mut self.parser, &mut writer, before);
                        self.parser.advance(&mut writer, CANCEL);
                        self.parser.advance(&mut writer, b"\n");
                    }
                    _ => advance(&mut self.parser, &mut writer, piece),
                }
            }
        }
        writer.scan();
    }

    /// The modes that the output of a session has set.
    pub fn modes(&self) -> &Modes {
        &self.state.modes
    }

    /// Appends the sequences that restore the terminal, for other output in between.
    pub fn suspend(&self, out: &mut Vec<u8>) {
        self.state.undo(out);
    }

    /// Appends the sequences that return to the state before [`suspend`](Self::suspend). The
    /// contents of the alternate screen are lost.
    pub fn resume(&self, out: &mut Vec<u8>) {
        self.state.modes.set(out);
        self.state.modes.set_region(out);
        self.state.attributes.set(out);
    }

    /// The session's terminal has another size, at which it drops the scrolling region. The program
    /// sets it again if it needs one.
    pub fn resize(&mut self, out: &mut Vec<u8>) {
        if self.state.modes.scrolling_region() {
            // Setting a region moves the cursor.
            out.extend_from_slice(b"\x1b7\x1b[r\x1b8");
            self.state.modes.scan(b"\x1b[r");
        }
    }

    /// Appends the sequences that restore the terminal, and resets the filter.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        self.suspend(out);
        *self = Self::new(self.state.strength);
    }
}

/// Parses `bytes`. UTF-8 continuation bytes at the beginning are passed one by one: vte 0.15 loses
/// the next character if it gets that with them and invalid bytes after it.
fn advance(parser: &mut vte::Parser<0>, writer: &mut Writer<'_>, bytes: &[u8]) {
    let continues = |byte: &&u8| matches!(byte, 0x80..=0xbf);
    let count = bytes.iter().take(LONGEST_CHARACTER - 1).take_while(continues).count();
    let (first, rest) = bytes.split_at(count);
    for byte in first {
        parser.advance(writer, std::slice::from_ref(byte));
    }
    parser.advance(writer, rest);
}

impl State {
    fn undo(&self, out: &mut Vec<u8>) {
        match self.strength {
            Strength::Plain | Strength::Text => self.attributes.undo(out),
            Strength::Session => self.modes.undo(out),
        }
    }
}

/// Encodes the permitted actions of the parser.
struct Writer<'a> {
    state: &'a mut State,
    out: &'a mut Vec<u8>,
    /// How much of `out` has been scanned for modes.
    scanned: usize,
}

impl Perform for Writer<'_> {
    fn print(&mut self, character: char) {
        match character {
            // C1 control characters arrive here if their bytes were split between two calls.
            '\u{80}'..='\u{9f}' => self.state.in_title = false,
            _ if self.state.in_title || character.is_control() => {}
            _ => self.out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }

    fn execute(&mut self, byte: u8) {
        self.state.in_title = false;
        match (byte, self.state.strength) {
            (b'\n' | b'\t', _) | (b'\r' | b'\x08', Strength::Text | Strength::Session) => {
                self.out.push(byte);
            }
            // The bell, vertical tab and form feed.
            (b'\x07' | b'\x0b' | b'\x0c', Strength::Session) => self.out.push(byte),
            (b'\x0e' | b'\x0f', Strength::Session) => self.out.push(byte),
            _ => {}
        }
    }

    fn esc_dispatch(&mut self, intermediates: &[u8], ignore: bool, byte: u8) {
        self.state.in_title = (intermediates, byte) == (b"", b'k');
        if ignore || self.state.strength != Strength::Session {
            return;
        }
        match (intermediates, byte) {
            // Save and restore the cursor, index, next line, reverse index.
            ([], b'7' | b'8' | b'D' | b'E' | b'M') => self.escape(intermediates, byte),
            // A full reset (RIS) would change more than the session has changed.
            ([], b'c') => {
                self.scan();
                self.state.undo(self.out);
                self.state.attributes.clear();
                self.out.extend_from_slice(b"\x1b[H\x1b[2J");
            }
            // Select ASCII or the DEC line-drawing character set.
            (b"(" | b")", b'0' | b'B') => self.escape(intermediates, byte),
            // Screen alignment test (DECALN).
            (b"#", b'8') => self.escape(intermediates, byte),
            _ => {}
        }
    }

    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], ignore: bool, action: char) {
        self.state.in_title = false;
        match (intermediates, action, self.state.strength) {
            _ if ignore => {}
            (_, _, Strength::Plain) => {}
            ([], 'm', strength) => {
                let from = self.out.len();
                match strength {
                    Strength::Session => self.sequence(params, intermediates, action),
                    Strength::Plain | Strength::Text => self.visible(params),
                }
                let sequence = self.out.get(from..).unwrap_or_default();
                if !sequence.is_empty() {
                    self.state.attributes.add(first(params) == 0, params.len() == 1, sequence);
                }
            }
            (_, _, Strength::Session) => self.session(params, intermediates, action),
            (_, _, Strength::Text) => {}
        }
    }
}

impl Writer<'_> {
    /// Passes the control sequences that draw. Queries, keyboard and mouse modes, window size and
    /// title, printing and unknown sequences are removed.
    fn session(&mut self, params: &Params, intermediates: &[u8], action: char) {
        let plain = params.len() == 1 && first(params) == 0;
        match (intermediates, action) {
            ([], '@'..='I' | 'K'..='M' | 'P' | 'S' | 'X' | 'Z' | '`' | 'a' | 'b' | 'd'..='f') => {
                self.sequence(params, intermediates, action)
            }
            // Except 3, which erases the scrollback.
            ([], 'J') if !params.iter().any(|param| param.contains(&3)) => {
                self.sequence(params, intermediates, action);
            }
            // With more parameters it is mouse highlight tracking.
            ([], 'T') if params.len() == 1 => self.sequence(params, intermediates, action),
            ([], 'r') => self.sequence(params, intermediates, action),
            ([], 's') if plain || self.modes().margins() => {
                self.sequence(params, intermediates, action);
            }
            ([], 'u') if plain => self.sequence(params, intermediates, action),
            // Rectangular area operations (VT420).
            (b"$", 'r' | 't' | 'v' | 'x' | 'z' | '{') => {
                self.sequence(params, intermediates, action);
            }
            (b"!", 'p') => {
                self.scan();
                self.state.modes.undo_soft(self.out);
                self.state.attributes.clear();
            }
            ([] | b"?", 'h' | 'l') => {
                for &number in params.iter().flat_map(<[u16]>::first) {
                    self.mode(!intermediates.is_empty(), number, action);
                }
            }
            _ => {}
        }
    }

    /// Sets or resets a mode if it is permitted.
    fn mode(&mut self, private: bool, number: u16, action: char) {
        let permitted = match (private, number) {
            // Leaving it without having entered it would move the cursor.
            (true, number) if ALTERNATE.contains(&number) => {
                action == 'h' || self.modes().alternate_screen()
            }
            (true, number) => PRIVATE_MODES.contains(&number),
            (false, number) => number == INSERT,
        };
        if permitted {
            let mark = if private { "?" } else { "" };
            self.out.extend_from_slice(format!("\x1b[{mark}{number}{action}").as_bytes());
        }
    }

    /// The modes that all output so far has set.
    fn modes(&mut self) -> &Modes {
        self.scan();
        &self.state.modes
    }

    fn scan(&mut self) {
        if self.state.strength == Strength::Session {
            self.state.modes.scan(self.out.get(self.scanned..).unwrap_or_default());
        }
        self.scanned = self.out.len();
    }

    fn escape(&mut self, intermediates: &[u8], byte: u8) {
        self.out.push(b'\x1b');
        self.out.extend_from_slice(intermediates);
        self.out.push(byte);
    }

    /// Passes attributes without the one that hides text (SGR 8), which would hide all that follows
    /// as well.
    fn visible(&mut self, params: &Params) {
        let mut visible = Vec::with_capacity(params.len());
        // How many parameters of a colour follow, and the parameter before.
        let (mut colour, mut before) = (0_u8, 0);
        for param in params {
            let number = param.first().copied().unwrap_or_default();
            let previous = std::mem::take(&mut before);
            match (colour, previous, number) {
                (1.., _, _) => colour -= 1,
                // 38, 48 and 58: a colour, by 5 and its index, or by 2 and its parts.
                (0, 38 | 48 | 58, 5) => colour = 1,
                (0, 38 | 48 | 58, 2) => colour = 3,
                (0, _, 8) => continue,
                (0, _, _) if param.len() == 1 => before = number,
                (0, _, _) => {}
            }
            visible.push(param);
        }
        if !visible.is_empty() {
            self.control(visible.into_iter(), &[], 'm');
        }
    }

    fn sequence(&mut self, params: &Params, intermediates: &[u8], action: char) {
        self.control(params.iter(), intermediates, action);
    }

    fn control<'p>(
        &mut self,
        params: impl Iterator<Item = &'p [u16]>,
        intermediates: &[u8],
        action: char,
    ) {
        self.out.extend_from_slice(CONTROL_SEQUENCE);
        let from = self.out.len();
        for (index, param) in params.enumerate() {
            if index > 0 {
                self.out.push(b';');
            }
            for (index, part) in param.iter().enumerate() {
                if index > 0 {
                    self.out.push(b':');
                }
                self.out.extend_from_slice(part.to_string().as_bytes());
            }
        }
        if self.out.get(from..) == Some(b"0") {
            self.out.truncate(from);
        }
        self.out.extend_from_slice(intermediates);
        self.out.extend_from_slice(action.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

fn first(params: &Params) -> u16 {
    params.iter().next().and_then(<[u16]>::first).copied().unwrap_or_default()
}
