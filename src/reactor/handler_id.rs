//! The identifier of a handler on its reactor.

/// Identifies a handler on its reactor. Never reused, also after the handler has been removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HandlerId {
    pub(super) slot: u32,
    pub(super) generation: u32,
}
