//! Clients that send invalid data, stop sending or do not read: the child and the log continue,
//! memory stays bounded, and the client gets an error.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::path::PathBuf;
use std::process::Stdio;

use std::time::Duration;

use crate::common::served::{Raw, Served, socket_of};
use crate::common::turning::start_added;
use crate::common::{
    self, Process, State, TIMEOUT, assert_same, contains, eventually, own_test, served, wait,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use vmon::control::{Client, DEFAULT_CLIENT_TIMEOUT, MAX_MESSAGE, Server};
use vmon::logfile::{LogOptions, Retention};
use vmon::monitor::{Attach, Input, Monitor, Phase, Sandbox};
use vmon::reactor::Reactor;

const SLEEP: &str = "echo up; exec sleep 1000";
const GET_STATUS: &[u8] = b"{\"method\":\"io.vmon.Monitor.GetStatus\"}\0";
const WATCH: &[u8] = b"{\"method\":\"io.vmon.Monitor.Watch\",\"more\":true}\0";

/// What clients have where a test waits for the end of it.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);

/// Counts up to this when its input begins.
const COUNT: usize = 2_000_000;

/// A host in a process of its own, whose memory and descriptors are all its own too.
struct Host {
    state: State,
    path: PathBuf,
    process: Process,
}

impl Host {
    fn start(script: &str, descriptors: u64) -> Self {
        Self::start_with_log(script, descriptors, 0)
    }

    fn start_with_log(script: &str, descriptors: u64, log_size: u64) -> Self {
        Self::start_with(script, descriptors, log_size, DEFAULT_CLIENT_TIMEOUT)
    }

    fn start_with(script: &str, descriptors: u64, log_size: u64, timeout: Duration) -> Self {
        let state = State::new();
        let path = socket_of(&state, "a");
        let process = own_test(hosts::MODULE, "serves")
            .env("VMON_TEST_SERVES", state.path())
            .env("VMON_TEST_SCRIPT", script)
            .env("VMON_TEST_DESCRIPTORS", descriptors.to_string())
            .env("VMON_TEST_LOG_SIZE", log_size.to_string())
            .env("VMON_TEST_TIMEOUT", timeout.as_millis().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map(Process)
            .unwrap();
        let host = Self { state, path, process };
        eventually("the socket is there", || host.path.exists());
        let mut client = host.client();
        eventually("the child runs", || client.status().unwrap().phase == Phase::Running);
        host
    }

    fn client(&self) -> Client {
        Client::connect(&self.path).unwrap().timeout(TIMEOUT)
    }

    /// How many clients it has accepted: their sockets have the name under which its own was made,
    /// which has its pid (proc_net(5)).
    fn connections(&self) -> usize {
        let name = format!("/.{:x}-0", self.process.id());
        let sockets = fs::read_to_string("/proc/net/unix").unwrap();
        sockets.lines().filter(|line| line.ends_with(&name)).count() - 1
    }

    /// Its own memory, in KiB.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    }

    fn stop(mut self) -> State {
        self.client().stop(None).unwrap();
        assert!(wait(&mut self.process).success());
        self.state
    }
}

mod hosts {
    use super::*;

    /// The path of these tests.
    pub const MODULE: &str = module_path!();

    #[test]
    #[ignore = "a process of its own that other tests start"]
    fn serves() {
        let Some(state) = std::env::var_os("VMON_TEST_SERVES") else { return };
        let number = std::env::var("VMON_TEST_DESCRIPTORS").unwrap().parse().unwrap();
        limit_descriptors(number);
        let script = std::env::var("VMON_TEST_SCRIPT").unwrap();
        let max_size = std::env::var("VMON_TEST_LOG_SIZE").unwrap().parse().unwrap();
        let timeout = std::env::var("VMON_TEST_TIMEOUT").unwrap().parse().unwrap();
        let timeout = Duration::from_millis(timeout);
        served::run_with_timeout(state.as_ref(), "a", &script, false, timeout, |sandbox| {
            sandbox.input(Input::Attached).log(
                LogOptions::default()
                    .retention(Retention::default().max_size(max_size).max_files(1)),
            )
        });
    }
}

fn limit_descriptors(number: u64) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, number.min(hard), hard).unwrap();
}

