//! What a log may do to our terminal.
//!
//! A log is another program's word, and a terminal does what it is told: it takes titles, clipboards,
//! keyboard modes and colours for good, and answers questions by typing into our shell. So what is
//! written to a terminal is read as a terminal would read it, and what is known to be harmless is
//! written anew. All else is left out, so that nothing depends on how a terminal reads what is
//! malformed.

mod changes;
#[cfg(test)]
mod tests;

use vte::{Params, Perform};

use changes::Changes;

/// Bytes that are read at a time: each byte that is not UTF-8 has the reader look through what is
/// left of them.
const PIECE: usize = 1024;

/// In UTF-8, in bytes.
const LONGEST_CHARACTER: usize = 4;

/// Ends whatever sequence is unfinished, and is nothing on its own (ECMA-48).
const CANCEL: &[u8] = b"\x18";

const CONTROL_SEQUENCE: &[u8] = b"\x1b[";

/// What of a log reaches the terminal. Understands UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strength {
    /// Text in its colours, line by line.
    Text,
    /// A session as it was.
    Session,
}

/// A filter for the bytes of one stream, on their way to a terminal.
///
/// Its memory is bounded, whatever comes.
pub struct Screen {
    // Commands to the terminal (OSC) never pass: no room for any.
    parser: vte::Parser<0>,
    state: State,
}

struct State {
    strength: Strength,
    changes: Changes,
    /// Within the title that a program in screen(1) or tmux(1) sets, which is no string to others.
    in_title: bool,
}

impl Screen {
    /// For reading: characters, their attributes (SGR), newline, tab, carriage return and backspace
    /// pass. A sequence ends with its line at the latest, so that an unfinished one hides nothing
    /// that comes after.
    pub fn text() -> Self {
        Self::new(Strength::Text)
    }

    /// For watching: also what moves the cursor, erases and scrolls, and the alternate screen, the
    /// cursor's visibility and other modes of the picture, which [`suspend`](Self::suspend) and
    /// [`end`](Self::end) undo. What the keyboard and the mouse send stays as it is, and so do the
    /// lines that have scrolled away.
    pub fn session() -> Self {
        Self::new(Strength::Session)
    }

    fn new(strength: Strength) -> Self {
        let state = State { strength, changes: Changes::default(), in_title: false };
        Self { parser: vte::Parser::default(), state }
    }

    /// Adds to `out` what of `bytes` may reach the terminal. A sequence or a character that is not
    /// complete yet waits for its rest.
    pub fn filter(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let mut writer = Writer { state: &mut self.state, out };
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            for piece in line.chunks(PIECE) {
                match piece.strip_suffix(b"\n") {
                    Some(before) if writer.state.strength == Strength::Text => {
                        advance(&mut self.parser, &mut writer, before);
                        self.parser.advance(&mut writer, CANCEL);
                        self.parser.advance(&mut writer, b"\n");
                    }
                    _ => advance(&mut self.parser, &mut writer, piece),
                }
            }
        }
    }

    /// Adds to `out` what gives the terminal back as it was, for something of ours in between.
    pub fn suspend(&self, out: &mut Vec<u8>) {
        self.state.undo(out);
    }

    /// Adds to `out` what takes the terminal where it was before [`suspend`](Self::suspend); what
    /// was on the alternate screen is lost.
    pub fn resume(&self, out: &mut Vec<u8>) {
        self.state.changes.redo(out);
    }

    /// Adds to `out` what gives the terminal back as it was, and forgets all: what comes next has
    /// nothing to do with what came before.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        self.suspend(out);
        *self = Self::new(self.state.strength);
    }
}

/// Reads `bytes`. Those that may complete a character go one by one: vte 0.15 loses the next one when
/// it gets that with them, and something behind it that is none.
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
            Strength::Text => self.changes.undo_colours(out),
            Strength::Session => self.changes.undo(out),
        }
    }
}

/// Writes anew what may pass.
struct Writer<'a> {
    state: &'a mut State,
    out: &'a mut Vec<u8>,
}

