//! The record of sandboxes and runs, in a real SQLite.

#![cfg(test)]

#[path = "../common/mod.rs"]
mod common;

mod registry_files;
mod registry_store;
mod removal;
