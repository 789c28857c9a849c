//! The record of the command's runs, whatever happens to it.

#![cfg(test)]

#[path = "../common/command.rs"]
mod common;

mod elsewhere;
mod keep_runs;
mod reconcile;
mod record;
mod record_states;
mod record_unwritable;
mod state_dir;
