//! How the supervisor of `vmon run --detach` gets its arguments: through a pipe, which is its stdin.
//!
//! The arguments of a process are public (proc(5), `cmdline`), for as long as it runs. A supervisor
//! runs as long as its sandbox, and among its arguments are values of `--env`.
//!
//! The pipe carries a mark, the length of what follows in eight bytes, lowest first, and the words,
//! each with a NUL behind it. So a sender that is killed on the way starts nothing.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::sys::stat::{SFlag, fstat};
use vmon::terminal;

/// What the supervisor is started with, in this order.
const VISIBLE: [&str; 3] = ["run", "--detach", "--supervisor"];

const MARK: &[u8; 8] = b"vmon\0run";

/// No list of arguments is longer on any system that vmon runs on (execve(2), `ARG_MAX`).
const MOST: u64 = 1 << 30;

/// Why a process can't be a supervisor.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    #[error(
        "'--supervisor' is for vmon itself, and no 'vmon run --detach' has started this process: leave it out"
    )]
    ByHand,
    #[error("can't read the arguments of the detached run from stdin: {0}")]
    Read(io::Error),
    #[error("the arguments of the detached run are incomplete: start it again")]
    Incomplete,
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

/// Hands over all arguments, the program's name first. A supervisor that has ended already takes
/// none; its exit status says more about that.
pub fn send(args: &[OsString], mut pipe: PipeWriter) -> io::Result<()> {
    let length: usize = args.iter().map(|word| word.len() + 1).sum();
    let mut bytes = Vec::with_capacity(MARK.len() + size_of::<u64>() + length);
    bytes.extend_from_slice(MARK);
    bytes.extend_from_slice(&(length as u64).to_le_bytes());
    for word in args {
        bytes.extend_from_slice(word.as_bytes());
        bytes.push(0);
    }
    match pipe.write_all(&bytes) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// The arguments that were handed over to this process.
pub fn receive() -> Result<Vec<OsString>, HandoverError> {
    let stdin = terminal::stdin();
    let kind = fstat(stdin).map(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT);
    // A terminal would be waited for.
    if kind != Ok(SFlag::S_IFIFO) {
        return Err(HandoverError::ByHand);
    }
    let pipe = stdin.as_fd().try_clone_to_owned().map_err(HandoverError::Read)?;
    read(File::from(pipe))
}

fn read(mut pipe: impl Read) -> Result<Vec<OsString>, HandoverError> {
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
    match bytes.strip_suffix(&[0]) {
        Some(words) if count as u64 == length => {
            let words = words.split(|&byte| byte == 0);
            Ok(words.map(|word| OsString::from_vec(word.to_vec())).collect())
        }
        _ => Err(HandoverError::Incomplete),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handed_over(args: &[OsString]) -> Vec<u8> {
        let (mut reader, writer) = io::pipe().unwrap();
        send(args, writer).unwrap();
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn every_word_arrives_and_what_is_cut_starts_nothing() {
        let words = ["vmon", "", "--env", "A=b\nc ", ""].map(OsString::from).to_vec();
        let words = [words, vec![OsString::from_vec(vec![0xff, 0xfe])]].concat();
        let bytes = handed_over(&words);
        assert_eq!(read(&bytes[..]).unwrap(), words);
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
