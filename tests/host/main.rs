//! Many sandboxes in a host: the engine, and the thread that runs one behind a handle.

#![cfg(test)]

#[path = "../common/mod.rs"]
mod common;

mod cost;
mod ending;
mod engine;
mod events;
mod examples;
mod handle;
mod panics;

use std::time::Instant;

use common::{State, TIMEOUT};
use vmon::child::Command;
use vmon::host::{HostError, Reply};
use vmon::monitor::{Builder, Monitor, Sandbox};

fn sandbox(state: &State, name: &str) -> Sandbox {
    Sandbox::new(name, state.path().join("log")).unwrap()
}

fn builder(state: &State, name: &str) -> Builder {
    Monitor::builder(sandbox(state, name))
}

fn sh(script: &str) -> Command {
    Command::new("sh").args(["-c", script])
}

/// Waits for a reply, within the time that anything may take.
#[track_caller]
fn wait<T>(reply: Reply<T>) -> Result<T, HostError> {
    let asked = Instant::now();
    match reply.wait_timeout(TIMEOUT) {
        Ok(result) => result,
        Err(reply) => panic!("no reply after {:?}: {reply:?}", asked.elapsed()),
    }
}
