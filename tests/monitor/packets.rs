//! Clients on packet sockets, with the framing of conmon: what each gets, how many there may be, and
//! what becomes of those that have gone.

mod input;
mod slow;

use std::cell::RefCell;
use std::error::Error;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, recv, send, shutdown, socketpair,
};
use nix::sys::stat::fstat;
use vmon::child::{Command, Signal};
use vmon::monitor::{
    AttachError, AttachTo, Builder, Drain, End, EndOfInput, Input, Monitor, Restart, Sandbox,
    Service, ServiceContext, Transition,
};
use vmon::reactor::{Handler, HandlerId, Reactor};

use crate::common::turning::{start_added, turn_until_asleep};
use crate::common::{self, State, TIMEOUT, assert_same, bytes_waiting, contains};

/// Connected packet sockets.
fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SockFlag::SOCK_CLOEXEC;
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap()
}

/// The other side of a client, and what has come.
struct Client {
    socket: OwnedFd,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// The sizes of the packets.
    sizes: Vec<usize>,
    ended: bool,
}

impl Client {
    fn new(socket: OwnedFd) -> Self {
        Self { socket, stdout: Vec::new(), stderr: Vec::new(), sizes: Vec::new(), ended: false }
    }

    /// Takes a packet, if one is there.
    fn read_one(&mut self) -> bool {
        let mut buffer = [0; 16 << 10];
        match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => self.ended = true,
            Ok(count) => {
                let stream = match buffer[0] {
                    2 => &mut self.stdout,
                    3 => &mut self.stderr,
                    other => panic!("a packet of stream {other}"),
                };
                stream.extend_from_slice(&buffer[1..count]);
                self.sizes.push(count);
                return true;
            }
            Err(Errno::EAGAIN) => {}
            Err(error) => panic!("{error}"),
        }
        false
    }

    /// Takes what is there.
    fn read(&mut self) {
        while self.read_one() {}
    }

    fn try_send(&self, bytes: &[u8]) -> bool {
        match send(self.socket.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT) {
            Ok(count) => assert_eq!(count, bytes.len()),
            Err(Errno::EAGAIN) => return false,
            Err(error) => panic!("{error}"),
        }
        true
    }

    fn send(&self, bytes: &[u8]) {
        assert!(self.try_send(bytes));
    }

    fn half_close(&self) {
        shutdown(self.socket.as_raw_fd(), Shutdown::Write).unwrap();
    }
}

/// A sandbox whose child takes input from clients.
struct Host {
    state: State,
    reactor: Reactor<Monitor>,
    id: HandlerId,
}

impl Host {
    fn new(script: &str) -> Self {
        Self::with(script, false, |sandbox| sandbox, |builder| builder)
    }

    fn with(
        script: &str,
        pty: bool,
        describe: impl FnOnce(Sandbox) -> Sandbox,
        build: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let state = State::new();
        let sandbox = Sandbox::new("a", state.path().join("log")).unwrap().input(Input::Attached);
        let mut reactor = Reactor::new().unwrap();
        let gate = state.file("gate").display().to_string();
        let command = Command::new("sh").args(["-c", script, "sh", &gate]).pty(pty);
        let id = build(Monitor::builder(describe(sandbox))).spawn(&mut reactor, command);
        start_added(&mut reactor);
        Self { state, reactor, id }
    }

    #[track_caller]
    fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let give_up = Instant::now() + TIMEOUT;
        while !holds(self) {
            assert!(Instant::now() < give_up, "it never came: {what}");
            self.reactor.poll_once(Some(Duration::from_millis(5))).unwrap();
        }
    }

    #[track_caller]
    fn until_logged(&mut self, bytes: &[u8]) {
        self.until("it is in the log", |host| contains(&host.state.log("a"), bytes));
    }

    #[track_caller]
    fn until_seen(&mut self, client: &mut Client, bytes: &str) {
        self.until(&format!("the client sees {bytes:?}"), |_| {
            client.read();
            contains(&client.stdout, bytes.as_bytes())
        });
    }

    /// Lets the script go on that waits for the file `gate`.
    fn open_gate(&self) {
        fs::write(self.state.file("gate"), "").unwrap();
    }

    fn try_attach(&mut self, socket: OwnedFd, end: EndOfInput) -> Result<(), AttachError> {
        let attached = self.reactor.call(self.id, |it, cx| it.attach_packets(socket, end, cx));
        attached.unwrap().map(|_| ()).map_err(|(error, _)| error)
    }

    #[track_caller]
    fn attach(&mut self, end: EndOfInput) -> Client {
        let (ours, theirs) = pair();
        self.try_attach(ours, end).unwrap();
        Client::new(theirs)
    }

    fn monitor(&self) -> &Monitor {
        self.reactor.get(self.id).unwrap()
    }

    fn clients(&self) -> usize {
        self.monitor().report().sessions.len()
    }

    fn stop(&mut self) {
        self.reactor.call(self.id, Monitor::stop).unwrap();
    }

    /// Turns until the client has the end of its stream.
    #[track_caller]
    fn until_ended(&mut self, client: &mut Client) {
        self.until("the end of the client's stream", |_| {
            client.read();
            client.ended
        });
    }

    #[track_caller]
    fn end(mut self) -> (End, State) {
        self.until("the end", |host| host.monitor().is_done());
        (self.reactor.remove(self.id).unwrap().into_end().unwrap(), self.state)
    }
}

