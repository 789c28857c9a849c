//! Systems on which nothing is measured.

use std::path::Path;

use super::{Usage, UsageError};
use crate::child::Identity;

pub(super) fn of_tree(_: &Identity) -> Result<Usage, UsageError> {
    Err(UsageError::Unsupported)
}

pub(super) fn of_cgroup(_: &Path) -> Result<Usage, UsageError> {
    Err(UsageError::Unsupported)
}

pub(super) fn proportional(_: &Identity) -> Result<Option<u64>, UsageError> {
    Err(UsageError::Unsupported)
}
