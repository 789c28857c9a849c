//! Clients of the attach socket.

use std::fs;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

use crate::engine::{CID, Engine, Started, limit};
use crate::{TIMEOUT, eventually};

/// A client, on a socket of packets.
struct Client(UnixStream);

impl Client {
    fn connect(path: &Path) -> Self {
        let socket: OwnedFd =
            socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        let timeout = TimeVal::new(TIMEOUT.as_secs().try_into().unwrap(), 0);
        setsockopt(&socket, sockopt::ReceiveTimeout, &timeout).unwrap();
        connect(socket.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
        Self(socket.into())
    }

    fn of(engine: &Started) -> Self {
        Self::connect(&engine.path("links").join(CID).join("attach"))
    }

    fn send(&self, bytes: &[u8]) {
        let sent = send(self.0.as_raw_fd(), bytes, MsgFlags::empty()).unwrap();
        assert_eq!(sent, bytes.len());
    }

    fn end_input(&self) {
        self.0.shutdown(Shutdown::Write).unwrap();
    }

    /// The next packet: its stream and its bytes. `None` at the end.
    fn packet(&self) -> Option<(u8, Vec<u8>)> {
        let mut buffer = vec![0; 10_000];
        let count = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
        assert!(count <= 8193);
        buffer.truncate(count);
        let (stream, bytes) = buffer.split_first()?;
        Some((*stream, bytes.to_vec()))
    }

    /// All that comes to the end, by stream.
    fn rest(&self) -> [String; 2] {
        let mut streams = [Vec::new(), Vec::new()];
        while let Some((stream, bytes)) = self.packet() {
            streams[usize::from(stream - 2)].extend(bytes);
        }
        streams.map(|bytes| String::from_utf8(bytes).unwrap())
    }
}

#[test]
fn a_client_that_waits_for_the_start_gets_all_output() {
    let words = ["-e", "--exec-process-spec", "/s", "--api-version", "--exec-attach"];
    let container = "echo out; echo err >&2; exit 3";
    let mut engine = Engine::new(container, &words).with_attach_pipe().start();
    assert_eq!(engine.attach.take().unwrap().number(), 0);
    let client = Client::of(&engine);
    engine.go_on();
    assert_eq!(client.rest(), ["out\n", "err\n"]);
    // The clients are closed before the exit file is there, which the caller waits for.
    assert_eq!(engine.exit_file(), "3");
}

#[test]
fn every_client_writes_the_input_and_the_end_of_one_closes_it() {
    let mut engine = Engine::new("cat", &["-i"]).start();
    assert!(engine.sync.number() > 0);
    let clients = [Client::of(&engine), Client::of(&engine)];
    clients[0].send(b"one\n");
    assert_eq!(clients[1].packet(), Some((2, b"one\n".to_vec())));
    clients[1].send(b"two\n");
    clients[1].end_input();
    for client in &clients {
        let [out, err] = client.rest();
        assert!(out.ends_with("two\n") && err.is_empty(), "{out}");
    }
    assert_eq!(engine.exit_file(), "0");
    assert_eq!(engine.log(), ["stdout F one", "stdout F two"]);
}

#[test]
fn the_input_stays_open_if_that_is_wanted() {
    let mut engine = Engine::new("cat", &["-i", "--leave-stdin-open"]).start();
    let pid = engine.sync.number();
    let first = Client::of(&engine);
    first.send(b"one\n");
    first.end_input();
    let second = Client::of(&engine);
    second.send(b"two\n");
    eventually("both lines are logged", || engine.log().len() == 2);
    engine.signal(pid, nix::sys::signal::Signal::SIGKILL);
    assert_eq!(engine.exit_file(), "137");
}

#[test]
fn a_client_that_has_gone_leaves_no_descriptor() {
    let mut engine =
        Engine::new("while [ -e container ] && ! [ -e go ]; do sleep 0.01; done", &[]).start();
    assert!(engine.sync.number() > 0);
    let monitor = engine.monitor();
    let descriptors = || fs::read_dir(format!("/proc/{monitor}/fd")).unwrap().count();
    let clients: Vec<Client> = (0..50).map(|_| Client::of(&engine)).collect();
    eventually("the clients are attached", || descriptors() > 50);
    drop(clients);
    eventually("nothing is left of them", || descriptors() < 20);
    fs::write(engine.path("go"), "").unwrap();
    engine.exit_file();
}

#[test]
fn a_client_that_no_descriptor_is_left_for_is_attached_once_there_is_one() {
    let mut engine = Engine::new("cat", &["-i"]).start();
    assert!(engine.sync.number() > 0);
    let first = Client::of(&engine);
    first.send(b"one\n");
    assert_eq!(first.packet(), Some((2, b"one\n".to_vec())));
    let monitor = engine.monitor();
    let tries = || {
        let status = fs::read_to_string(format!("/proc/{monitor}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.unwrap().trim().parse::<u64>().unwrap()
    };
    // No further one, also if a file is closed meanwhile.
    limit(monitor, 3);
    let before = tries();
    let second = Client::of(&engine);
    eventually("it is tried again", || tries() >= before + 5);
    limit(monitor, 1000);
    // No further client comes.
    second.send(b"two\n");
    assert_eq!(second.packet(), Some((2, b"two\n".to_vec())));
    second.end_input();
    assert_eq!(first.rest(), ["two\n", ""]);
    assert_eq!(engine.exit_file(), "0");
}

#[test]
fn a_client_that_does_not_read_holds_up_neither_the_container_nor_its_log() {
    let container = "i=0; while [ $i -lt 20000 ]; do echo \"line $i of many that are written\"
        i=$((i + 1)); done";
    let mut engine = Engine::new(container, &["-i"]).start();
    let _client = {
        assert!(engine.sync.number() > 0);
        Client::of(&engine)
    };
    assert_eq!(engine.exit_file(), "0");
    // A line that came in two reads is two records.
    let ends = engine.log().iter().filter(|record| record.starts_with("stdout F ")).count();
    assert_eq!(ends, 20_000);
}
