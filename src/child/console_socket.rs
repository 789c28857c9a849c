//! The console socket of OCI runtimes: how a program that makes a container hands over the master
//! of the container's terminal (the document "Terminals" of runc). Linux only.

use std::fs;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::cmsg_space;
use nix::pty::Winsize;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::stat::fstat;

use super::pty::resize;
use super::stdio::ChildIo;

/// A socket at a path, which a runtime connects to (`--console-socket`) in order to send the
/// master of a PTY. Dropping it removes the path.
///
/// Readable ([`AsFd`]) once a runtime has connected.
#[derive(Debug)]
pub struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ConsoleSocket {
    /// Listens at `path`, which must not exist. Who may connect is decided by the directory, and
    /// by the umask.
    ///
    /// # Errors
    ///
    /// Those of bind(2); the path is longer than a socket's address may be.
    pub fn bind(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let listener = UnixListener::bind(&path)?;
        let socket = Self { listener, path };
        socket.listener.set_nonblocking(true)?;
        Ok(socket)
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the connection of a runtime, if one has connected. Never waits.
    ///
    /// # Errors
    ///
    /// Those of accept(2); no runtime has connected is none.
    pub fn accept(&self) -> io::Result<Option<ConsoleConnection>> {
        match self.listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                Ok(Some(ConsoleConnection { stream }))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for ConsoleSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        // It may have been removed already.
        let _ = fs::remove_file(&self.path);
    }
}

/// The connection of a runtime to a [`ConsoleSocket`]. Readable ([`AsFd`]) once it has sent
/// something.
#[derive(Debug)]
pub struct ConsoleConnection {
    stream: UnixStream,
}

impl ConsoleConnection {
    /// Takes the master of the PTY, if the runtime has sent it. Never waits.
    ///
    /// The message is a name, of which nothing is used, with exactly one descriptor.
    ///
    /// # Errors
    ///
    /// [`InvalidData`](io::ErrorKind::InvalidData) for a message without a descriptor, with several
    /// ones, or with one that is no terminal;
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) for a runtime that has sent nothing; else
    /// those of recvmsg(2).
    pub fn receive(&self) -> io::Result<Option<PtyMaster>> {
        /// More descriptors than a message may have, so that each of them is seen and closed.
        const ROOM: usize = 4;
        let mut name = [0; 4096];
        let mut parts = [IoSliceMut::new(&mut name)];
        let mut space = cmsg_space!([RawFd; ROOM]);
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let socket = self.stream.as_raw_fd();
        let message = match recvmsg::<()>(socket, &mut parts, Some(&mut space), flags) {
            Ok(message) => message,
            Err(nix::errno::Errno::EAGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut received: Vec<OwnedFd> = Vec::new();
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(numbers) = control {
                // SAFETY: the kernel has just installed these descriptors for this message
                // (unix(7)), so nothing else owns them.
                received.extend(
                    numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }),
                );
            }
        }
        if message.bytes == 0 && received.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (Some(master), true) = (received.pop(), received.is_empty()) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        PtyMaster::new(master).map(Some)
    }
}

impl AsFd for ConsoleConnection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// The master of a PTY that another program has made.
#[derive(Debug)]
pub struct PtyMaster(OwnedFd);

impl PtyMaster {
    /// # Errors
    ///
    /// [`InvalidData`](io::ErrorKind::InvalidData) if the descriptor is no character device.
    fn new(master: OwnedFd) -> io::Result<Self> {
        let kind = fstat(&master)?.st_mode & libc::S_IFMT;
        if kind == libc::S_IFCHR {
            Ok(Self(master))
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }

    /// Sets the size of the terminal's window in characters (`TIOCSWINSZ`, ioctl_tty(2)). 0 is the
    /// size of a new PTY.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn resize(&self, rows: u16, columns: u16) -> io::Result<()> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        resize(self.0.as_fd(), &size)
    }
}

impl AsFd for PtyMaster {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<PtyMaster> for ChildIo {
    fn from(PtyMaster(master): PtyMaster) -> Self {
        Self::Tty { master }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{ErrorKind, IoSlice};

    use nix::sys::socket::{ControlMessage, sendmsg};

    use super::*;
    use crate::child::pty;

    /// Sends these descriptors as a runtime does.
    fn send(path: &Path, descriptors: &[RawFd]) {
        let stream = UnixStream::connect(path).unwrap();
        let parts = [IoSlice::new(b"/dev/ptmx")];
        let rights = [ControlMessage::ScmRights(descriptors)];
        let control = if descriptors.is_empty() { &[][..] } else { &rights[..] };
        sendmsg::<()>(stream.as_raw_fd(), &parts, control, MsgFlags::empty(), None).unwrap();
    }

    #[test]
    fn the_master_that_a_runtime_sends_is_received_after_the_runtime_has_gone() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("console");
        let socket = ConsoleSocket::bind(&path).unwrap();
        assert!(socket.accept().unwrap().is_none());
        let made = pty::open().unwrap();
        send(&path, &[made.master.as_raw_fd()]);
        drop(made.master);
        let master = socket.accept().unwrap().unwrap().receive().unwrap().unwrap();
        master.resize(7, 9).unwrap();
        let size = pty::window_size(made.slave.as_fd()).unwrap();
        assert_eq!((size.ws_row, size.ws_col), (7, 9));
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_message_must_have_exactly_one_descriptor_of_a_terminal() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("console");
        let socket = ConsoleSocket::bind(&path).unwrap();
        let made = pty::open().unwrap();
        let master = made.master.as_raw_fd();
        let file = File::create(scratch.path().join("file")).unwrap();
        for (sent, expected) in [
            (&[][..], ErrorKind::InvalidData),
            (&[master, master], ErrorKind::InvalidData),
            (&[file.as_raw_fd()], ErrorKind::InvalidData),
        ] {
            send(&path, sent);
            let received = socket.accept().unwrap().unwrap().receive();
            assert_eq!(received.unwrap_err().kind(), expected, "{sent:?}");
        }
        let silent = UnixStream::connect(&path).unwrap();
        let connection = socket.accept().unwrap().unwrap();
        assert!(connection.receive().unwrap().is_none());
        drop(silent);
        assert_eq!(connection.receive().unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}
