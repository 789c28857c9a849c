//! The attach socket of a container, `BUNDLE/attach`, and the link that leads to it.

use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{UnlinkatFlags, unlinkat};
use tracing::{debug, info, warn};
use vmon::monitor::{EndOfInput, Service, ServiceContext, Transition};
use vmon::reactor::{Interest, Ready, SourceId};

use crate::failure::Failure;

/// The name of the socket in the bundle.
const NAME: &str = "attach";

/// How many clients may wait for being accepted.
const BACKLOG: i32 = 64;

/// How many clients are accepted in one turn of the loop.
const AT_ONCE: i32 = BACKLOG;

/// The time to the next attempt when a client can't be accepted.
const AGAIN: Duration = Duration::from_millis(100);

/// What is left to be removed when the container has ended: the socket, and the link.
#[derive(Debug, Clone)]
pub struct Paths {
    socket: PathBuf,
    link: Option<PathBuf>,
}

impl Paths {
    /// Removes both.
    pub fn remove(&self) {
        remove(&self.socket);
        self.link.iter().for_each(|link| remove(link));
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            debug!("can't remove {}: {error}", path.display());
        }
        _ => {}
    }
}

/// A socket of sequenced packets. Clients wait in its queue until the container is monitored.
#[derive(Debug)]
pub struct AttachSocket {
    /// Its accept(2) serves sockets of packets as well.
    listener: UnixListener,
    end_of_input: EndOfInput,
    source: Option<SourceId>,
    /// Whether the last client could not be accepted, for want of a descriptor for example. A timer
    /// is set then: no edge reports a client that waits already.
    refusing: bool,
}

impl AttachSocket {
    /// Listens in the bundle, in the place of an earlier socket. With `link_at`, a directory and a
    /// name, a link of that name leads to the bundle.
    ///
    /// # Errors
    ///
    /// The socket or the link can't be made.
    pub fn listen(
        bundle: &Path,
        link_at: Option<(&Path, &OsStr)>,
        end_of_input: EndOfInput,
    ) -> Result<(Self, Paths), Failure> {
        let path = bundle.join(NAME);
        let listener = listen_in(bundle)
            .map_err(Failure::of(format!("can't make the socket {}", path.display())))?;
        let link = link_at.map(|(directory, name)| make_link(directory, name, bundle));
        let paths = Paths { socket: path, link: link.transpose()? };
        Ok((Self { listener, end_of_input, source: None, refusing: false }, paths))
    }

    /// Accepts the clients that wait.
    fn accept(&mut self, cx: &mut ServiceContext<'_, '_>) {
        for _ in 0..AT_ONCE {
            match self.listener.accept() {
                Ok((client, _)) => {
                    self.refusing = false;
                    if let Err((error, _)) = cx.attach_packets(client.into(), self.end_of_input) {
                        info!("a client can't attach: {error}");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.refusing = false;
                    return self
                        .source
                        .into_iter()
                        .for_each(|it| cx.would_block(it, Interest::READ));
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.refusing, true) {
                        warn!("can't accept a client for now: {error}");
                    }
                    self.source.into_iter().for_each(|it| cx.would_block(it, Interest::READ));
                    cx.set_timer(AGAIN, 0);
                    return;
                }
            }
        }
    }
}

/// Through the descriptor of the directory, so that its path may be longer than a socket's address.
fn listen_in(bundle: &Path) -> io::Result<UnixListener> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_PATH | OFlag::O_CLOEXEC;
    let directory = open(bundle, flags, Mode::empty())?;
    match unlinkat(&directory, NAME, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener: OwnedFd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    let address =
        UnixAddr::new(format!("/proc/self/fd/{}/{NAME}", directory.as_raw_fd()).as_str())?;
    // The mode is 0700 from the start.
    let before = umask(Mode::S_IRWXG | Mode::S_IRWXO);
    let bound = bind(listener.as_raw_fd(), &address);
    umask(before);
    bound?;
    listen(&listener, Backlog::new(BACKLOG)?)?;
    Ok(listener.into())
}

/// Makes a link to the bundle, in the place of an earlier one.
fn make_link(directory: &Path, name: &OsStr, bundle: &Path) -> Result<PathBuf, Failure> {
    let link = directory.join(name);
    let make = || {
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        symlink(bundle, &link)
    };
    make().map_err(Failure::of(format!("can't make the link {}", link.display())))?;
    Ok(link)
}

impl Service for AttachSocket {
    fn open(
        &mut self,
        cx: &mut ServiceContext<'_, '_>,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.source = Some(cx.register(&self.listener, Interest::READ, 0)?);
        Ok(())
    }

    fn ready(&mut self, _: u32, _: Ready, cx: &mut ServiceContext<'_, '_>) {
        if self.refusing {
            return self.source.into_iter().for_each(|it| cx.would_block(it, Interest::READ));
        }
        self.accept(cx);
    }

    fn timer(&mut self, _: u32, cx: &mut ServiceContext<'_, '_>) {
        self.accept(cx);
    }

    fn transition(&mut self, transition: &Transition, cx: &mut ServiceContext<'_, '_>) {
        // Those that wait for the start get all output, however soon the container ends.
        if matches!(transition, Transition::Running { .. }) {
            self.accept(cx);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};

    use super::*;

    #[test]
    fn the_socket_is_private_and_its_directory_may_have_a_long_path() {
        let scratch = tempfile::tempdir().unwrap();
        let bundle = scratch.path().join("b".repeat(200));
        fs::create_dir(&bundle).unwrap();
        fs::write(bundle.join(NAME), "").unwrap();
        let links = scratch.path().join("links");
        fs::create_dir(&links).unwrap();
        symlink("elsewhere", links.join("id")).unwrap();
        let link_at = Some((links.as_path(), OsStr::new("id")));
        let (_socket, paths) = AttachSocket::listen(&bundle, link_at, EndOfInput::Ignored).unwrap();
        let made = fs::metadata(links.join("id").join(NAME)).unwrap();
        assert!(made.file_type().is_socket());
        assert_eq!(made.permissions().mode() & 0o7777, 0o700);
        paths.remove();
        assert!(!bundle.join(NAME).exists() && fs::symlink_metadata(links.join("id")).is_err());
        paths.remove();
    }

    #[test]
    fn a_missing_directory_is_named() {
        let scratch = tempfile::tempdir().unwrap();
        let none = scratch.path().join("none");
        let error = AttachSocket::listen(&none, None, EndOfInput::Ignored).unwrap_err();
        assert!(error.to_string().contains("none/attach: "), "{error}");
        let link_at = Some((none.as_path(), OsStr::new("id")));
        let error = AttachSocket::listen(scratch.path(), link_at, EndOfInput::Ignored).unwrap_err();
        assert!(error.to_string().starts_with("can't make the link "), "{error}");
    }
}
