//! The claim of a monitor on its log, among all monitors of this process.
//!
//! A record refuses a name that runs, but a monitor may have none, or two may have different ones.
//! Two writers would mix their output, and each would rotate the log of the other.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Hashes of the paths of the logs that are written; the paths themselves would take much of the
/// memory of an idle monitor. Two of a million logs have the same hash with a chance of 1 in 30
/// million. Locked for an insertion or a removal only.
static CLAIMED: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

/// A claim on a log, until it is dropped.
#[derive(Debug)]
pub(super) struct LogClaim(u64);

impl LogClaim {
    /// Claims the log of this path; `None` if another monitor has it.
    pub(super) fn take(path: &Path) -> Option<Self> {
        let mut hasher = DefaultHasher::new();
        std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).hash(&mut hasher);
        let hash = hasher.finish();
        // Not `then_some`, whose value would be dropped for a log that is taken, and release it.
        CLAIMED.lock().unwrap_or_else(PoisonError::into_inner).insert(hash).then(|| Self(hash))
    }
}

impl Drop for LogClaim {
    fn drop(&mut self) {
        CLAIMED.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}
