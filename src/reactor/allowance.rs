//! What handlers may take beyond the ordinary while they are busy, in all.

/// Bytes of kernel memory that the handlers of one reactor may take together: an eighth of what
/// Linux lets an unprivileged user have in pipes, over all processes, before it gives all that
/// user's new ones two pages only (pipe(7), `pipe-user-pages-soft`).
pub(super) const TOTAL: usize = 8 << 20;

/// One handler's access to what all handlers of the reactor may take together.
///
/// What a handler has taken is given back when it is done, and when it is taken off the reactor.
#[derive(Debug)]
pub struct Allowance<'a> {
    left: &'a mut usize,
    taken: &'a mut usize,
}

impl<'a> Allowance<'a> {
    pub(crate) fn new(left: &'a mut usize, taken: &'a mut usize) -> Self {
        Self { left, taken }
    }

    /// Takes `bytes` if so many are left, and says whether they were.
    pub fn take(&mut self, bytes: usize) -> bool {
        let Some(left) = self.left.checked_sub(bytes) else { return false };
        *self.left = left;
        *self.taken += bytes;
        true
    }

    /// Gives back what was taken; more than that is not taken for it.
    pub fn give_back(&mut self, bytes: usize) {
        let bytes = bytes.min(*self.taken);
        *self.taken -= bytes;
        *self.left += bytes;
    }
}