impl Perform for Writer<'_> {
    fn print(&mut self, character: char) {
        // Controls of eight bits come here too, where they were cut in two.
        if !self.state.in_title && !character.is_control() {
            self.out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }

    fn execute(&mut self, byte: u8) {
        self.state.in_title = false;
        match (byte, self.state.strength) {
            (b'\n' | b'\r' | b'\t' | b'\x08', _) => self.out.push(byte),
            // The bell, vertical tab and form feed.
            (b'\x07' | b'\x0b' | b'\x0c', Strength::Session) => self.out.push(byte),
            (b'\x0e' | b'\x0f', Strength::Session) => {
                self.state.changes.shift(byte);
                self.out.push(byte);
            }
            _ => {}
        }
    }

    fn esc_dispatch(&mut self, intermediates: &[u8], ignore: bool, byte: u8) {
        self.state.in_title = (intermediates, byte) == (b"", b'k');
        if ignore || self.state.strength == Strength::Text {
            return;
        }
        match (intermediates, byte) {
            // Save and restore the cursor, index, next line, reverse index.
            ([], b'7' | b'8' | b'D' | b'E' | b'M') => self.escape(intermediates, byte),
            // A terminal's own full reset would take more than the session has changed.
            ([], b'c') => {
                self.state.undo(self.out);
                self.state.changes = Changes::default();
                self.out.extend_from_slice(b"\x1b[H\x1b[2J");
            }
            // ASCII, or the characters of which lines are drawn.
            (&[set @ (b'(' | b')')], b'0' | b'B') => {
                self.state.changes.character_set(set, byte);
                self.escape(intermediates, byte);
            }
            // The screen full of E.
            (b"#", b'8') => self.escape(intermediates, byte),
            _ => {}
        }
    }

    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], ignore: bool, action: char) {
        self.state.in_title = false;
        match (intermediates, action, self.state.strength) {
            _ if ignore => {}
            ([], 'm', _) => {
                let from = self.out.len();
                self.sequence(params, intermediates, action);
                let sequence = self.out.get(from..).unwrap_or_default();
                self.state.changes.colour(first(params) == 0, params.len() == 1, sequence);
            }
            (_, _, Strength::Session) => self.session(params, intermediates, action),
            (_, _, Strength::Text) => {}
        }
    }
}

impl Writer<'_> {
    /// A control sequence of a session. Those that are known to draw pass; questions, keyboard and
    /// mouse modes, the window's size and title, the printer and what is unknown do not.
    fn session(&mut self, params: &Params, intermediates: &[u8], action: char) {
        let plain = params.len() == 1 && first(params) == 0;
        match (intermediates, action) {
            ([], '@'..='I' | 'K'..='M' | 'P' | 'S' | 'X' | 'Z' | '`' | 'a' | 'b' | 'd'..='f') => {
                self.sequence(params, intermediates, action)
            }
            // Not the lines that have scrolled away (3), which are ours.
            ([], 'J') if !params.iter().any(|param| param.contains(&3)) => {
                self.sequence(params, intermediates, action);
            }
            // With more parameters it is about the mouse.
            ([], 'T') if params.len() == 1 => self.sequence(params, intermediates, action),
            ([], 'r') => {
                self.state.changes.region(params);
                self.sequence(params, intermediates, action);
            }
            ([], 's') if plain || self.state.changes.has_margins() => {
                self.sequence(params, intermediates, action);
            }
            ([], 'u') if plain => self.sequence(params, intermediates, action),
            // Rectangles: attributes, copies, fills, erasure (VT420).
            (b"$", 'r' | 't' | 'v' | 'x' | 'z' | '{') => {
                self.sequence(params, intermediates, action);
            }
            (b"!", 'p') => {
                self.state.changes.undo_soft(self.out);
            }
            ([] | b"?", 'h' | 'l') => {
                for &number in params.iter().flat_map(<[u16]>::first) {
                    self.state.changes.mode(
                        !intermediates.is_empty(),
                        number,
                        action == 'h',
                        self.out,
                    );
                }
            }
            _ => {}
        }
    }

    fn escape(&mut self, intermediates: &[u8], byte: u8) {
        self.out.push(b'\x1b');
        self.out.extend_from_slice(intermediates);
        self.out.push(byte);
    }

    fn sequence(&mut self, params: &Params, intermediates: &[u8], action: char) {
        self.out.extend_from_slice(CONTROL_SEQUENCE);
        if params.len() > 1 || first(params) != 0 {
            for (index, param) in params.iter().enumerate() {
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
        }
        self.out.extend_from_slice(intermediates);
        self.out.extend_from_slice(action.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

fn first(params: &Params) -> u16 {
    params.iter().next().and_then(<[u16]>::first).copied().unwrap_or_default()
}
