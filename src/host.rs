//! Many sandboxes behind one door: an engine that is driven by its host.
//!
//! An [`Engine`] is a reactor of monitors with what every host of several sandboxes needs beside it:
//! it removes a monitor that is done, passes its [end](crate::monitor::End) to those that wait for
//! it, and keeps bounded queues of [events](SandboxEvent). It is used by one thread at a time, which
//! calls [`turn`](Engine::turn).

mod engine;
mod error;
mod reply;
mod started;
mod subscriptions;
mod task;
mod waiting;

pub use engine::{Engine, Listed};
pub use error::HostError;
pub use reply::Reply;
pub use started::Started;
pub use subscriptions::{Batch, SandboxEvent, SubscriptionId};
