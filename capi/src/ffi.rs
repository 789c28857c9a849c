//! The functions of `vmon.h`.
//!
//! All `unsafe` code of this package is here. It relies on the contract of the header: pointers are NULL
//! or valid for what the function says, strings end with NUL, structs have the size that they begin
//! with, and a handle that has been freed is not used. What can be checked is checked.

#![allow(unsafe_code)]

mod handle;
mod host;
mod pointer;
mod sandbox;
mod spec;
mod types;
