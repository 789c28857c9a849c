//! The hidden modes: this program as the child of a tool, as a bare loop, or as a host.
//!
//! `peers @MODE ARG…`. None is for use by hand.

mod children;
mod crowd;
mod flood;
mod floor;
mod runtime;
mod two_sandboxes;

use std::ffi::OsString;
use std::process::ExitCode;

use nix::unistd::{Pid, getppid};

pub use children::{LISTENING, READY};
pub use crowd::Crowd;
pub use flood::{REPORT, Written};
pub use runtime::COMMAND;

use crate::process::die_with_parent;
use crate::{Result, process};

/// What a hidden mode is called with, as a command line.
pub fn words(mode: &str, args: &[String]) -> Result<Vec<OsString>> {
    let program = std::env::current_exe()?;
    let mode = OsString::from(format!("@{mode}"));
    Ok([program.into_os_string(), mode].into_iter().chain(args.iter().map(Into::into)).collect())
}

/// Names the parent that only starts a child and leaves: the child must outlive that one.
pub const ORPHAN: &str = "VMON_BENCH_ORPHAN";

/// Runs a mode to its end.
pub fn run(mode: &str, args: &[String]) -> ExitCode {
    let result = start(mode, args);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers @{mode}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(mode: &str, args: &[String]) -> Result<()> {
    // A tool that dies takes its child along, whether it sees to that or not.
    if let Ok(starter) = std::env::var(ORPHAN) {
        outlive(Pid::from_raw(starter.parse()?));
    }
    die_with_parent()?;
    match (mode, args) {
        ("flood", [blocks, block, line]) => flood::run(blocks, block, line),
        ("echo", []) => children::echo(),
        ("idle", []) => children::idle(),
        ("phases", []) => children::phases(),
        ("floor-pipe", [log, pause]) => floor::pipe(log, pause),
        ("floor-pty", [log, child @ ..]) => floor::pty(log, child),
        ("two-sandboxes", [dir, other]) => two_sandboxes::run(dir, other),
        ("crowd", [dir, spec]) => crowd::run(dir, spec),
        ("runtime", args) => runtime::run(args),
        _ => Err("no such mode".into()),
    }
}

/// Returns when this process has another parent than the one that has started it.
fn outlive(starter: Pid) {
    // That one ends at once, and there is no event for it.
    while getppid() == starter {
        std::thread::yield_now();
    }
}

/// Our own stdout, without std's line buffer.
fn raw_stdout() -> Result<std::fs::File> {
    use std::os::fd::AsFd;
    Ok(std::io::stdout().as_fd().try_clone_to_owned()?.into())
}

/// Our own stdin, without std's buffer.
fn raw_stdin() -> Result<std::fs::File> {
    use std::os::fd::AsFd;
    Ok(std::io::stdin().as_fd().try_clone_to_owned()?.into())
}

/// The time by the clock that all processes share, in nanoseconds.
fn nanos() -> u128 {
    process::now().as_nanos()
}
