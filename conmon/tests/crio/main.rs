//! CRI-O's calls, as it makes them: the arguments, environment, descriptors and sockets, the order, and
//! what it waits for. Its own program is in no package. Each is made with Debian's conmon too.

#![cfg(test)]

#[path = "../common/mod.rs"]
mod common;

mod better;
mod client;
mod create;
mod engine;
mod exec_sync;
mod kubelet;
mod streams;
