//! What depends on the version of cgroups, in a guest that has only v2: this machine may have v1.

#![cfg(test)]

#[path = "../common/mod.rs"]
mod common;

mod oom;
