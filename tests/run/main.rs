//! `vmon run`: what goes through a child's streams, what it inherits, and what a run costs.

#![cfg(test)]

#[path = "../common/command.rs"]
mod common;

mod attributes;
mod cost;
mod flood_command;
mod forwarding;
mod hooks;
mod notify;
mod pipes;
mod process;
mod seed_faults;
mod spawn_command;
mod stdio;
mod tail;
mod usage;
