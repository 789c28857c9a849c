//! The socket of journald, and the entries that wait for it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use tracing::{debug, warn};

/// How many bytes of entries wait at most.
const QUEUE: usize = 1 << 20;

/// How often a socket that is gone is tried again.
const CONNECT_AGAIN: Duration = Duration::from_secs(1);

/// How long entries wait for a journald that does not listen, as while it is restarted.
const RESTART: Duration = Duration::from_secs(10);

/// `MSG_DONTWAIT`, and no SIGPIPE.
const FLAGS: MsgFlags = MsgFlags::MSG_DONTWAIT.union(MsgFlags::MSG_NOSIGNAL);

/// What has become of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    /// It was sent, or waits in the queue.
    Taken,
    /// There is no journald: it is lost.
    Lost,
    /// The queue is full.
    Full,
}

/// An entry that waits.
#[derive(Debug)]
struct Waiting {
    entry: Box<[u8]>,
    /// How many of the child's bytes it carries.
    carries: usize,
}

/// Whether there is a journald.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It was never there. It is looked for again at this instant.
    Never(Option<Instant>),
    Connected,
    /// It does not listen, since this instant. It may be restarted, and entries wait.
    Restarting(Instant),
    /// It is gone. It is looked for again at this instant.
    Gone(Instant),
}

#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    /// Connected again and again: the descriptor, and so its registration, stays.
    socket: Option<UnixDatagram>,
    state: State,
    queue: VecDeque<Waiting>,
    queued: usize,
}

/// Why an entry was not sent.
#[derive(Debug)]
enum Refusal {
    /// The queue of journald is full.
    Busy,
    /// No process listens, or the socket is gone.
    NotThere,
    /// This entry can't be sent at all.
    Failed(Errno),
}

impl Socket {
    pub(super) fn new(path: PathBuf) -> Self {
        let (queue, queued) = (VecDeque::new(), 0);
        Self { path, socket: None, state: State::Never(None), queue, queued }
    }

