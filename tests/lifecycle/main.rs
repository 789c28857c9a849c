//! How a run starts, is stopped and ends, in the foreground and detached.

#![cfg(test)]

#[path = "../common/command.rs"]
mod common;

mod descendants;
mod detach;
mod faults;
mod lifecycle;
mod oom;
mod stop_and_drain;
mod stop_command;
mod waits;
