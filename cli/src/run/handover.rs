//! Passes the plan of a detached run to its supervisor, through a pipe that is the supervisor's
//! stdin.
//!
//! Every user can read the arguments of a process while it runs (proc(5), `cmdline`). A supervisor
//! runs as long as its sandbox, and its plan contains the values of `--env`.
//!
//! The pipe carries a magic number and the plan, which is JSON: an incomplete plan can't be decoded, so
//! nothing is started if the sender is killed while it writes.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::AsFd;

use nix::sys::stat::{SFlag, fstat};
use vmon::terminal;

use super::plan::Plan;

/// The first arguments of a supervisor, in this order.
const VISIBLE: [&str; 3] = ["run", "--detach", "--supervisor"];

/// Magic number of this version of the format. A supervisor of another version rejects it.
const MAGIC: &[u8; 8] = b"vmon\0\0\0\x03";

/// Why a process can't become a supervisor.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    #[error(
        "'--supervisor' is internal, and 'vmon run --detach' did not start this process: leave it out"
    )]
    ByHand,
    #[error("can't read the plan of the detached run from stdin: {0}")]
    Read(io::Error),
    #[error("the plan of the detached run is invalid: start it again")]
    Invalid,
}

/// The arguments of a supervisor, which every user can read. They contain the name of the sandbox if
/// the user has given one, so that lists of processes show it.
pub fn public_args(name: Option<&str>) -> impl Iterator<Item = &str> {
    let name = name.into_iter().flat_map(|name| ["--name", name]);
    VISIBLE.into_iter().chain(name)
}

/// Whether these are the arguments of a supervisor.
pub fn is_supervisor(args: &[OsString]) -> bool {
    args.get(1..=VISIBLE.len()).is_some_and(|args| args == VISIBLE)
}

/// Sends the plan. A supervisor that has already ended is not an error here: its exit status is
/// reported instead.
pub fn send(plan: &Plan, mut pipe: PipeWriter) -> io::Result<()> {
    match pipe.write_all(&[MAGIC, plan.encode().as_slice()].concat()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Reads the plan from stdin.
pub fn receive() -> Result<Plan, HandoverError> {
    let stdin = terminal::stdin();
    let kind = fstat(stdin).map(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT);
    // A read from a terminal would block until the user types.
    if kind != Ok(SFlag::S_IFIFO) {
        return Err(HandoverError::ByHand);
    }
    let pipe = stdin.as_fd().try_clone_to_owned().map_err(HandoverError::Read)?;
    read(File::from(pipe))
}

fn read(mut pipe: impl Read) -> Result<Plan, HandoverError> {
    let mut magic = [0; MAGIC.len()];
    match pipe.read_exact(&mut magic) {
        Ok(()) if magic == *MAGIC => {}
        _ => return Err(HandoverError::ByHand),
    }
    let mut plan = Vec::new();
    pipe.read_to_end(&mut plan).map_err(HandoverError::Read)?;
    Plan::decode(&plan).ok_or(HandoverError::Invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_input_is_not_a_plan() {
        let no_plan = [MAGIC, b"{ a plan }".as_slice()].concat();
        assert!(matches!(read(&no_plan[..]), Err(HandoverError::Invalid)));
        for input in [&no_plan[..3], b"some other input from a user"] {
            assert!(matches!(read(input), Err(HandoverError::ByHand)));
        }
    }

    #[test]
    fn a_supervisor_is_recognised_by_its_public_arguments() {
        let args = |name| {
            let program = OsString::from("vmon");
            std::iter::once(program)
                .chain(public_args(name).map(OsString::from))
                .collect::<Vec<_>>()
        };
        assert_eq!(args(Some("web")), ["vmon", "run", "--detach", "--supervisor", "--name", "web"]);
        assert!(is_supervisor(&args(Some("web"))) && is_supervisor(&args(None)));
        assert!(!is_supervisor(&["vmon", "run", "--detach", "x"].map(OsString::from)));
        assert!(!is_supervisor(&["vmon".into()]));
    }
}
