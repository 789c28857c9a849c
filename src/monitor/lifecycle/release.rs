//! The release of a child that runs: its run is over, and nothing is done to the child.

use tracing::info;

use super::{Lifecycle, State};
use crate::child::ExitStatus;
use crate::monitor::keys::Cx;
use crate::monitor::release::Released;
use crate::monitor::requests::RequestError;
use crate::monitor::transition::{Outcome, Reason};

impl Lifecycle {
    /// See [`Monitor::release`](crate::monitor::Monitor::release).
    pub(in crate::monitor) fn release(
        &mut self,
        cx: &mut Cx<'_>,
    ) -> Result<Released, RequestError> {
        let State::Alive(process, stage) = &mut self.state else {
            return Err(RequestError::NotRunning);
        };
        // The end of one that has ended is about to be reported.
        if process.child.status().is_some() {
            return Err(RequestError::NotRunning);
        }
        let pid = process.pid();
        info!(pid, "released to the host");
        // The cgroup stays, as the child is in it.
        let _ = process.release(stage, cx);
        let parts = &mut self.parts;
        parts.backoff = None;
        let released = parts.channels.release(pid, cx);
        let (status, reason) = (ExitStatus::Unknown, Reason::Released);
        self.end_run(Outcome::Ended { status, reason }, cx);
        Ok(released)
    }
}
