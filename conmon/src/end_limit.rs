//! The time that the last output of a container has to reach the log and the clients.

use std::time::Duration;

use tracing::warn;
use vmon::monitor::{Service, ServiceContext, Transition};

/// Engines wait five seconds for the exit file of a container that has ended. A disk that stays full
/// must not keep it from them.
const WITHIN: Duration = Duration::from_secs(3);

/// Gives up the last output that has not been taken in time. While the container runs, none is.
#[derive(Debug)]
pub struct EndLimit;

impl Service for EndLimit {
    fn timer(&mut self, _: u32, cx: &mut ServiceContext<'_, '_>) {
        warn!("the last output is not waited for any longer");
        cx.stop(None);
    }

    fn transition(&mut self, transition: &Transition, cx: &mut ServiceContext<'_, '_>) {
        if matches!(transition, Transition::Draining { .. }) {
            cx.set_timer(WITHIN, 0);
        }
    }
}
