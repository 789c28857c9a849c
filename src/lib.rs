//! A low-overhead monitor for one microVM (or any other child process), and for many of them on
//! one thread.

pub mod child;
pub mod logfile;
pub mod monitor;
