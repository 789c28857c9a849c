//! The time that the last output of a container has to reach a log that can't be written.

use std::time::Duration;

use tracing::warn;
use vmon::monitor::{Service, ServiceContext, Transition, WaitKind};

/// Engines wait five seconds for the exit file of a container that has ended. A disk that stays full
/// must not keep it from them.
const WITHIN: Duration = Duration::from_secs(3);

/// Gives up the last output where the log has not taken it in time. While the container runs, none
/// is, and a client that reads slowly gets it all.
#[derive(Debug)]
pub struct EndLimit;

impl Service for EndLimit {
    fn timer(&mut self, key: u32, cx: &mut ServiceContext<'_, '_>) {
        if cx.report().waits.iter().any(|wait| wait.kind == WaitKind::Log) {
            warn!("the last output is not waited for any longer");
            cx.stop(None);
        } else {
            cx.set_timer(WITHIN, key);
        }
    }

    fn transition(&mut self, transition: &Transition, cx: &mut ServiceContext<'_, '_>) {
        if matches!(transition, Transition::Draining { .. }) {
            cx.set_timer(WITHIN, 0);
        }
    }
}
