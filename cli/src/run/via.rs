//! Detached runs in a host: `vmon serve` supervises the command instead of a process of its own.

use std::path::{Path, PathBuf};

use vmon::control::{HostClient, HostStartError, Start};
use vmon::monitor::codec::Spec;

use super::detach::print_start;
use super::plan::Plan;
use crate::Failure;

/// The socket in `$VMON_HOST`.
pub fn from_environment() -> Option<PathBuf> {
    std::env::var_os("VMON_HOST").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Has the host at this socket start the plan, and prints the name and pid of the command.
pub fn launch(plan: &Plan, socket: &Path) -> Result<u8, Failure> {
    let host = HostClient::connect(socket).map_err(Failure::Via)?;
    let (name, pid) = start(plan, host)?;
    print_start(&name, pid).map(|()| 0)
}

/// As [`launch`], without printing the result.
pub fn start(plan: &Plan, mut host: HostClient) -> Result<(String, u64), Failure> {
    let Plan { places, name, sandbox, command, options } = plan;
    if command.get_descriptors().next().is_some() {
        return Err(Failure::DescriptorsVia);
    }
    let mut sandbox = sandbox.clone();
    sandbox.name = name.first.clone();
    let mut start = Start::new(Spec::new(sandbox, Some(command.clone()), options.to_json()));
    start.numbered = !name.is_given;
    start.state_dir = Some(places.state_dir.clone().into());
    start.db = Some(places.db.path.clone().into());
    match host.start(&start) {
        Ok(started) => Ok((started.name, started.pid.into())),
        Err(HostStartError::NotStarted { message, exit_code }) => {
            Err(Failure::Detached { why: message, code: exit_code })
        }
        Err(HostStartError::Client(error)) => Err(Failure::Via(error)),
        Err(error) => Err(Failure::Detached { why: error.to_string(), code: crate::OWN_FAILURE }),
    }
}
