//! Logs on real files: written, rotated, kept, and read back.

#![cfg(test)]

#[path = "../common/mod.rs"]
mod common;

mod disk_bound;
mod fuzzed;
mod k8s_file;
mod log_formats;
mod logfile;
mod logread;
mod logread_beside;
mod logread_find;
mod logread_follow;
mod retention;
