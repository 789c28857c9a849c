//! The C library as C programs see it: the header, the symbols, the ABI, and programs in C and Python.
//!
//! Each test compiles with `cc`. Without a compiler it is skipped with a message, and fails if
//! `VMON_REQUIRE_CC` is set; so it is with valgrind and `VMON_REQUIRE_VALGRIND`.

#![cfg(test)]

mod abi;
mod common;
mod examples;
mod header;
mod programs;
