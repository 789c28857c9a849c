//! Terminals: the child's PTY, the outer terminal, job control, and consoles on the command line.

#![cfg(test)]

#[path = "../common/command.rs"]
mod common;

mod console_command;
mod job_control;
mod modes;
mod terminal;