const CLOSES: EndOfInput = EndOfInput::ClosesStdin;
const IGNORED: EndOfInput = EndOfInput::Ignored;

#[test]
fn each_client_gets_both_streams_in_packets_of_their_own() {
    let script = "read go; seq 1 20000; seq 1 3000 >&2; read go; echo last";
    let mut host = Host::new(script);
    let (mut one, mut other) = (host.attach(IGNORED), host.attach(IGNORED));
    one.send(b"go\n");
    host.until("all of stderr", |_| {
        one.read();
        other.read();
        contains(&other.stderr, b"\n3000\n") && contains(&other.stdout, b"\n20000\n")
    });
    other.send(b"go\n");
    host.until_ended(&mut one);
    host.until_ended(&mut other);
    let lines = |last: u32| (1..=last).map(|n| format!("{n}\n")).collect::<String>();
    let stdout = lines(20_000) + "last\n";
    for client in [one, other] {
        assert_same(&client.stdout, stdout.as_bytes(), "stdout");
        assert_same(&client.stderr, lines(3_000).as_bytes(), "stderr");
        assert!(client.sizes.iter().all(|size| (2..=8193).contains(size)), "{:?}", client.sizes);
        assert!(client.sizes.contains(&8193), "{:?}", client.sizes);
    }
    assert_eq!(host.end().0.exit_code(), 0);
}

#[test]
fn the_output_of_a_terminal_is_stream_two_and_its_input_that_of_the_terminal() {
    let script = "echo up; while read line; do echo \"got $line\" >&2; done";
    let mut host = Host::with(script, true, |sandbox| sandbox, |builder| builder);
    let mut client = host.attach(IGNORED);
    client.send(b"a\n");
    host.until_seen(&mut client, "got a\r\n");
    assert!(client.stderr.is_empty());
    assert_eq!(host.monitor().report().sessions[0].to, AttachTo::Tty);
    client.send(&[4]);
    host.until_ended(&mut client);
    assert_eq!(host.end().0.exit_code(), 0);
}

#[test]
fn the_output_before_a_client_came_is_not_sent_to_it() {
    let mut host = Host::new("echo before; read go; echo after");
    host.until_logged(b"before\n");
    let mut client = host.attach(IGNORED);
    client.send(b"\n");
    host.until_ended(&mut client);
    assert_eq!(client.stdout, b"after\n");
}

/// A service that attaches a client when the child runs.
struct Listening {
    waiting: RefCell<Option<OwnedFd>>,
    left_at_end: Arc<Mutex<Option<usize>>>,
}

impl Service for Listening {
    fn open(
        &mut self,
        cx: &mut ServiceContext<'_, '_>,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let client = self.waiting.take().unwrap();
        let (error, client) = cx.attach_packets(client, IGNORED).unwrap_err();
        assert!(matches!(error, AttachError::NotRunning));
        self.waiting.replace(Some(client));
        Ok(())
    }

    fn transition(&mut self, transition: &Transition, cx: &mut ServiceContext<'_, '_>) {
        match transition {
            Transition::Running { .. } => {
                cx.attach_packets(self.waiting.take().unwrap(), IGNORED).unwrap();
            }
            Transition::Stopped { .. } => {
                *self.left_at_end.lock().unwrap() = Some(cx.report().sessions.len());
            }
            _ => {}
        }
    }
}

#[test]
fn a_client_that_waits_for_the_start_misses_nothing_and_is_closed_before_the_end_is_reported() {
    let (ours, theirs) = pair();
    let left_at_end = Arc::default();
    let service =
        Listening { waiting: RefCell::new(Some(ours)), left_at_end: Arc::clone(&left_at_end) };
    let build = |builder: Builder| builder.service(service);
    let mut host = Host::with("echo first; exit 5", false, |sandbox| sandbox, build);
    let mut client = Client::new(theirs);
    host.until_ended(&mut client);
    assert_eq!(client.stdout, b"first\n");
    assert_eq!(host.end().0.exit_code(), 5);
    assert_eq!(*left_at_end.lock().unwrap(), Some(0));
}

