//! The `vmon` command: run a child under a monitor, and list what runs and ran.
//!
//! Only the command line lives here and in `cli/`. Everything that it does, a program that links
//! the library can do too.

mod cli;

use std::process::ExitCode;

#[allow(unsafe_code)] // for the one call that must come before all others
fn main() -> ExitCode {
    // SAFETY: this is the only thread, and the command starts no other one.
    unsafe { vmon::process::settle_heap() };
    vmon::child::restore_sigchld();
    vmon::child::unblock_signals();
    vmon::terminal::install_panic_hook();
    cli::main(std::env::args_os().collect())
}
