//! `vmon run`: one command under a monitor, from its claim of a name to its exit code.
//!
//! Arguments become a [`Plan`](plan::Plan), which is checked before anything is made on disk. In the foreground it
//! is carried out here, in the background by a supervisor that is handed the plan.

mod args;
pub mod detach;
mod execute;
mod files;
pub mod handover;
pub mod options;
pub mod plan;

use vmon::terminal::Messages;

use super::{Failure, tell};
pub use args::RunArgs;

/// Runs the command to its end; the exit code is the command's. With --detach it returns once the
/// command runs.
pub fn run(args: RunArgs, messages: &Messages) -> Result<u8, Failure> {
    tell::install(messages, args.shared.log_level);
    let detach = args.detach;
    let plan = args.into_plan()?;
    if detach { detach::launch(&plan, messages) } else { plan.raise_file_limit().carry_out(None) }
}