#[test]
fn clients_that_came_and_went_leave_no_descriptor_and_wake_nothing_up() {
    let mut host = Host::new("cat");
    let inode = |socket: &OwnedFd| fstat(socket).unwrap().st_ino;
    let open_sockets = || {
        let files = fs::read_dir("/proc/self/fd").unwrap().flatten();
        files.filter_map(|file| fs::read_link(file.path()).ok()).collect::<Vec<_>>()
    };
    let mut inodes = Vec::new();
    for n in 0..50 {
        let (ours, theirs) = pair();
        inodes.push(inode(&ours));
        host.try_attach(ours, IGNORED).unwrap();
        let client = Client::new(theirs);
        match n % 3 {
            0 => client.half_close(),
            1 => client.send(b"unread\n"),
            _ => {}
        }
        if n % 2 == 0 {
            host.reactor.poll_once(Some(Duration::ZERO)).unwrap();
        }
    }
    host.until("all are closed", |host| host.clients() == 0);
    let open = open_sockets();
    let left = inodes.iter().map(|inode| format!("socket:[{inode}]"));
    let left: Vec<_> =
        left.filter(|name| open.iter().any(|it| it.as_os_str() == &**name)).collect();
    assert!(left.is_empty(), "{left:?}");
    // One that is idle, and one that is half-closed.
    let (_idle, half) = (host.attach(IGNORED), host.attach(IGNORED));
    half.half_close();
    turn_until_asleep(&mut host.reactor);
    assert_eq!(host.clients(), 2);
    drop(half);
    host.until("it is closed", |host| host.clients() == 1);
    host.stop();
    host.end();
}

#[test]
fn at_most_1024_clients_are_attached_and_those_that_have_gone_do_not_count() {
    common::run_host(&State::new(), hosts::MODULE, "attaches_many", hosts::DIRECTORY, |_| {});
}

/// Hosts in a process of their own: the file limit is that of the process.
mod hosts {
    use super::*;

    pub const MODULE: &str = module_path!();
    pub const DIRECTORY: &str = "VMON_TEST_PACKETS_HOST";

    #[test]
    #[ignore = "a host, run by other tests"]
    fn attaches_many() {
        if std::env::var_os(DIRECTORY).is_none() {
            return;
        }
        vmon::process::raise_file_limit().unwrap();
        // It takes no input, so the clients are not read once its pipe is full.
        let mut host = Host::new("echo up; exec sleep 1000");
        let mut clients: Vec<_> = (0..1024).map(|_| host.attach(IGNORED)).collect();
        let refused = host.try_attach(pair().0, IGNORED);
        assert!(matches!(refused, Err(AttachError::TooMany(1024))), "{refused:?}");
        assert_eq!(host.clients(), 1024);
        let piece = [b'x'; 32 << 10];
        let mut accepted = 0;
        while clients[0].try_send(&piece) {
            accepted += 1;
            host.reactor.poll_once(Some(Duration::ZERO)).unwrap();
        }
        assert!(accepted > 2);
        clients.iter().skip(1).for_each(|client| {
            client.try_send(b"unread");
        });
        turn_until_asleep(&mut host.reactor);
        clients.truncate(1000);
        let client = host.attach(IGNORED);
        assert_eq!(host.clients(), 1001);
        drop(client);
        host.stop();
        clients.iter_mut().for_each(|client| host.until_ended(client));
        host.end();
    }
}

#[test]
fn clients_stay_attached_when_the_command_is_started_again() {
    let describe = |sandbox: Sandbox| sandbox.restart(Restart::OnFailure { max: Some(1) });
    let script = "echo begun; read line; echo \"got $line\"; exit 1";
    let mut host = Host::with(script, false, describe, |builder| builder);
    host.until_logged(b"begun\n");
    let mut client = host.attach(CLOSES);
    client.send(b"a\n");
    host.until_seen(&mut client, "got a\nbegun\n");
    client.send(b"b\n");
    host.until_ended(&mut client);
    assert_eq!(client.stdout, b"got a\nbegun\ngot b\n");
    assert_eq!(host.end().0.exit_code(), 1);
}

#[test]
fn a_socket_of_another_type_and_a_sandbox_without_a_child_are_refused() {
    let mut host = Host::new("read go");
    let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let refused = host.try_attach(stream.into(), IGNORED);
    assert!(matches!(refused, Err(AttachError::NoPacketSocket)), "{refused:?}");
    let client = host.attach(CLOSES);
    client.half_close();
    host.until("the end", |host| host.monitor().is_done());
    let (ours, _theirs) = pair();
    let refused = host.try_attach(ours, IGNORED);
    assert!(matches!(refused, Err(AttachError::NotRunning)), "{refused:?}");
    let exit_code = host.end().0.exit_code();
    assert_eq!(exit_code, 1, "read at end of file");
}
