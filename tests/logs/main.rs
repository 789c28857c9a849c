//! The log of a run: its options, its generations, and the commands that read it.

#![cfg(test)]

#[path = "../common/command.rs"]
mod common;

mod alone;
mod clock;
mod disk_bound_command;
mod export;
mod healing;
mod log_format_command;
mod log_format_readers;
mod log_index;
mod log_off_command;
mod log_rate;
mod logs;
mod logs_follow;
mod replay;
mod retention_options;
mod rotate_command;
mod rotate_command_left;
mod rotate_consoles;
mod run_log;
mod unmarked_runs;
