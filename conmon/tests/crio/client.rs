//! `AttachContainer`: the control FIFO, then the attach socket.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::sys::socket::MsgFlags;
use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockType, UnixAddr, connect, recv, send, setsockopt,
    shutdown, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::common::{TIMEOUT, contains, text};
use crate::engine::{Container, Watch};

/// The largest packet: one byte for the stream, and 8 KiB.
pub const PACKET: usize = 8193;

/// One attached client.
pub struct Client {
    control: File,
    socket: Arc<OwnedFd>,
    /// What has come, by stream.
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Client {
    #[track_caller]
    pub fn attach(container: &Container) -> Self {
        let control = control(container);
        let kind = SockType::SeqPacket;
        let socket = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
        let path = container.engine.sockets().join(&container.id).join("attach");
        // The directory of the socket is a link to the bundle, which is short enough for an address.
        connect(socket.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        let timeout = TimeVal::new(TIMEOUT.as_secs() as i64, 0);
        setsockopt(&socket, sockopt::ReceiveTimeout, &timeout).unwrap();
        setsockopt(&socket, sockopt::SendTimeout, &timeout).unwrap();
        Self { control, socket: Arc::new(socket), stdout: Vec::new(), stderr: Vec::new() }
    }

    /// Makes little room for packets that are not read.
    pub fn with_little_room(self) -> Self {
        setsockopt(&*self.socket, sockopt::RcvBuf, &4096).unwrap();
        self
    }

    pub fn resize(&mut self, rows: u16, columns: u16) {
        self.control.write_all(format!("1 {rows} {columns}\n").as_bytes()).unwrap();
    }

    /// The way in, for a thread of its own.
    pub fn input(&self) -> Input {
        Input(Arc::clone(&self.socket))
    }

    #[track_caller]
    pub fn send(&self, bytes: &[u8]) {
        self.input().send(bytes);
    }

    pub fn close_input(&self) {
        self.input().close();
    }

    /// Takes one packet; whether it was not the end.
    #[track_caller]
    pub fn receive(&mut self) -> bool {
        let mut packet = [0; 2 * PACKET];
        let count = match recv(self.socket.as_raw_fd(), &mut packet, MsgFlags::empty()) {
            Ok(0) | Err(nix::errno::Errno::ECONNRESET) => return false,
            Ok(count) => count,
            Err(error) => {
                panic!("{error}: stdout {}, stderr {}", text(&self.stdout), text(&self.stderr))
            }
        };
        assert!(count <= PACKET, "CRI-O would have lost the end of a packet of {count} bytes");
        match packet[0] {
            2 => self.stdout.extend(&packet[1..count]),
            3 => self.stderr.extend(&packet[1..count]),
            other => panic!("stream {other}"),
        }
        true
    }

    /// The last of what has come, for a message.
    fn last(&self) -> String {
        let last = |bytes: &[u8]| text(&bytes[bytes.len().saturating_sub(100)..]);
        format!("stdout …{:?}, stderr …{:?}", last(&self.stdout), last(&self.stderr))
    }

    #[track_caller]
    pub fn wait_for(&mut self, piece: &str) {
        while !contains(&self.stdout, piece.as_bytes()) {
            assert!(self.receive(), "{piece:?} never came: {}", self.last());
        }
    }

    /// Takes all that comes until the monitor closes the socket.
    #[track_caller]
    pub fn rest(&mut self) {
        while self.receive() {}
    }
}

/// What a client writes.
pub struct Input(Arc<OwnedFd>);

impl Input {
    #[track_caller]
    pub fn send(&self, bytes: &[u8]) {
        for packet in bytes.chunks(32 * 1024) {
            let sent = send(self.0.as_raw_fd(), packet, MsgFlags::MSG_NOSIGNAL).unwrap();
            assert_eq!(sent, packet.len());
        }
    }

    /// The end of the client's input.
    pub fn close(&self) {
        shutdown(self.0.as_raw_fd(), Shutdown::Write).unwrap();
    }
}

/// The control FIFO, opened as CRI-O does: it would block without a reader.
#[track_caller]
pub fn control(container: &Container) -> File {
    OpenOptions::new().write(true).open(container.bundle().join("ctl")).unwrap()
}

/// `ReopenContainerLog`: returns when an event of exactly the log's path has come.
#[track_caller]
pub fn reopen_log(container: &Container) {
    let mut control = control(container);
    let path = container.log_path();
    let watch = Watch::of(path.parent().unwrap());
    control.write_all(b"2 0 0\n").unwrap();
    watch.wait_for(path.file_name().unwrap().to_str().unwrap(), true);
}
