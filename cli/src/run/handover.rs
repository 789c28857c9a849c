//! How the supervisor of a run in the background gets its plan: through a pipe, which is its stdin.
//!
//! The arguments of a process are public (proc(5), `cmdline`), for as long as it runs. A supervisor
//! runs as long as its sandbox, and its plan contains values of `--env`.
//!
//! The pipe carries a mark, the length of the encoded plan in eight bytes, lowest first, and the
//! plan. A sender that is killed on the way therefore starts nothing.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::AsFd;

use nix::sys::stat::{SFlag, fstat};
use vmon::terminal;

use super::plan::Plan;

/// What the supervisor is started with, in this order.
const VISIBLE: [&str; 3] = ["run", "--detach", "--supervisor"];

/// Of this form of the plan: a supervisor of another version refuses it.
const MARK: &[u8; 8] = b"vmon\0\0\0\x02";

/// Longer than any plan: it comes from a list of arguments (execve(2), `ARG_MAX`).
const MOST: u64 = 1 << 30;

/// Why a process can't be a supervisor.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    #[error(
        "'--supervisor' is for vmon itself, and no 'vmon run --detach' has started this process: leave it out"
    )]
    ByHand,
    #[error("can't read the plan of the detached run from stdin: {0}")]
    Read(io::Error),
    #[error("the plan of the detached run is incomplete: start it again")]
    Incomplete,
    #[error("the plan of the detached run can't be read: start it again")]
    Unknown,
}

/// The arguments that every user can read: lists of processes show the sandbox by its name, where the
/// user has given one.
pub fn visible(name: Option<&str>) -> impl Iterator<Item = &str> {
    let name = name.into_iter().flat_map(|name| ["--name", name]);
    VISIBLE.into_iter().chain(name)
}

/// Whether this process has been started with those.
pub fn is_supervisor(args: &[OsString]) -> bool {
    args.get(1..=VISIBLE.len()).is_some_and(|args| args == VISIBLE)
}

/// Hands over a plan. A supervisor that has ended already takes none; its exit status says more
/// about that.
pub fn send(plan: &Plan, mut pipe: PipeWriter) -> io::Result<()> {
    match pipe.write_all(&framed(&plan.encode())) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

fn framed(plan: &[u8]) -> Vec<u8> {
    let length = (plan.len() as u64).to_le_bytes();
    [&MARK[..], &length, plan].concat()
}

/// The plan that was handed over to this process.
pub fn receive() -> Result<Plan, HandoverError> {
    let stdin = terminal::stdin();
    let kind = fstat(stdin).map(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT);
    // A terminal would be waited for.
    if kind != Ok(SFlag::S_IFIFO) {
        return Err(HandoverError::ByHand);
    }
    let pipe = stdin.as_fd().try_clone_to_owned().map_err(HandoverError::Read)?;
    Plan::decode(&read(File::from(pipe))?).ok_or(HandoverError::Unknown)
}

fn read(mut pipe: impl Read) -> Result<Vec<u8>, HandoverError> {
    let (mut mark, mut length) = ([0; MARK.len()], [0; size_of::<u64>()]);
    pipe.read_exact(&mut mark).map_err(|_| HandoverError::ByHand)?;
    if mark != *MARK {
        return Err(HandoverError::ByHand);
    }
    pipe.read_exact(&mut length).map_err(|_| HandoverError::Incomplete)?;
    let length = u64::from_le_bytes(length);
    if length > MOST {
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
    fn every_byte_arrives_and_what_is_cut_starts_nothing() {
        let plan = b"\0{ a plan }\xff\0";
        let bytes = framed(plan);
        assert_eq!(read(&bytes[..]).unwrap(), plan);
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut]).is_err(), "{cut}");
        }
        assert!(matches!(read(&b"some other input of a user's"[..]), Err(HandoverError::ByHand)));
    }

    #[test]
    fn a_supervisor_is_known_by_its_public_arguments() {
        let args = |name| {
            let program = OsString::from("vmon");
            std::iter::once(program).chain(visible(name).map(OsString::from)).collect::<Vec<_>>()
        };
        assert_eq!(args(Some("web")), ["vmon", "run", "--detach", "--supervisor", "--name", "web"]);
        assert!(is_supervisor(&args(Some("web"))) && is_supervisor(&args(None)));
        assert!(!is_supervisor(&["vmon", "run", "--detach", "x"].map(OsString::from)));
        assert!(!is_supervisor(&["vmon".into()]));
    }
}
