//! Many sandboxes in a host: the engine.

#![cfg(test)]

#[path = "../common/mod.rs"]
mod common;

mod engine;
