//! Passes the plan of a detached run to its supervisor, through a pipe that is the supervisor's
//! stdin.
//!
//! Every user can read the arguments of a process while it runs (proc(5), `cmdline`). A supervisor
//! runs as long as its sandbox, and its plan contains the values of `--env`.
//!
//! The pipe carries a magic number, the length of the encoded plan (eight bytes, little-endian), and
//! the plan. The length makes an incomplete plan detectable: nothing is started if the sender is
//! killed while it writes.

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
const MAGIC: &[u8; 8] = b"vmon\0\0\0\x02";

/// More than the length of any plan, which is limited by `ARG_MAX` (execve(2)).
const MAX_LENGTH: u64 = 1 << 30;

/// Why a process can't become a supervisor.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    #[error(
        "'--supervisor' is internal, and 'vmon run --detach' did not start this process: leave it out"
    )]
    ByHand,
    #[error("can't read the plan of the detached run from stdin: {0}")]
    Read(io::Error),
    #[error("the plan of the detached run is incomplete: start it again")]
    Incomplete,
    #[error("the plan of the detached run is invalid: start it again")]
    Unknown,
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
    match pipe.write_all(&framed(&plan.encode())) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

fn framed(plan: &[u8]) -> Vec<u8> {
    let length = (plan.len() as u64).to_le_bytes();
    [&MAGIC[..], &length, plan].concat()
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
    Plan::decode(&read(File::from(pipe))?).ok_or(HandoverError::Unknown)
}

fn read(mut pipe: impl Read) -> Result<Vec<u8>, HandoverError> {
    let (mut magic, mut length) = ([0; MAGIC.len()], [0; size_of::<u64>()]);
    pipe.read_exact(&mut magic).map_err(|_| HandoverError::ByHand)?;
    if magic != *MAGIC {
        return Err(HandoverError::ByHand);
    }
    pipe.read_exact(&mut length).map_err(|_| HandoverError::Incomplete)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_LENGTH {
        return Err(HandoverError::ByHand);
    }
    let mut bytes = Vec::new();
    let count = pipe.take(length).read_to_end(&mut bytes).map_err(HandoverError::Read)?;
    if count as u64 == length { Ok(bytes) } else { Err(HandoverError::Incomplete) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_arrives_and_a_truncated_plan_is_rejected() {
        let plan = b"\0{ a plan }\xff\0";
        let bytes = framed(plan);
        assert_eq!(read(&bytes[..]).unwrap(), plan);
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut]).is_err(), "{cut}");
        }
        assert!(matches!(read(&b"some other input from a user"[..]), Err(HandoverError::ByHand)));
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
