//! The C interface of vmon.
//!
//! `capi/include/vmon.h` documents every function. The functions themselves are in `ffi`, which has all
//! the `unsafe` code: it checks pointers, copies what the caller passes, catches panics and turns
//! results into codes. Everything else is safe code on [`vmon::host`].

// With `panic = "abort"`, as the other programs are built, a panic would end the caller's process.
#[cfg(all(panic = "abort", not(test)))]
compile_error!("build the C library with `--profile capi`, in which panics unwind");

mod driver;
mod ends;
mod events;
mod failure;
mod ffi;
mod host;
mod json;
mod spec;
