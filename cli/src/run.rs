//! `vmon run`: one command under a monitor, from the claim of its name to its exit code.
//!
//! The arguments become a [`Plan`](plan::Plan), which is checked before anything is created on
//! disk. This process executes the plan of a foreground run. A detached run passes its plan to a
//! supervisor process.

mod args;
mod child_args;
pub mod descriptors;
pub mod detach;
mod execute;
pub mod handover;
pub mod lifecycle_files;
pub mod options;
pub mod plan;
mod silent_console;
pub mod user;
pub mod via;

use vmon::terminal::Messages;

use super::{Failure, messages};
pub use args::RunArgs;

/// Runs the command until it ends, and returns its exit code. With --detach, returns as soon as the
/// command runs.
pub fn run(args: RunArgs, messages: &Messages) -> Result<u8, Failure> {
    messages::install(messages, args.shared.log_level);
    let detach = args.detach;
    if !detach && args.via.is_some() {
        return Err(Failure::ViaForeground);
    }
    let host = if detach { args.via.clone().or_else(via::from_environment) } else { None };
    let plan = args.into_plan()?;
    match host {
        Some(socket) => via::launch(&plan, &socket),
        None if detach => detach::launch(&plan, messages),
        None => plan.execute(None),
    }
}
