//! Systems without a measurement.

use std::path::Path;

use super::{Usage, UsageError};
use crate::child::Identity;

#[derive(Debug, Clone)]
pub(super) enum Processes {}

impl Processes {
    pub(super) fn now() -> Result<Self, UsageError> {
        Err(UsageError::Unsupported)
    }

    pub(super) fn of_tree(&self, _: &Identity) -> Result<Usage, UsageError> {
        match *self {}
    }
}

pub(super) fn of_cgroup(_: &Path) -> Result<Usage, UsageError> {
    Err(UsageError::Unsupported)
}

pub(super) fn proportional(_: &Identity) -> Result<Option<u64>, UsageError> {
    Err(UsageError::Unsupported)
}
