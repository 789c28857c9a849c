//! The lifecycle of one child.

mod observer;
mod sandbox;

pub use crate::child::{Identity, Liveness};
pub use observer::{
    Claim, End, Observer, Outcome, Progress, Reason, StartError, Starting, Transition,
};
pub use sandbox::{
    DEFAULT_CONFIG_FILE, DEFAULT_STOP_TIMEOUT, Forward, Input, Name, NameError, OnLogError, Rootfs,
    Sandbox,
};
