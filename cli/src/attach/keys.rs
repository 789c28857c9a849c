//! The key sequence for detaching, and its detection in the input.

mod input;

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use input::{ESCAPE, Event, Input, Piece, control};

/// The character that Ctrl-C sends.
const INTERRUPT: u8 = 3;

/// A key sequence, as the bytes that the keys send without a keyboard protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys(Vec<u8>);

/// An invalid key in a list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no key: give a list such as ctrl-p,ctrl-q, each a character or ctrl- and one of a-z, @, [, \\, ], ^ and _"
)]
pub struct KeyError(String);

impl Keys {
    /// Whether there are none, so that no keys detach.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The last key, if the line discipline can deliver a line when it is typed (VEOL): only
    /// control characters are suitable.
    pub fn line_end(&self) -> Option<u8> {
        // Newline ends a line already, and 0 disables VEOL (termios(3)).
        self.0.last().copied().filter(|&byte| byte != 0 && byte != b'\n' && byte < b' ')
    }
}

impl FromStr for Keys {
    type Err = KeyError;

    /// Parses the syntax of podman-attach(1). The empty list matches nothing.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let keys = text.split(',').filter(|_| !text.is_empty());
        keys.map(|key| byte(key).ok_or_else(|| KeyError(key.to_owned())))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl Display for Keys {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, &key) in self.0.iter().enumerate() {
            let space = if index > 0 { " " } else { "" };
            match key {
                ..b' ' => write!(f, "{space}ctrl-{}", char::from(key | 0x40).to_ascii_lowercase())?,
                _ => write!(f, "{space}{}", char::from(key))?,
            }
        }
        Ok(())
    }
}

fn byte(key: &str) -> Option<u8> {
    let (with_control, character) = match key.strip_prefix("ctrl-") {
        Some(character) => (true, character),
        None => (false, key),
    };
    match (with_control, character.as_bytes()) {
        (true, [b' ']) => None,
        (true, [byte]) => control(*byte),
        (false, [byte]) => Some(*byte),
        _ => None,
    }
}

/// Finds the key sequence in input that arrives in pieces of any size. The keys are recognized as
/// bytes and in the keyboard protocols of kitty and xterm. In pasted text they are text.
#[derive(Debug)]
pub struct Search {
    keys: Vec<u8>,
    input: Input,
    /// The keys that match so far, and what has come between them.
    held: Vec<Piece>,
}

/// Result of scanning a piece of input.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Bytes to send to the command.
    pub passed: Vec<u8>,
    /// Whether the sequence is complete. Bytes after it are dropped.
    pub detach: bool,
    /// Whether Ctrl-C was typed.
    pub interrupt: bool,
}

impl Search {
    pub fn new(keys: Keys) -> Self {
        let input = Input::new(keys.0.contains(&ESCAPE));
        Self { keys: keys.0, input, held: Vec::new() }
    }

    /// Scans a piece of input. The beginning of the sequence is withheld until the sequence is
    /// complete, another key follows, or [`release`](Self::release) is called.
    pub fn scan(&mut self, typed: &[u8]) -> Scan {
        let mut scan = Scan::default();
        let mut pieces = Vec::new();
        self.input.split(typed, &mut pieces);
        for piece in pieces {
            scan.interrupt |= piece.event == Event::Key(INTERRUPT);
            self.add(piece, &mut scan.passed);
            if !self.keys.is_empty() && self.matched().count() == self.keys.len() {
                self.held.clear();
                scan.detach = true;
                break;
            }
        }
        scan
    }

    /// Whether input is withheld.
    pub fn is_waiting(&self) -> bool {
        self.input.is_incomplete() || self.held.iter().any(|piece| !piece.bytes.is_empty())
    }

    /// Takes the withheld input. The sequence is still found when its other keys follow.
    pub fn release(&mut self) -> Vec<u8> {
        let held = self.held.iter_mut().flat_map(|piece| std::mem::take(&mut piece.bytes));
        held.chain(self.input.take_incomplete()).collect()
    }

    fn add(&mut self, piece: Piece, passed: &mut Vec<u8>) {
        match piece.event {
            Event::Key(_) => self.held.push(piece),
            Event::Silent if !self.held.is_empty() => return self.held.push(piece),
            Event::Silent => return passed.extend(piece.bytes),
            Event::Other => {
                passed.extend(self.held.drain(..).flat_map(|held| held.bytes));
                return passed.extend(piece.bytes);
            }
        }
        // After a mismatch, a later key may start the sequence again.
        while !self.held.is_empty() && !self.matches() {
            passed.extend(self.held.remove(0).bytes);
        }
    }