    /// Sends an entry, or has it wait behind those that wait already.
    pub(super) fn put(&mut self, entry: &[IoSlice<'_>], carries: usize) -> Put {
        if !self.connect() {
            return if matches!(self.state, State::Restarting(_)) {
                self.enqueue(entry, carries)
            } else {
                Put::Lost
            };
        }
        if !self.queue.is_empty() {
            return self.enqueue(entry, carries);
        }
        match self.send_or_reconnect(entry) {
            Ok(()) => Put::Taken,
            Err(Refusal::Busy) => self.enqueue(entry, carries),
            Err(Refusal::NotThere) => self.put_without(entry, carries),
            Err(Refusal::Failed(error)) => {
                warn!("cannot send an entry to the journal: {error}; it is lost");
                Put::Lost
            }
        }
    }

    fn put_without(&mut self, entry: &[IoSlice<'_>], carries: usize) -> Put {
        match self.state {
            State::Restarting(_) => self.enqueue(entry, carries),
            _ => Put::Lost,
        }
    }

    fn enqueue(&mut self, entry: &[IoSlice<'_>], carries: usize) -> Put {
        let size: usize = entry.iter().map(|part| part.len()).sum();
        if !self.queue.is_empty() && self.queued + size > QUEUE {
            return Put::Full;
        }
        let entry = entry.iter().flat_map(|part| part.iter().copied()).collect();
        self.queue.push_back(Waiting { entry, carries });
        self.queued += size;
        Put::Taken
    }

    /// Sends what waits. Returns how many of the child's bytes are lost with a journald that is
    /// gone.
    pub(super) fn flush(&mut self) -> u64 {
        let mut lost = 0;
        while let Some(Waiting { entry, carries }) = self.queue.pop_front() {
            let outcome = match self.connect() {
                true => self.send_or_reconnect(&[IoSlice::new(&entry)]),
                false => Err(Refusal::NotThere),
            };
            match outcome {
                Ok(()) => {}
                Err(Refusal::Failed(error)) => {
                    warn!("cannot send an entry to the journal: {error}; it is lost");
                    lost += carries as u64;
                }
                Err(Refusal::NotThere) if !matches!(self.state, State::Restarting(_)) => {
                    lost += carries as u64;
                }
                Err(Refusal::Busy | Refusal::NotThere) => {
                    self.queue.push_front(Waiting { entry, carries });
                    return lost;
                }
            }
            self.queued -= entry.len();
        }
        self.queue.shrink_to_fit();
        lost
    }

    /// Gives up what waits; returns how many of the child's bytes.
    pub(super) fn give_up(&mut self) -> u64 {
        self.queued = 0;
        std::mem::take(&mut self.queue).iter().map(|waiting| waiting.carries as u64).sum()
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The descriptor to wait for; `None` if nothing waits, or for a journald that does not listen.
    pub(super) fn waits_on(&self) -> Option<BorrowedFd<'_>> {
        let socket = self.socket.as_ref().filter(|_| self.is_waiting())?;
        (self.state == State::Connected).then(|| socket.as_fd())
    }

    /// Connects if that is due; returns whether the socket is connected.
    fn connect(&mut self) -> bool {
        let now = Instant::now();
        match self.state {
            State::Connected => return true,
            State::Never(Some(at)) | State::Gone(at) if now < at => return false,
            State::Never(_) | State::Gone(_) | State::Restarting(_) => {}
        }
        match self.try_connect() {
            Ok(()) => {
                self.state = State::Connected;
                true
            }
            Err(error) => {
                self.not_connected(&error, now);
                false
            }
        }
    }

    fn try_connect(&mut self) -> io::Result<()> {
        let socket = match &self.socket {
            Some(socket) => socket,
            None => self.socket.insert(UnixDatagram::unbound()?),
        };
        socket.connect(&self.path)
    }

    fn not_connected(&mut self, error: &io::Error, now: Instant) {
        let again = now + CONNECT_AGAIN;
        let refused = error.kind() == io::ErrorKind::ConnectionRefused;
        let path = self.path.display();
        self.state = match self.state {
            State::Never(at) => {
                if at.is_none() {
                    debug!("no journal at {path}: {error}");
                }
                State::Never(Some(again))
            }
            State::Connected if refused => State::Restarting(now),
            State::Restarting(since) if refused && now.duration_since(since) < RESTART => return,
            State::Connected | State::Restarting(_) => {
                warn!(
                    "the journal at {path} is gone: {error}; its entries are lost until it is back"
                );
                State::Gone(again)
            }
            State::Gone(_) => State::Gone(again),
        };
    }

    /// Sends an entry, after a restart of journald on a new connection.
    fn send_or_reconnect(&mut self, entry: &[IoSlice<'_>]) -> Result<(), Refusal> {
        match self.send(entry) {
            Err(Refusal::NotThere) => {
                let now = Instant::now();
                match self.try_connect() {
                    Ok(()) => self.send(entry),
                    Err(error) => {
                        self.not_connected(&error, now);
                        Err(Refusal::NotThere)
                    }
                }
            }
            outcome => outcome,
        }
    }

    fn send(&self, entry: &[IoSlice<'_>]) -> Result<(), Refusal> {
        let Some(socket) = &self.socket else { return Err(Refusal::NotThere) };
        let outcome = match send(socket, entry, &[]) {
            // Larger than a datagram may be, or than the buffer of the socket.
            Err(Errno::EMSGSIZE) => send_file(socket, entry),
            outcome => outcome,
        };
        outcome.map_err(|error| match error {
            Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM => Refusal::Busy,
            Errno::ECONNREFUSED
            | Errno::ENOTCONN
            | Errno::ECONNRESET
            | Errno::EPIPE
            | Errno::EDESTADDRREQ
            | Errno::ENOENT => Refusal::NotThere,
            error => Refusal::Failed(error),
        })
    }
}

fn send(
    socket: &UnixDatagram,
    data: &[IoSlice<'_>],
    control: &[ControlMessage<'_>],
) -> nix::Result<()> {
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), data, control, FLAGS, None) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Sends an entry as a file in memory, sealed against changes: journald refuses another.
fn send_file(socket: &UnixDatagram, entry: &[IoSlice<'_>]) -> nix::Result<()> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create("journal-entry", flags)?);
    for part in entry {
        let written = file.write_all(part);
        written.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    }
    let seals = SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    send(socket, &[], &[ControlMessage::ScmRights(&[file.as_raw_fd()])])
}

/// Where journald listens.
pub(super) fn default_path() -> &'static Path {
    Path::new("/run/systemd/journal/socket")
}