/// Sends as long as the peer reads.
fn pour(raw: &mut Raw, bytes: &[u8]) {
    raw.stream().set_write_timeout(Some(TIMEOUT)).unwrap();
    match raw.stream().write_all(bytes) {
        Err(error)
            if [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset].contains(&error.kind()) => {}
        sent => sent.unwrap(),
    }
}

#[test]
fn an_invalid_message_gets_an_error_and_the_connection_is_closed() {
    let host = Served::start(SLEEP);
    host.client();
    let deep = format!("{{\"method\":\"a.b\",\"parameters\":{{\"x\":{}", "[".repeat(100_000));
    let junk: [&[u8]; 8] = [
        b"\0",
        b"GET / HTTP/1.0\r\n\r\n\0",
        b"[]\0",
        b"{}\0",
        b"{\"method\":17}\0",
        b"{\"method\":\"io.vmon.Monitor.GetStatus\",\"parameters\":[]}\0",
        b"{\"method\":\"\xff\xfe\"}\0",
        &[deep.as_bytes(), b"\0"].concat(),
    ];
    for message in junk {
        let mut raw = host.raw();
        pour(&mut raw, message);
        assert_eq!(raw.error_name(), "io.vmon.Monitor.InvalidMessage", "{message:.60?}");
        assert_eq!(raw.next(), None);
    }
    assert_eq!(host.client().status().unwrap().phase, Phase::Running);
    host.stop();
}

#[test]
fn a_message_has_at_most_one_mebibyte() {
    let host = Served::start(SLEEP);
    host.client();
    let frame = GET_STATUS.len() + ",\"x\":\"\"".len();
    for (more, taken) in [(0, true), (1, false), (1 << 20, false)] {
        let filler = "x".repeat(MAX_MESSAGE - frame + more);
        let message = format!("{{\"method\":\"io.vmon.Monitor.GetStatus\",\"x\":\"{filler}\"}}\0");
        assert_eq!(message.len(), MAX_MESSAGE + more);
        let mut raw = host.raw();
        pour(&mut raw, message.as_bytes());
        if taken {
            assert_eq!(raw.next().unwrap()["parameters"]["status"]["name"], "a");
        } else {
            assert_eq!(raw.error_name(), "io.vmon.Monitor.MessageTooLong");
            assert_eq!(raw.next(), None);
        }
    }
    host.stop();
}

