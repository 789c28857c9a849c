//! `vmon run`: one command under a monitor, from its claim of a name to its exit code.
//!
//! First everything is checked that can be wrong with the options, and only then anything is
//! made: the directories, the database, the child.

mod args;
pub mod detach;
mod files;
pub mod handover;
pub mod options;
mod plan;

use vmon::monitor::Name;
use vmon::terminal::Messages;

use super::{Failure, tell};
pub use args::RunArgs;
use plan::Plan;

/// Runs the command to its end; the exit code is the command's. With --detach it returns once the
/// command runs.
pub fn run(args: RunArgs, messages: &Messages) -> Result<u8, Failure> {
    tell::install(messages, args.shared.log_level);
    if args.detach {
        let name = args.record.name.as_ref().map(Name::as_str);
        return detach::launch(std::env::args_os().collect(), name, messages);
    }
    Plan::new(args)?.raise_file_limit().carry_out(None)
}
