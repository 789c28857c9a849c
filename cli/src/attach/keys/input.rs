//! What a terminal sends, key by key.
//!
//! Keys arrive as bytes, or as control sequences if the program has asked for that: by the keyboard
//! protocol of kitty (<https://sw.kovidgoyal.net/kitty/keyboard-protocol/>) or xterm's
//! modifyOtherKeys. Reports of the mouse and of focus, and answers to queries, come among them.

pub const ESCAPE: u8 = 0x1b;

/// Longest control sequence. The keyboard protocols need some 40 bytes.
const LONGEST: usize = 64;

/// Number of bytes after `CSI M`: the button and the position, in the oldest mouse protocol.
const MOUSE: u8 = 3;

/// Bits of modifiers.
const SHIFT: u16 = 1;
const CTRL: u16 = 4;
/// Those that change no key: caps lock and num lock.
const LOCKS: u16 = 64 | 128;

/// What a piece of input means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A key that is a byte without keyboard protocols: a character or a control character.
    Key(u8),
    /// Any other key, or pasted text.
    Other,
    /// No key was pressed: a release, a modifier, the mouse, focus, an answer.
    Silent,
}

/// A piece of input that belongs together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub event: Event,
    pub bytes: Vec<u8>,
}

/// Splits input that arrives in pieces of any size.
#[derive(Debug, Default)]
pub struct Input {
    /// Whether Escape at the end of the input is a key before the next byte comes.
    escape: bool,
    /// An incomplete control sequence.
    part: Vec<u8>,
    /// How many of its bytes have been taken already.
    taken: usize,
    /// Bytes of a mouse report that are still to come.
    mouse: u8,
    /// Between the marks of a bracketed paste.
    pasting: bool,
}

impl Input {
    /// `escape` is whether Escape is a key to be found.
    pub fn new(escape: bool) -> Self {
        Self { escape, ..Self::default() }
    }

    /// Splits bytes, and appends the pieces that are complete.
    pub fn split(&mut self, bytes: &[u8], pieces: &mut Vec<Piece>) {
        for &byte in bytes {
            self.byte(byte, pieces);
        }
        // The key Escape, most likely. It must not wait. If a sequence follows, it is recognized.
        if self.part == [ESCAPE] && self.taken == 0 {
            let event = if self.escape { Event::Key(ESCAPE) } else { Event::Silent };
            pieces.push(self.piece(event, vec![ESCAPE]));
            self.taken = 1;
        }
    }

    /// Whether an incomplete sequence waits for its end.
    pub fn is_incomplete(&self) -> bool {
        self.part.len() > self.taken
    }

    /// Takes the bytes of an incomplete sequence. Its end is still recognized.
    pub fn take_incomplete(&mut self) -> Vec<u8> {
        let bytes = self.part.get(self.taken..).unwrap_or_default().to_vec();
        self.taken = self.part.len();
        bytes
    }

    fn byte(&mut self, byte: u8, pieces: &mut Vec<Piece>) {
        if self.mouse > 0 {
            self.mouse -= 1;
            return pieces.push(Piece { event: Event::Silent, bytes: vec![byte] });
        }
        match (self.part.len(), byte) {
            (0, ESCAPE) => return self.part.push(byte),
            (0, _) => {}
            (1, b'[') => return self.part.push(byte),
            (1, _) => {
                // Escape, or Alt with another key.
                self.end(Event::Key(ESCAPE), pieces);
                return self.byte(byte, pieces);
            }
            (..LONGEST, 0x20..=0x3f) => return self.part.push(byte),
            (_, 0x40..=0x7e) => {
                self.part.push(byte);
                let event = self.sequence();
                return self.end(event, pieces);
            }
            _ => {
                self.end(Event::Other, pieces);
                return self.byte(byte, pieces);
            }
        }
        pieces.push(self.piece(Event::Key(byte), vec![byte]));
    }

