//! The ends of sandboxes that the caller has not taken yet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vmon::host::Reply;
use vmon::monitor::{End, SandboxId};

use crate::failure::{Code, Failure};

type EndReply = Reply<Arc<End>>;

/// One end for each sandbox, common to all handles of a host. The lock is held for the access to the
/// map alone, and never by the thread that drives the sandboxes.
#[derive(Default)]
pub struct Ends(Mutex<HashMap<SandboxId, Slot>>);

enum Slot {
    Kept(EndReply),
    /// A thread waits for it.
    Awaited,
}

impl Ends {
    pub fn keep(&self, id: SandboxId, end: EndReply) {
        self.lock().insert(id, Slot::Kept(end));
    }

    /// Takes an end, waiting at most this long for it; `None` is without limit.
    pub fn take(&self, id: SandboxId, timeout: Option<Duration>) -> Result<Arc<End>, Failure> {
        let reply = self.begin(id)?;
        let taken = match timeout {
            None => Ok(reply.wait()),
            Some(Duration::ZERO) => reply.try_take(),
            Some(timeout) => reply.wait_timeout(timeout),
        };
        match taken {
            Ok(end) => {
                self.lock().remove(&id);
                Ok(end?)
            }
            Err(reply) => {
                self.keep(id, reply);
                Err(Failure::new(Code::Again, "the sandbox has not ended"))
            }
        }
    }

    pub fn forget(&self, id: SandboxId) -> Result<(), Failure> {
        drop(self.begin(id)?);
        self.lock().remove(&id);
        Ok(())
    }

    /// Takes a reply out, for this thread alone.
    fn begin(&self, id: SandboxId) -> Result<EndReply, Failure> {
        match self.lock().get_mut(&id) {
            Some(slot) => match std::mem::replace(slot, Slot::Awaited) {
                Slot::Kept(reply) => Ok(reply),
                Slot::Awaited => {
                    Err(Failure::new(Code::Busy, "another thread waits for the sandbox"))
                }
            },
            None => Err(Failure::new(
                Code::NoEntry,
                "this host has not started the sandbox, or its end was taken",
            )),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SandboxId, Slot>> {
        // A panic elsewhere can't leave the map half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
