//! A real microVM under `vmon run`.

#![cfg(test)]

#[path = "../common/command.rs"]
mod common;

mod cgroup2;
mod microvm;
mod microvm_consoles;
mod microvm_flood;
