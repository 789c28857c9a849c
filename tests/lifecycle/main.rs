//! How a run starts, is stopped and ends, in the foreground and detached.

#[path = "../common/command.rs"]
mod common;

mod descendants;
mod detach;
mod faults;
mod lifecycle;
mod stop_and_drain;
