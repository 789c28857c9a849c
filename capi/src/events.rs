//! The events of one handle.

use std::time::Duration;

use vmon::host::{Batch, EventsError, SandboxEvent, SubscriptionId};

use crate::driver::Driver;
use crate::failure::{Code, Failure};

/// The events of a handle.
#[derive(Default)]
pub enum Events {
    /// None are kept.
    #[default]
    Off,
    /// Those of a host on the caller's loop, and what was fetched of them.
    Callers(SubscriptionId, Batch),
    /// Those of a host with a thread.
    Thread(vmon::host::Events),
}

impl Events {
    pub fn subscribe(driver: &mut Driver, former: &Self, limit: usize) -> Result<Self, Failure> {
        if let Driver::Thread { handle, .. } = driver {
            return Ok(Self::Thread(handle.events(limit)));
        }
        let former = match former {
            Self::Callers(former, _) => Some(*former),
            Self::Off | Self::Thread(_) => None,
        };
        let subscription = driver.call(move |engine| {
            if let Some(former) = former {
                engine.unsubscribe(former);
            }
            engine.subscribe(limit)
        })?;
        Ok(Self::Callers(subscription, Batch::default()))
    }

    /// The oldest event, and the number of those that are missing before it. Waits at most this long;
    /// `None` is without limit.
    pub fn next(
        &mut self,
        driver: &mut Driver,
        timeout: Option<Duration>,
    ) -> Result<(SandboxEvent, u64), Failure> {
        match self {
            Self::Off => Err(Failure::misuse("no events are kept: call vmon_subscribe first")),
            Self::Callers(subscription, batch) => {
                if batch.events.is_empty() {
                    let subscription = *subscription;
                    *batch = driver.call(move |engine| engine.take_batch(subscription))?;
                }
                let event = batch.events.pop_front().ok_or_else(nothing)?;
                Ok((event, std::mem::take(&mut batch.missed)))
            }
            Self::Thread(events) => {
                let mut missed = 0;
                loop {
                    match next(events, driver, timeout) {
                        None => return Err(nothing()),
                        Some(Ok(event)) => return Ok((event, missed)),
                        // Events follow at once.
                        Some(Err(EventsError::Missed(count))) => missed += count,
                        Some(Err(EventsError::Host(error))) => return Err(error.into()),
                        Some(Err(error)) => return Err(Failure::of(Code::System, &error)),
                    }
                }
            }
        }
    }
}

fn next(
    events: &mut vmon::host::Events,
    driver: &mut Driver,
    timeout: Option<Duration>,
) -> Option<Result<SandboxEvent, EventsError>> {
    match timeout {
        None => Some(events.wait()),
        Some(Duration::ZERO) => events.wait_timeout(Duration::ZERO).or_else(|| {
            // That has asked the thread, which has answered once it has met a later request.
            let _ = driver.call(|_| ());
            events.wait_timeout(Duration::ZERO)
        }),
        Some(timeout) => events.wait_timeout(timeout),
    }
}

fn nothing() -> Failure {
    Failure::new(Code::Again, "there is no event")
}
