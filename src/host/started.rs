//! A sandbox whose child runs.

use std::sync::Arc;

use super::reply::Reply;
use crate::monitor::{End, Name, SandboxId};

/// A sandbox whose child runs.
#[derive(Debug)]
#[non_exhaustive]
pub struct Started {
    /// Its identifier.
    pub id: SandboxId,
    /// Its name.
    pub name: Name,
    /// The namespace of its log and record.
    pub config_file: Name,
    /// The pid of the child.
    pub pid: u32,
    /// How it ends: over all runs, if the command is [restarted](crate::monitor::Sandbox::restart).
    /// It comes when the observers are done, so the record has the end, and the name is free. If
    /// this is dropped, the end is kept nowhere.
    pub end: Reply<Arc<End>>,
}
