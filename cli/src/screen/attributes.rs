//! The character attributes that output has set.

/// Largest size of the stored sequences, in bytes. Programs reset attributes well within this.
const LARGEST: usize = 256;

const RESET: &[u8] = b"\x1b[m";

/// The sequences that have set attributes since the last reset.
#[derive(Debug, Default, Clone)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// Records a sequence that sets attributes. `reset`: it first resets all attributes; `only`: it
    /// does nothing else.
    pub fn add(&mut self, reset: bool, only: bool, sequence: &[u8]) {
        if reset {
            self.0.clear();
        }
        if reset && only {
            return;
        }
        self.0.extend_from_slice(sequence);
        while self.0.len() > LARGEST {
            let next = self.0.iter().skip(1).position(|&byte| byte == b'\x1b');
            self.0.drain(..next.map_or(self.0.len(), |at| at + 1));
        }
    }

    /// Takes all attributes as reset.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Resets the attributes.
    pub fn undo(&self, out: &mut Vec<u8>) {
        if !self.0.is_empty() {
            out.extend_from_slice(RESET);
        }
    }

    /// Sets them again.
    pub fn set(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
}
