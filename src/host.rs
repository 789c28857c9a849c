//! Many sandboxes behind one handle: an engine that is driven by its host.
//!
//! A [`Host`] runs them on a thread of its own. Other threads use a [`Handle`], whose methods return
//! [`Reply`]s: futures of any executor, which can be waited for as well. [`Events`] are the
//! transitions of all sandboxes.
//!
//! That thread drives an [`Engine`], a reactor of monitors with what every host of several sandboxes
//! needs beside it: it removes a monitor that is done, passes its [end](crate::monitor::End) to those
//! that wait for it, and keeps bounded queues of [events](SandboxEvent). A host with an event loop of
//! its own can do so itself, without a further thread: it calls [`turn`](Engine::turn).

mod engine;
mod error;
mod events;
mod handle;
mod listed;
mod reply;
#[cfg(all(feature = "control", feature = "codec"))]
mod serving;
mod shared;
mod started;
mod subscriptions;
mod task;
mod thread;
mod waiting;

pub use engine::Engine;
pub use error::HostError;
pub use events::{Events, EventsError};
pub use handle::{Attachment, Handle};
pub use listed::Listed;
pub use reply::Reply;
#[cfg(all(feature = "control", feature = "codec"))]
#[cfg_attr(docsrs, doc(cfg(all(feature = "control", feature = "codec"))))]
pub use serving::{Refusal, Starter};
pub use started::Started;
pub use subscriptions::{Batch, SandboxEvent, SubscriptionId};
pub use thread::{Host, HostBuilder, OnDrop};
