//! Socket activation: the listening socket of a service manager, as sd_listen_fds(3) describes.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use vmon::child::Command;
use vmon::process;

const PID: &str = "LISTEN_PID";
const COUNT: &str = "LISTEN_FDS";
const NAMES: &str = "LISTEN_FDNAMES";

/// The first descriptor that is passed.
const FIRST: i32 = 3;

/// The socket that this process was started with, and its path. `None` without socket activation.
pub fn listener() -> io::Result<Option<(UnixListener, Option<PathBuf>)>> {
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    if number(PID) != Some(std::process::id()) {
        return Ok(None);
    }
    match number(COUNT) {
        None | Some(0) => return Ok(None),
        Some(1) => {}
        Some(_) => return Err(io::Error::other("more than one socket was passed")),
    }
    process::keep_descriptors_from_programs()?;
    let socket = inherited()?.into_iter().find(|socket| socket.as_raw_fd() == FIRST);
    let socket = socket.ok_or_else(|| io::Error::other("no socket was passed"))?;
    let listener = UnixListener::from(socket);
    // Fails for what is no socket of this family.
    let path = listener.local_addr()?.as_pathname().map(PathBuf::from);
    Ok(Some((listener, path)))
}

#[allow(unsafe_code)] // descriptors that are known by number only
fn inherited() -> io::Result<Vec<OwnedFd>> {
    // SAFETY: this is called before the process has opened any file.
    unsafe { process::inherited_descriptors() }
}

/// Removes the manager's variables from the environment of `command`.
pub fn hide(command: Command) -> Command {
    [PID, COUNT, NAMES].into_iter().fold(command, Command::env_remove)
}