    /// Ends the sequence.
    fn end(&mut self, event: Event, pieces: &mut Vec<Piece>) {
        let reported = self.escape && event == Event::Key(ESCAPE) && self.taken > 0;
        let bytes = self.take_incomplete();
        self.part.clear();
        if !reported {
            pieces.push(self.piece(event, bytes));
        }
        self.taken = 0;
    }

    fn piece(&self, event: Event, bytes: Vec<u8>) -> Piece {
        Piece { event: if self.pasting { Event::Other } else { event }, bytes }
    }

    /// The meaning of a complete control sequence.
    fn sequence(&mut self) -> Event {
        let body = self.part.get(2..).unwrap_or_default();
        let Some((&last, body)) = body.split_last() else { return Event::Other };
        match (body, last) {
            (b"200", b'~') => self.pasting = true,
            (b"201", b'~') => {
                self.pasting = false;
                return Event::Other;
            }
            (b"", b'M') if !self.pasting => {
                self.mouse = MOUSE;
                return Event::Silent;
            }
            (b"", b'I' | b'O') | ([b'<' | b'?' | b'>' | b'=', ..], _) => return Event::Silent,
            (_, b'R' | b'c' | b'n' | b't' | b'y') => return Event::Silent,
            _ => {}
        }
        let fields = Fields::read(body);
        match last {
            _ if fields.is_release() => Event::Silent,
            b'u' => fields.key(),
            b'~' if fields.number(0, 0) == 27 => {
                let (modifiers, code) = (fields.modifiers(), fields.number(2, 0));
                key(code, code, modifiers, None)
            }
            _ => Event::Other,
        }
    }
}

/// Parameters and their parts, which are 0 if missing.
struct Fields(Vec<Vec<u16>>);

impl Fields {
    fn read(body: &[u8]) -> Self {
        let number = |text: &[u8]| {
            std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
        };
        let fields = body.split(|&byte| byte == b';');
        Self(fields.map(|field| field.split(|&byte| byte == b':').map(number).collect()).collect())
    }

    fn number(&self, field: usize, part: usize) -> u16 {
        self.0.get(field).and_then(|field| field.get(part)).copied().unwrap_or(0)
    }

    fn modifiers(&self) -> u16 {
        self.number(1, 0).saturating_sub(1) & !LOCKS
    }

    fn is_release(&self) -> bool {
        self.number(1, 1) == 3
    }

    /// A key in the protocol of kitty: `code:shifted:base ; modifiers:event ; text u`.
    fn key(&self) -> Event {
        let (code, shifted, base) = (self.number(0, 0), self.number(0, 1), self.number(0, 2));
        match code {
            // Caps lock, scroll lock, num lock; left shift to the last modifier.
            57358..=57360 | 57441..=57454 => Event::Silent,
            _ => key(code, if base == 0 { code } else { base }, self.modifiers(), Some(shifted)),
        }
    }
}

/// The key of this code; `base` is its code in a Latin layout, and `shifted` the one with shift, if
/// known.
fn key(code: u16, base: u16, modifiers: u16, shifted: Option<u16>) -> Event {
    let latin = if code < 0x80 { code } else { base };
    let shifted = shifted.filter(|&shifted| shifted != 0);
    let ascii = |code: u16| u8::try_from(code).ok().filter(u8::is_ascii);
    let byte = match modifiers {
        0 => ascii(code),
        SHIFT => ascii(shifted.unwrap_or(code)).map(|byte| byte.to_ascii_uppercase()),
        CTRL => ascii(latin).and_then(control),
        // `@`, `^` and `_` need the shift key.
        _ if modifiers == CTRL | SHIFT => ascii(shifted.unwrap_or(latin))
            .filter(|byte| !byte.is_ascii_alphabetic())
            .and_then(control),
        _ => None,
    };
    byte.map_or(Event::Other, Event::Key)
}

/// The control character that a key is with Ctrl: the character without its upper bits (ascii(7)).
pub fn control(character: u8) -> Option<u8> {
    match character.to_ascii_uppercase() {
        b' ' => Some(0),
        upper @ b'@'..=b'_' => Some(upper & 0x1f),
        _ => None,
    }
}
