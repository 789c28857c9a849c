//! The keys by which a user leaves, found in what is typed.

use std::str::FromStr;

/// Keys that are typed one after the other; none of them reaches the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys(Vec<u8>);

/// Not a list of keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no key: give a list such as ctrl-p,ctrl-q, each a character or ctrl- and one of a-z, @, [, \\, ], ^ and _"
)]
pub struct KeyError(String);

impl Keys {
    /// The last of them, if a terminal that edits lines can be told to deliver those at once when
    /// it is typed: it is for control characters.
    pub fn line_end(&self) -> Option<u8> {
        // A line has its end anyhow, and 0 stands for no character (termios(3)).
        self.0.last().copied().filter(|&byte| byte != 0 && byte != b'\n' && byte < b' ')
    }
}

impl FromStr for Keys {
    type Err = KeyError;

    /// As podman-attach(1) has them; the empty list is never typed.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let keys = text.split(',').filter(|_| !text.is_empty());
        keys.map(|key| byte(key).ok_or_else(|| KeyError(key.to_owned())))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

fn byte(key: &str) -> Option<u8> {
    let (control, character) = match key.strip_prefix("ctrl-") {
        Some(character) => (true, character),
        None => (false, key),
    };
    match (control, character.as_bytes()) {
        (true, [byte]) => {
            let upper = byte.to_ascii_uppercase();
            // What a terminal sends: the character without its upper bits (ascii(7)).
            (b'@'..=b'_').contains(&upper).then_some(upper & 0x1f)
        }
        (false, [byte]) => Some(*byte),
        _ => None,
    }
}

/// Looks for the keys, however they are cut into reads.
#[derive(Debug)]
pub struct Search {
    keys: Vec<u8>,
    /// How many of the keys have been typed, and were held back.
    held: usize,
}

/// What has become of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// What goes on to the command.
    pub passed: Vec<u8>,
    /// Whether all keys were typed; what was typed after them is dropped.
    pub leave: bool,
}

impl Search {
    pub fn new(keys: Keys) -> Self {
        Self { keys: keys.0, held: 0 }
    }

    /// Looks through what was typed. The beginning of the keys is held back, until the rest of
    /// them comes, or something else: then it is passed on.
    pub fn look(&mut self, typed: &[u8]) -> Found {
        let mut passed = Vec::with_capacity(typed.len() + self.held);
        for &byte in typed {
            let mut open: Vec<u8> = self.keys.iter().take(self.held).copied().collect();
            open.push(byte);
            // What is open now may begin the keys anew, further on.
            while !self.keys.starts_with(&open) {
                passed.push(open.remove(0));
            }
            self.held = open.len();
            if self.held == self.keys.len() && self.held > 0 {
                return Found { passed, leave: true };
            }
        }
        Found { passed, leave: false }
    }

    /// What is held back, when nothing can follow.
    pub fn rest(&mut self) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        self.keys.iter().take(held).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn keys_are_found_however_they_are_cut() {
        let mut keys = search("ctrl-p,ctrl-q");
        assert_eq!(keys.look(b"ab\x10"), Found { passed: b"ab".to_vec(), leave: false });
        assert_eq!(keys.look(b"\x11after"), Found { passed: vec![], leave: true });
    }

    #[test]
    fn what_turns_out_to_be_something_else_is_passed_on() {
        let mut keys = search("ctrl-p,ctrl-q");
        assert_eq!(keys.look(b"\x10x").passed, b"\x10x");
        // The second begins the keys.
        assert_eq!(keys.look(b"\x10\x10").passed, b"\x10");
        assert!(keys.look(b"\x11").leave);
        let mut keys = search("a,a,b");
        assert_eq!(keys.look(b"aaa").passed, b"a");
        assert_eq!(keys.rest(), b"aa");
        assert_eq!(keys.look(b"c").passed, b"c");
    }

    #[test]
    fn without_keys_everything_is_passed_on() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(search("").look(&all), Found { passed: all, leave: false });
    }
}
