//! Many sandboxes or clients at once, and a supervisor that is killed at any moment.

#![cfg(test)]

#[path = "../common/command.rs"]
mod common;

mod attach_flood;
mod crowd;
mod killed;
