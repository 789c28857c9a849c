//! A sandbox in a list.

use crate::monitor::{Name, Phase, SandboxId};

/// A sandbox in [`Engine::list`](super::Engine::list).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Listed {
    /// Its identifier.
    pub id: SandboxId,
    /// Its name.
    pub name: Name,
    /// The namespace of its log and record.
    pub config_file: Name,
    /// The state of its child.
    pub phase: Phase,
    /// The pid of the child, from its start until it has been reaped.
    pub pid: Option<u32>,
}
