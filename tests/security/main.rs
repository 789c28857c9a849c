//! What another user can't do, and what belongs to one user only.

#![cfg(test)]

#[path = "../common/command.rs"]
mod common;

mod directories;
mod foreign_record;
mod security;
