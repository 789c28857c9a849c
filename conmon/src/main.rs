//! A monitor of containers for Podman and CRI-O, with the command line, messages and files of
//! conmon 2.2.1.
//!
//! The life of a container or an exec session has two parts. Until the OCI runtime has ended, this
//! program is a plain sequence of steps in the module `life`. From then on the library's monitor
//! relays, logs and reaps on an event loop, with a service for each way into the container
//! (`monitor`). The table of what follows what is in `shape`.

mod attach_socket;
mod checks;
mod ctl;
mod end_limit;
mod engine;
mod exit;
mod failure;
mod life;
mod log_path;
mod logs;
mod message;
mod monitor;
mod notify;
mod oom;
mod options;
mod process;
mod runtime;
mod say;
mod shape;
mod signals;
mod streams;

use std::io::Write;

use tracing::error;

use failure::Failure;
use options::{Options, Parsed};

/// The version of conmon that this program behaves as, which engines parse, and its own.
const VERSION: &str = concat!("2.2.1+vmon.", env!("CARGO_PKG_VERSION"));

/// The commit that it was built from, if the build says so.
const COMMIT: &str = match option_env!("VMON_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

fn main() {
    std::process::exit(run());
}

fn run() -> i32 {
    let inherited = match process::prepare() {
        Ok(inherited) => inherited,
        Err(error) => {
            say::error_on_stderr(&format!("can't list the descriptors of this process: {error}"));
            return 1;
        }
    };
    let options = match options::parse(std::env::args_os().skip(1)) {
        Ok(Parsed::Run(options)) => *options,
        Ok(Parsed::Help) => return print(&options::help()),
        Err(error) => return refuse(&format!("option parsing failed: {error}")),
    };
    if options.version {
        return print(&format!("conmon version {VERSION}\ncommit: {COMMIT}\n"));
    }
    let cid = match checks::first(&options) {
        Ok(cid) => cid.to_owned(),
        Err(failure) => return refuse(&failure.to_string()),
    };
    match checks::level(&options) {
        Ok(level) => say::install(level, options.syslog.then_some(cid.as_os_str())),
        Err(failure) => {
            say::error_on_stderr(&failure.to_string());
            return 1;
        }
    }
    let lived = live(cid, options, inherited);
    lived.unwrap_or_else(|failure| {
        error!("{failure}");
        1
    })
}

fn live(
    cid: std::ffi::OsString,
    options: Options,
    inherited: process::Inherited,
) -> Result<i32, Failure> {
    life::live(checks::rest(cid, options)?, inherited)
}

/// Prints a text that was asked for.
fn print(text: &str) -> i32 {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

/// Reports a command line that can't be used.
fn refuse(text: &str) -> i32 {
    say::write_stderr(format!("conmon: {text}\n").as_bytes());
    1
}