    fn matched(&self) -> impl Iterator<Item = u8> {
        self.held.iter().filter_map(|piece| match piece.event {
            Event::Key(key) => Some(key),
            Event::Other | Event::Silent => None,
        })
    }

    /// Whether what is held begins the sequence.
    fn matches(&self) -> bool {
        let begins = self.held.first().is_some_and(|piece| piece.event != Event::Silent);
        begins
            && self.matched().zip(&self.keys).all(|(held, key)| held == *key)
            && self.matched().count() <= self.keys.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::{mutate, pieces, rounds};

    const DETACHED: Scan = Scan { passed: Vec::new(), detach: true, interrupt: false };

    fn passed(bytes: &[u8]) -> Scan {
        Scan { passed: bytes.to_vec(), ..Scan::default() }
    }

    fn search(keys: &str) -> Search {
        Search::new(keys.parse().unwrap())
    }

    #[test]
    fn keys_are_characters_and_control_characters() {
        assert_eq!("ctrl-p,ctrl-Q,x".parse(), Ok(Keys(vec![0x10, 0x11, b'x'])));
        assert_eq!("ctrl-@,ctrl-[,ctrl-_".parse(), Ok(Keys(vec![0, 0x1b, 0x1f])));
        assert_eq!("".parse(), Ok(Keys(vec![])));
        for text in ["ctrl-", "ctrl-pq", "xy", "ctrl-p,", "ctrl-1", "ä"] {
            assert!(text.parse::<Keys>().is_err(), "{text}");
        }
    }

    #[test]
    fn keys_are_found_in_input_split_anywhere() {
        let mut keys = search("ctrl-p,ctrl-q");
        assert_eq!(keys.scan(b"ab\x10"), passed(b"ab"));
        assert_eq!(keys.scan(b"\x11after"), DETACHED);
    }

    #[test]
    fn an_incomplete_sequence_is_passed_on() {
        let mut keys = search("ctrl-p,ctrl-q");
        assert_eq!(keys.scan(b"\x10x").passed, b"\x10x");
        // The second Ctrl-P starts the sequence.
        assert_eq!(keys.scan(b"\x10\x10").passed, b"\x10");
        assert!(keys.scan(b"\x11").detach);
        let mut keys = search("a,a,b");
        assert_eq!(keys.scan(b"aaa").passed, b"a");
        assert!(keys.is_waiting());
        assert_eq!(keys.release(), b"aa");
        assert!(!keys.is_waiting());
        assert_eq!(keys.scan(b"c").passed, b"c");
    }

    #[test]
    fn without_keys_all_input_is_passed_on() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(search("").scan(&all), Scan { interrupt: true, ..passed(&all) });
    }

    #[test]
    fn the_keys_are_recognized_in_keyboard_protocols() {
        for typed in [
            &b"\x1b[112;5u\x1b[113;5u"[..],
            b"\x1b[112;133u\x1b[113;197u",
            b"\x1b[57442;5:1u\x1b[112;5:1u\x1b[112;5:3u\x1b[113;5:1u\x1b[113;5:3u",
            b"\x1b[1079::112;5u\x1b[1081::113;5u",
            b"\x1b[27;5;112~\x1b[27;5;113~",
            b"\x1b[27;5;112~\x11",
            b"\x10\x1b[<35;10;10M\x1b[M#!!\x1b[I\x1b[3;1R\x11",
        ] {
            let name = typed.escape_ascii().to_string();
            assert!(search("ctrl-p,ctrl-q").scan(typed).detach, "{name}");
            let mut keys = search("ctrl-p,ctrl-q");
            let detach = typed.chunks(1).any(|byte| keys.scan(byte).detach);
            assert!(detach, "byte by byte: {name}");
            // The first key alone is withheld, then passed on.
            let mut keys = search("ctrl-p,x");
            let scan = keys.scan(typed);
            assert!(!scan.detach, "{name}");
            assert_eq!([scan.passed, keys.release()].concat(), typed, "{name}");
        }
        assert!(search("ctrl-x,Y").scan(b"\x1b[120;5u\x1b[121:89;2u").detach);
        assert!(search("ctrl-@,y").scan(b"\x1b[32;5u\x1b[121u").detach);
        for other in
            [&b"\x1b[112;7u\x1b[113;5u"[..], b"\x1b[112;5:3u\x1b[113;5u", b"\x10\x1b[A\x11"]
        {
            assert_eq!(search("ctrl-p,ctrl-q").scan(other), passed(other));
        }
        for typed in [&b"\x1b[99;5u"[..], b"\x1b[27;5;99~", b"a\x03"] {
            assert!(search("").scan(typed).interrupt);
        }
    }

