//! The commands that show, follow and change sandboxes.

#![cfg(test)]

#[path = "../common/command.rs"]
mod common;

mod attach_command;
mod completions;
mod events;
mod inspect;
mod labels;
mod metrics_interval;
mod pages;
mod ps;
mod remove;
mod restart_command;
mod restart_options;
mod serve;
mod serve_calls;
mod stop_command;
