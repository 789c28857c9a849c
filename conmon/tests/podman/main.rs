//! Podman with Debian's conmon, and with `vmon-conmon` in its place: the same commands, run once with
//! each, give the same output, exit codes, logs, files and states.

#![cfg(test)]

#[path = "../common/mod.rs"]
mod common;

mod attach;
mod crun;
mod drivers;
mod exec;
mod lifecycle;
mod logs;
mod restart;
mod run;
mod scene;
