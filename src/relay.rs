//! Bytes from one source to its sinks.
//!
//! [`Output`] relays one output of the child: to the log first, then to a [`Sink`] that forwards it.
//! [`Input`] relays the host's stdin to the child. Both hold bytes only while a sink does not take
//! them, and stop reading meanwhile: an idle relay owns no buffer. The bytes are never interpreted.

mod audience;
mod drivers;
mod flood;
mod input;
mod kind;
mod log;
mod output;
mod pace;
mod pipe;
mod rate;
mod sink;
mod throttle;
mod write;

pub(crate) use audience::{Audience, notice};
pub(crate) use drivers::Drivers;
pub use drivers::LogDriver;
pub(crate) use input::{Input, InputEvent};
pub(crate) use kind::Kind;
pub(crate) use log::{Both, Log, LogTarget, RETRY as LOG_RETRY};
pub(crate) use output::Output;
pub(crate) use pace::PaceTimers;
pub use rate::{LogRate, OverRate};
pub(crate) use sink::{Overflow, QUEUE, Sink};
#[cfg(feature = "control")]
pub(crate) use write::write_some;
