//! The flags of the kitty keyboard protocol: <https://sw.kovidgoyal.net/kitty/keyboard-protocol/>.

/// How many entries of the stack are known. Terminals bound theirs too.
const STACK: usize = 8;

/// The keyboard flags of one screen, and the stack of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Keyboard {
    /// The flags without an entry on the stack.
    base: u8,
    /// The number of entries.
    depth: u16,
    /// How many entries were removed that had been there before.
    popped: u16,
    /// The last entries, in a ring.
    stack: [u8; STACK],
}

/// A change of the flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// `CSI > flags u`.
    Push(u8),
    /// `CSI < number u`.
    Pop(u16),
    /// `CSI = flags ; how u`: 1 sets all flags, 2 adds these, 3 removes them.
    Set { flags: u8, how: u16 },
}

impl Keyboard {
    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::Push(flags) => {
                self.depth = self.depth.saturating_add(1);
                *self.top() = flags;
            }
            Change::Pop(number) if number > self.depth => {
                let popped = self.popped.saturating_add(number - self.depth);
                *self = Self { popped, ..Self::default() };
            }
            Change::Pop(number) => self.depth -= number,
            Change::Set { flags, how } => {
                let top = self.top();
                match how {
                    2 => *top |= flags,
                    3 => *top &= !flags,
                    _ => *top = flags,
                }
            }
        }
    }

    fn top(&mut self) -> &mut u8 {
        let at = usize::from(self.depth.wrapping_sub(1)) % STACK;
        match (self.depth, self.stack.get_mut(at)) {
            (1.., Some(entry)) => entry,
            _ => &mut self.base,
        }
    }

    /// What all changes together do.
    pub(super) fn changes(&self, out: &mut Vec<u8>) {
        if self.popped > 0 {
            out.extend_from_slice(format!("\x1b[<{}u", self.popped).as_bytes());
        }
        self.set(out);
    }

    pub(super) fn undo(&self, out: &mut Vec<u8>) {
        if self.depth > 0 {
            out.extend_from_slice(format!("\x1b[<{}u", self.depth).as_bytes());
        }
        if self.base != 0 {
            out.extend_from_slice(b"\x1b[=0u");
        }
    }

    pub(super) fn set(&self, out: &mut Vec<u8>) {
        if self.base != 0 {
            out.extend_from_slice(format!("\x1b[={}u", self.base).as_bytes());
        }
        let depth = usize::from(self.depth);
        for at in depth.saturating_sub(STACK)..depth {
            let flags = self.stack.get(at % STACK).copied().unwrap_or_default();
            out.extend_from_slice(format!("\x1b[>{flags}u").as_bytes());
        }
    }
}
