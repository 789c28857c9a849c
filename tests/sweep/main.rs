//! System calls that fail, one at a time: each call of a small run, and of commands
//! beside one, with each error that it can have.
//!
//! strace(1) injects the error. It detaches from the command of the sandbox at execve(2), so only
//! calls of vmon fail, and those of its child before it becomes the command.
//! A short selection runs by default; with `VMON_FULL_SIZE` set, every call fails once with every
//! error, and some fail from then on.

#![cfg(test)]
#![cfg(target_os = "linux")]

#[path = "../common/command.rs"]
mod common;

mod errors;
mod runs;
mod strace;
mod sweep;
mod verdict;
