//! The key sequence for detaching, and its detection in the input.

use std::str::FromStr;

/// A key sequence. None of its bytes reaches the command once the sequence is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys(Vec<u8>);

/// An invalid key in a list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no key: give a list such as ctrl-p,ctrl-q, each a character or ctrl- and one of a-z, @, [, \\, ], ^ and _"
)]
pub struct KeyError(String);

impl Keys {
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

fn byte(key: &str) -> Option<u8> {
    let (control, character) = match key.strip_prefix("ctrl-") {
        Some(character) => (true, character),
        None => (false, key),
    };
    match (control, character.as_bytes()) {
        (true, [byte]) => {
            let upper = byte.to_ascii_uppercase();
            // The terminal sends the character without its upper bits (ascii(7)).
            (b'@'..=b'_').contains(&upper).then_some(upper & 0x1f)
        }
        (false, [byte]) => Some(*byte),
        _ => None,
    }
}

/// Finds the key sequence in input that arrives in pieces of any size.
#[derive(Debug)]
pub struct Search {
    keys: Vec<u8>,
    /// Number of keys matched so far. They are withheld.
    held: usize,
}

/// Result of scanning a piece of input.
#[derive(Debug, PartialEq, Eq)]
pub struct Scan {
    /// Bytes to send to the command.
    pub passed: Vec<u8>,
    /// Whether the sequence is complete. Bytes after it are dropped.
    pub detach: bool,
}

impl Search {
    pub fn new(keys: Keys) -> Self {
        Self { keys: keys.0, held: 0 }
    }

    /// Scans a piece of input. The beginning of the sequence is withheld until the sequence is
    /// complete or another key follows; in that case it is passed.
    pub fn scan(&mut self, typed: &[u8]) -> Scan {
        let mut passed = Vec::with_capacity(typed.len() + self.held);
        for &byte in typed {
            let mut open: Vec<u8> = self.keys.iter().take(self.held).copied().collect();
            open.push(byte);
            // After a mismatch, a later byte may start the sequence again.
            while !self.keys.starts_with(&open) {
                passed.push(open.remove(0));
            }
            self.held = open.len();
            if self.held == self.keys.len() && self.held > 0 {
                return Scan { passed, detach: true };
            }
        }
        Scan { passed, detach: false }
    }

    /// Takes the withheld keys, at end of file.
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
    fn keys_are_found_in_input_split_anywhere() {
        let mut keys = search("ctrl-p,ctrl-q");
        assert_eq!(keys.scan(b"ab\x10"), Scan { passed: b"ab".to_vec(), detach: false });
        assert_eq!(keys.scan(b"\x11after"), Scan { passed: vec![], detach: true });
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
        assert_eq!(keys.rest(), b"aa");
        assert_eq!(keys.scan(b"c").passed, b"c");
    }

    #[test]
    fn without_keys_all_input_is_passed_on() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(search("").scan(&all), Scan { passed: all, detach: false });
    }
}