    #[test]
    fn keys_in_a_bracketed_paste_are_text() {
        let paste = b"\x1b[200~\x10\x11\x03\x1b[112;5u\x1b[M\x11\x1b[201~";
        for size in 1..paste.len() {
            let mut keys = search("ctrl-p,ctrl-q");
            let mut all = Vec::new();
            for piece in paste.chunks(size) {
                let scan = keys.scan(piece);
                assert!(!scan.detach && !scan.interrupt);
                all.extend(scan.passed);
            }
            assert_eq!(all, paste);
            assert!(keys.scan(b"\x10\x11").detach);
        }
    }

    #[test]
    fn the_key_escape_is_passed_on_at_once() {
        let mut keys = search("ctrl-p,ctrl-q");
        assert_eq!(keys.scan(b"\x1b"), passed(b"\x1b"));
        assert_eq!(keys.scan(b"x"), passed(b"x"));
        assert_eq!(keys.scan(b"\x1b"), passed(b"\x1b"));
        assert_eq!(keys.scan(b"[A"), passed(b"[A"));
        assert_eq!(keys.scan(b"\x1bOA\x1bx"), passed(b"\x1bOA\x1bx"));
        assert!(search("ctrl-[,x").scan(b"\x1bx").detach);
    }

    #[test]
    fn the_sequence_is_found_after_its_beginning_has_been_passed_on() {
        let mut keys = search("ctrl-p,ctrl-q");
        assert_eq!(keys.scan(b"\x10"), passed(b""));
        assert_eq!(keys.release(), b"\x10");
        assert!(!keys.is_waiting());
        assert_eq!(keys.scan(b"\x11"), DETACHED);
    }

    #[test]
    fn input_is_passed_on_unchanged_however_it_is_split() {
        let mut random = fastrand::Rng::with_seed(9);
        for _ in 0..2000 {
            let words: [&[u8]; 9] = [
                b"\x1b",
                b"[",
                b"200~",
                b"201~",
                b"\x1b[M",
                b"112;5u",
                b"\x10",
                b"x",
                b"\x1b[27;5;112~",
            ];
            let mut input = Vec::new();
            for _ in 0..random.usize(..30) {
                input.extend(random.choice(words).unwrap());
            }
            let mut keys = search("ctrl-p,ctrl-q");
            let (mut all, mut rest) = (Vec::new(), input.as_slice());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(random.usize(1..=rest.len()));
                all.extend(keys.scan(piece).passed);
                if random.bool() {
                    all.extend(keys.release());
                }
                rest = after;
            }
            all.extend(keys.release());
            assert_eq!(all.escape_ascii().to_string(), input.escape_ascii().to_string());
        }
    }

    #[test]
    fn fuzzed_input_is_passed_on_but_for_the_keys() {
        let typed =
            b"ls\r\x1b[A\x1b[200~paste \x10\x11\x1b[201~\x1b[112;5u\x1b[M !!\x1b[27;5;112~\xc3\xa4";
        rounds(|random| {
            let mut input = typed.to_vec();
            let words =
                [&b"\x10"[..], b"\x1b[", b"\x1bO", b"200~", b"\x1b[113;5u", b";", b"\x1b[<0;1;1M"];
            mutate(random, &mut input, &words);
            let mut keys = search("ctrl-p,ctrl-q");
            let mut all = Vec::new();
            let mut detached = false;
            for piece in pieces(random, &input) {
                let scan = keys.scan(piece);
                all.extend(scan.passed);
                detached |= scan.detach;
                if detached {
                    break;
                }
            }
            if !detached {
                all.extend(keys.release());
                assert_eq!(all.escape_ascii().to_string(), input.escape_ascii().to_string());
            }
            // Whether it detaches does not depend on the pieces.
            assert_eq!(
                search("ctrl-p,ctrl-q").scan(&input).detach,
                detached,
                "{}",
                input.escape_ascii()
            );
        });
    }

    #[test]
    fn keys_are_shown_by_their_names() {
        assert_eq!("ctrl-p,ctrl-Q,x".parse::<Keys>().unwrap().to_string(), "ctrl-p ctrl-q x");
    }
}
