//! Kernel memory beyond the ordinary that busy handlers share.

/// Bytes of kernel memory that the handlers of one reactor may take together: an eighth of what
/// Linux lets an unprivileged user hold in pipes over all processes before every new pipe of that
/// user gets two pages only (pipe(7), `pipe-user-pages-soft`).
pub(super) const TOTAL: usize = 8 << 20;

/// One handler's access to the memory that all handlers of the reactor share.
///
/// What a handler has taken is given back when it is done and when it is removed.
#[derive(Debug)]
pub struct Budget<'a> {
    left: &'a mut usize,
    taken: &'a mut usize,
}

impl<'a> Budget<'a> {
    pub(crate) fn new(left: &'a mut usize, taken: &'a mut usize) -> Self {
        Self { left, taken }
    }

    /// Takes `bytes` if that many are left; returns whether they were.
    pub fn take(&mut self, bytes: usize) -> bool {
        let Some(left) = self.left.checked_sub(bytes) else { return false };
        *self.left = left;
        *self.taken += bytes;
        true
    }

    /// Gives back `bytes`, at most what this handler has taken.
    pub fn give_back(&mut self, bytes: usize) {
        let bytes = bytes.min(*self.taken);
        *self.taken -= bytes;
        *self.left += bytes;
    }
}