#[test]
fn a_message_that_stays_incomplete_times_out() {
    assert_eq!(DEFAULT_CLIENT_TIMEOUT, Duration::from_secs(30));
    let host = Served::with_timeout(SLEEP, false, CLIENT_TIMEOUT, |sandbox| sandbox);
    host.client();
    let mut raw = host.raw();
    raw.send(b"{\"method\":\"io.vmon");
    // Nor does each further byte renew the time.
    let mut slow = host.raw();
    slow.send(b"{");
    slow.stream().set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut trickle = slow.stream().try_clone().unwrap();
    let trickling = std::thread::spawn(move || {
        while trickle.write_all(b" ").is_ok() {
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    assert_eq!(raw.error_name(), "io.vmon.Monitor.MessageTimeout");
    assert_eq!(raw.next(), None);
    trickling.join().unwrap();
    assert_eq!(slow.error_name(), "io.vmon.Monitor.MessageTimeout");
    host.stop();
}

#[test]
fn incomplete_messages_are_bounded_together_and_the_largest_is_dropped() {
    let host = Served::start(SLEEP);
    host.client();
    let mut small = host.raw();
    small.send(&GET_STATUS[..10]);
    let mut large: Vec<Raw> = (0..8).map(|_| host.raw()).collect();
    for raw in &mut large {
        pour(raw, &[b' '; MAX_MESSAGE - 1]);
    }
    let mut refused = 0;
    eventually("some get the error", || {
        refused = 0;
        for raw in &mut large {
            raw.stream().set_nonblocking(true).unwrap();
            let mut byte = [0];
            let read = nix::sys::socket::recv(
                std::os::fd::AsRawFd::as_raw_fd(raw.stream()),
                &mut byte,
                nix::sys::socket::MsgFlags::MSG_PEEK,
            );
            refused += usize::from(read == Ok(1));
        }
        refused >= 4
    });
    for raw in &mut large {
        raw.stream().set_nonblocking(false).unwrap();
    }
    // The one that has done nothing wrong can finish.
    small.send(&GET_STATUS[10..]);
    assert_eq!(small.next().unwrap()["parameters"]["status"]["name"], "a");
    host.stop();
}

#[test]
fn the_client_beyond_the_limit_of_1024_is_refused_with_an_error() {
    let host = Host::start("while read line; do echo got $line; done", 4096);
    limit_descriptors(4096);
    let mut clients = Vec::new();
    let before = host.memory();
    let refused = loop {
        let mut raw = Raw::connect(&host.path);
        if let Err(error) = raw.stream().write_all(GET_STATUS) {
            assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        }
        let answer = raw.next().unwrap();
        if answer.get("error").is_some() {
            break answer;
        }
        clients.push(raw);
    };
    assert_eq!(refused["error"], "io.vmon.Monitor.TooManyConnections");
    assert_eq!(refused["parameters"]["limit"], 1024);
    assert!((1000..=1024).contains(&clients.len()), "{}", clients.len());
    // Each but one has sent a part of a message now, which is read before that one is answered.
    for raw in clients.iter_mut().skip(1) {
        raw.send(&GET_STATUS[..20]);
    }
    for _ in 0..2 {
        clients[0].send(GET_STATUS);
        assert_eq!(clients[0].next().unwrap()["parameters"]["status"]["name"], "a");
    }
    let grown = host.memory().saturating_sub(before);
    assert!(grown < 8 << 10, "{grown} KiB for {} clients", clients.len());
    for raw in clients.iter_mut().skip(1) {
        raw.send(&GET_STATUS[20..]);
        assert_eq!(raw.next().unwrap()["parameters"]["status"]["name"], "a");
    }
    drop(clients);
    eventually("they are gone", || host.connections() == 0);
    let (_, mut session) = host.client().attach(&Attach::default()).unwrap();
    session.write_all(b"one\n").unwrap();
    host.state.wait_for_log("a", b"got one\n");
    drop(session);
    host.stop();
}

#[test]
fn a_host_that_ran_out_of_descriptors_serves_again_when_some_are_free() {
    let host = Host::start("while read line; do echo got $line; done", 48);
    let (_, mut session) = host.client().attach(&Attach::default()).unwrap();
    let clients: Vec<Raw> = (0..100).map(|_| Raw::connect(&host.path)).collect();
    // Clients that are not accepted do not block the loop.
    session.write_all(b"one\n").unwrap();
    host.state.wait_for_log("a", b"got one\n");
    drop(clients);
    // Clients that wait before this one may still be accepted and found closed.
    eventually("others are served again", || {
        Client::connect(&host.path)
            .and_then(|mut client| client.status())
            .is_ok_and(|status| status.phase == Phase::Running)
    });
    drop(session);
    host.stop();
}

#[test]
fn clients_leave_the_descriptors_that_the_log_needs() {
    let script = format!("read go; seq 1 {COUNT}; echo done; exec sleep 1000");
    let host = Host::start_with_log(&script, 64, 1 << 20);
    let (_, mut session) = host.client().attach(&Attach::default()).unwrap();
    let mut clients: Vec<Raw> = (0..100).map(|_| Raw::connect(&host.path)).collect();
    // The clients before it in the queue have been accepted when the last one gets its error.
    assert_eq!(clients.last_mut().unwrap().error_name(), "io.vmon.Monitor.Failed");
    session.write_all(b"go\n").unwrap();
    eventually("the flood is over, and the log was rotated", || {
        let log = fs::read(host.state.log_path("a")).unwrap_or_default();
        log.ends_with(b"done\n")
    });
    drop(clients);
    eventually("others are served again", || {
        Client::connect(&host.path).is_ok_and(|mut client| client.status().is_ok())
    });
    host.stop();
}

#[test]
fn clients_that_disconnect_while_the_child_does_not_read_are_removed() {
    let host = Host::start(SLEEP, 4096);
    let (_, mut full) = host.client().attach(&Attach::default()).unwrap();
    full.set_nonblocking(true).unwrap();
    let filler = [b'x'; 1 << 16];
    eventually("the child's pipe is full", || full.write(&filler).is_err());
    for _ in 0..200 {
        let (_, mut gone) = host.client().attach(&Attach::default()).unwrap();
        gone.write_all(b"typed").unwrap();
    }
    let sessions = host.client().status().unwrap().sessions.len();
    assert!(sessions < 100, "{sessions} sessions");
    host.stop();
}

#[test]
fn clients_that_do_not_read_delay_nothing_and_use_bounded_memory() {
    let script = format!("read go; seq 1 {COUNT}; echo done; exec sleep 1000");
    let host = Host::start(&script, 4096);
    let mut stuck = Vec::new();
    for _ in 0..20 {
        let request = Attach::default().read_only(true);
        stuck.push(host.client().attach(&request).unwrap().1);
    }
    // Clients that send calls and never read the replies.
    for _ in 0..20 {
        let mut raw = Raw::connect(&host.path);
        raw.send(WATCH);
        raw.stream().set_nonblocking(true).unwrap();
        while raw.stream().write(GET_STATUS).is_ok_and(|count| count == GET_STATUS.len()) {}
        stuck.push(raw.stream().try_clone().unwrap());
        let mut raw = Raw::connect(&host.path);
        raw.stream().set_nonblocking(true).unwrap();
        while raw.stream().write(GET_STATUS).is_ok_and(|count| count == GET_STATUS.len()) {}
        stuck.push(raw.stream().try_clone().unwrap());
    }
    let before = host.memory();
    let (_, mut session) = host.client().attach(&Attach::default()).unwrap();
    session.write_all(b"go\n").unwrap();
    eventually("the flood is over", || {
        let log = fs::read(host.state.log_path("a")).unwrap();
        log.ends_with(b"done\n")
    });
    let grown = host.memory().saturating_sub(before);
    assert!(grown < 12 << 10, "{grown} KiB");
    let mut expected = Vec::new();
    for number in 1..=COUNT {
        writeln!(expected, "{number}").unwrap();
    }
    expected.extend(b"done\n");
    assert_same(&host.state.log("a"), &expected, "the log");
    assert_eq!(host.client().status().unwrap().phase, Phase::Running);
    // A session that reads again gets the number of missed bytes.
    session.set_nonblocking(true).unwrap();
    let mut seen = Vec::new();
    eventually("the notice", || {
        let _ = session.read_to_end(&mut seen);
        contains(&seen, b"bytes left out]")
    });
    drop(stuck);
    host.stop();
}

#[test]
fn a_turn_of_the_loop_serves_a_bounded_number_of_clients_and_all_in_turn() {
    const CLIENTS: usize = 200;
    /// Far fewer than the clients.
    const MOST: usize = 40;
    let state = State::new();
    let sandbox = Sandbox::new("a", state.path().join("log")).unwrap();
    let server = Server::new(state.path().join("run"));
    let mut reactor = Reactor::new().unwrap();
    let command = vmon::child::Command::new("sh").args(["-c", SLEEP]);
    let id = Monitor::builder(sandbox).control_socket(server).unwrap().spawn(&mut reactor, command);
    start_added(&mut reactor);
    let path = socket_of(&state, "a");
    let mut clients: Vec<Raw> = (0..CLIENTS).map(|_| Raw::connect(&path)).collect();
    for raw in &mut clients {
        raw.send(GET_STATUS.repeat(4));
        raw.stream().set_nonblocking(true).unwrap();
    }
    let mut answers = vec![0; CLIENTS];
    let mut buffer = vec![0; 1 << 16];
    eventually("each has an answer", || {
        reactor.poll_once(Some(std::time::Duration::ZERO)).unwrap();
        let mut served = 0;
        for (raw, answers) in clients.iter_mut().zip(&mut answers) {
            while let Ok(count @ 1..) = raw.stream().read(&mut buffer) {
                let ends = buffer[..count].iter().filter(|byte| **byte == 0).count();
                (*answers, served) = (*answers + ends, served + ends);
            }
        }
        assert!(served <= MOST, "{served} in one turn");
        // No client is served a third time before each has been served once.
        assert!(answers.iter().max() <= Some(&(answers.iter().min().unwrap() + 2)), "{answers:?}");
        answers.iter().all(|answers| *answers == 4)
    });
    reactor.call(id, |monitor, cx| monitor.stop(cx)).unwrap();
    drop(clients);
    reactor.run().unwrap();
}

#[test]
fn replies_that_are_read_late_are_complete() {
    const CALLS: usize = 4000;
    let host = Served::start(SLEEP);
    host.client();
    let mut raw = host.raw();
    let mut writer = raw.stream().try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        for _ in 0..CALLS {
            writer.write_all(GET_STATUS).unwrap();
        }
    });
    // Others are served meanwhile.
    for _ in 0..100 {
        assert_eq!(host.client().status().unwrap().phase, Phase::Running);
    }
    for _ in 0..CALLS {
        assert_eq!(raw.next().unwrap()["parameters"]["status"]["name"], "a");
    }
    writing.join().unwrap();
    host.stop();
}

#[test]
fn a_client_that_does_not_read_the_end_does_not_delay_the_host() {
    let host = Host::start(SLEEP, 1024);
    let mut raw = Raw::connect(&host.path);
    raw.stream().set_nonblocking(true).unwrap();
    while raw.stream().write(GET_STATUS).is_ok_and(|count| count == GET_STATUS.len()) {}
    host.stop();
    drop(raw);
}

#[test]
fn a_watching_client_without_a_sending_side_is_removed_when_it_disconnects() {
    let host = Host::start_with(SLEEP, 1024, 0, CLIENT_TIMEOUT);
    let mut gone = Raw::connect(&host.path);
    gone.send(WATCH);
    gone.stream().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(gone.next().unwrap()["parameters"]["event"]["state"], "RUNNING");
    eventually("the others have left", || host.connections() == 1);
    // Its end of input has been seen by the time that a later one has been answered twice.
    let mut client = host.client();
    for _ in 0..2 {
        client.status().unwrap();
    }
    drop((gone, client));
    eventually("it has left", || host.connections() == 0);
    host.stop();
}

#[test]
fn noise_is_answered_or_dropped_and_nothing_breaks() {
    let host = Served::start(SLEEP);
    host.client();
    for seed in 1..=200 {
        let mut noise = common::noise(seed as usize * 37, seed);
        // Some of it in frames, some of it almost a call.
        if seed % 3 == 0 {
            noise.iter_mut().step_by(41).for_each(|byte| *byte = 0);
        }
        if seed % 2 == 0 {
            let at = seed as usize % GET_STATUS.len();
            let mut call = GET_STATUS.to_vec();
            call[at] = noise[0];
            noise.splice(0..0, call);
        }
        let mut raw = host.raw();
        pour(&mut raw, &noise);
        let _ = raw.stream().shutdown(std::net::Shutdown::Write);
        while raw.next().is_some() {}
    }
    assert_eq!(host.client().status().unwrap().phase, Phase::Running);
    host.stop();
}
