//! The library in a host: children, channels, clients, services and observers.

#![cfg(test)]

#[path = "../common/mod.rs"]
mod common;

mod attributes;
mod consoles;
mod control;
mod control_harm;
mod drain;
mod dropped;
mod errors;
mod flood;
mod host;
mod host_reaps;
mod limits;
mod log_drivers;
mod log_off;
mod measure;
mod oom;
mod output;
mod packets;
mod panics;
mod release;
mod rotate_host;
mod sessions;
mod spans;
mod spawn;
mod stop_command;
