//! Channels on a reactor of their own, without a monitor.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::child::ChildIo;
use crate::logfile::{LogOptions, RunEnd};
use crate::monitor::keys::{Source, SourceKey, TimerKey};
use crate::monitor::sandbox::{Input, Sandbox};
use crate::monitor::stdio;
use crate::reactor::{Handler, HandlerId, Reactor, Ready};
use crate::relay::{Log, LogTarget};

/// Calls the channels for their own sources and timers, and does nothing else.
struct Relay {
    channels: Channels,
    read: bool,
}

impl Handler for Relay {
    type Source = SourceKey;
    type Timer = TimerKey;
    type Event = std::convert::Infallible;

    fn start(&mut self, _: &mut Cx<'_>) {}

    fn ready(&mut self, SourceKey(source): SourceKey, _: Ready, cx: &mut Cx<'_>) {
        match source {
            Source::Output(output) => self.read |= self.channels.read(output, cx),
            Source::Input(channel) => self.channels.input_ready(channel, cx),
            Source::ClientInput(client) => {
                if let Some(bytes) = self.channels.read_client(client, cx) {
                    self.channels.send(client, &bytes, cx);
                }
            }
            Source::ClientOutput(client) => self.channels.flush_client(client, cx),
            other => panic!("not a source of these channels: {other:?}"),
        }
    }

    fn timer(&mut self, TimerKey(timer): TimerKey, cx: &mut Cx<'_>) {
        match timer {
            Timer::LogTurn => self.channels.log_turn(),
            Timer::LogRetry => self.channels.retry_logs(cx),
            Timer::ReadOutput(output) => self.read |= self.channels.read(output, cx),
            other => panic!("not a timer of these channels: {other:?}"),
        }
    }

    fn is_done(&self) -> bool {
        false
    }
}

/// The channel of a child on pipes, of which the test holds the child's ends.
struct Fixture {
    directory: TempDir,
    reactor: Reactor<Relay>,
    id: HandlerId,
    stdin: std::io::PipeReader,
    stdout: Option<std::io::PipeWriter>,
    stderr: Option<std::io::PipeWriter>,
}

fn sandbox(directory: &Path) -> Sandbox {
    Sandbox::new("a", directory)
        .unwrap()
        .config_file("config".parse().unwrap())
        .input(Input::Attached)
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (stdin, our_stdin) = std::io::pipe().unwrap();
        let (our_stdout, stdout) = std::io::pipe().unwrap();
        let (our_stderr, stderr) = std::io::pipe().unwrap();
        let io = ChildIo::Piped {
            stdin: Some(our_stdin.into()),
            stdout: Some(our_stdout.into()),
            stderr: Some(OwnedFd::from(our_stderr)),
        };
        let file = LogFile::open(directory.path(), "config", "a", LogOptions::default()).unwrap();
        let log = Log::new(LogTarget::File(file), false);
        let mut reactor = Reactor::new().unwrap();
        let id = reactor.add(Relay { channels: Channels::default(), read: false });
        reactor
            .call(id, |relay, cx| {
                let sandbox = sandbox(directory.path());
                let channel = stdio::channel(&sandbox, log, io, None, &mut cx.sources).unwrap();
                relay.channels.add_stdio(channel);
                relay.channels.start(1, cx);
            })
            .unwrap();
        let (stdout, stderr) = (Some(stdout), Some(stderr));
        Self { directory, reactor, id, stdin, stdout, stderr }
    }

    fn with<R>(&mut self, f: impl FnOnce(&mut Channels, &mut Cx<'_>) -> R) -> R {
        self.reactor.call(self.id, |relay, cx| f(&mut relay.channels, cx)).unwrap()
    }

    fn attach(&mut self, to: AttachTo, tail: u64) -> (UnixStream, SessionId) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let request = Attach { to: Some(to), read_only: false, tail };
        let attached = self.with(|channels, cx| {
            channels.attach(ours, &request, |_| Vec::new(), cx).map_err(|(error, _)| error)
        });
        (theirs, attached.unwrap().session)
    }

    #[track_caller]
    fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let give_up = Instant::now() + Duration::from_secs(60);
        while !holds(self) {
            assert!(Instant::now() < give_up, "it never came: {what}");
            self.reactor.poll_once(Some(Duration::from_millis(5))).unwrap();
        }
    }

    fn log(&self) -> Vec<u8> {
        std::fs::read(self.directory.path().join("config/a.log")).unwrap()
    }
}

/// What can be read now, added to what was read before.
fn read(client: &mut UnixStream, seen: &mut Vec<u8>) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = client.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..count]);
    }
}

#[test]
fn both_outputs_go_to_one_log_and_each_client_gets_its_own() {
    let mut fixture = Fixture::new();
    let (mut out, _) = fixture.attach(AttachTo::Stdout, 0);
    let (mut err, _) = fixture.attach(AttachTo::Stderr, 0);
    fixture.stdout.as_mut().unwrap().write_all(b"output\n").unwrap();
    let (mut seen, mut wrong) = (Vec::new(), Vec::new());
    fixture.until("the output", |_| {
        read(&mut out, &mut seen);
        seen == b"output\n"
    });
    fixture.stderr.as_mut().unwrap().write_all(b"error\n").unwrap();
    fixture.until("the error", |_| {
        read(&mut err, &mut wrong);
        wrong == b"error\n"
    });
    read(&mut out, &mut seen);
    assert_eq!(seen, b"output\n");
    assert_eq!(fixture.log(), b"output\nerror\n");
    let (mut late, _) = fixture.attach(AttachTo::Stdout, 6);
    let mut tail = Vec::new();
    fixture.until("the tail", |_| {
        read(&mut late, &mut tail);
        tail == b"error\n"
    });
}

#[test]
fn input_of_a_client_reaches_the_child() {
    let mut fixture = Fixture::new();
    let (mut client, _) = fixture.attach(AttachTo::Stdout, 0);
    client.write_all(b"typed\n").unwrap();
    let mut buffer = [0; 6];
    let reading = std::thread::spawn({
        let mut stdin = fixture.stdin.try_clone().unwrap();
        move || {
            stdin.read_exact(&mut buffer).unwrap();
            buffer
        }
    });
    fixture.until("the input", |_| reading.is_finished());
    assert_eq!(&reading.join().unwrap(), b"typed\n");
}

#[test]
fn a_drain_takes_what_is_left_and_is_over_when_the_outputs_are() {
    let mut fixture = Fixture::new();
    let bytes = vec![b'x'; 40_000];
    fixture.stdout.as_mut().unwrap().write_all(&bytes).unwrap();
    fixture.stderr = None;
    fixture.with(|channels, cx| channels.begin_drain(cx));
    assert!(!fixture.with(|channels, _| channels.are_finished()), "stdout is open");
    fixture.stdout = None;
    fixture.until("the end", |fixture| fixture.with(|channels, _| channels.are_finished()));
    assert!(fixture.with(|channels, _| channels.finish_logs()));
    let (logs, bytes_logged) =
        fixture.with(|channels, cx| channels.close(Some(Mark::Stop(RunEnd::Exited(0))), cx));
    assert_eq!((logs.len(), bytes_logged), (1, (40_000, 0)));
    assert_eq!(fixture.log(), bytes);
}

#[test]
fn a_drain_ends_an_output_that_a_descendant_holds_once_it_is_empty() {
    let mut fixture = Fixture::new();
    fixture.stdout.as_mut().unwrap().write_all(b"last").unwrap();
    fixture.with(|channels, cx| {
        channels.begin_drain(cx);
        while channels.read_all(cx) {}
        assert!(channels.are_quiet() && !channels.are_finished());
        channels.end_complete(false, cx);
        assert!(channels.have_ended() && channels.are_finished());
    });
    assert_eq!(fixture.log(), b"last");
}

#[test]
fn the_hosts_terminal_at_one_channel_leaves_the_sizes_at_another_alone() {
    let mut fixture = Fixture::new();
    let console = OutputId { channel: ChannelId(1), stream: Stream::Tty };
    let (_first, first) = fixture.attach(AttachTo::Stdout, 0);
    fixture.with(|channels, _| {
        let attachments = &mut channels.attachments;
        let output = attachments.output_of(first).unwrap();
        assert!(attachments.act(first, Some(WindowSize::new(10, 20))));
        attachments.host_act(console);
        assert_eq!(attachments.size(output), Some(WindowSize::new(10, 20).winsize()));
        attachments.host_act(output);
        assert_eq!(attachments.size(output), None);
    });
}

#[test]
fn the_size_of_the_writer_before_is_in_effect_when_the_last_one_has_gone() {
    let mut fixture = Fixture::new();
    let (_first, first) = fixture.attach(AttachTo::Stdout, 0);
    let (_second, second) = fixture.attach(AttachTo::Stdout, 0);
    fixture.with(|channels, cx| {
        let attachments = &mut channels.attachments;
        let output = attachments.output_of(first).unwrap();
        attachments.act(first, Some(WindowSize::new(10, 20)));
        attachments.act(second, Some(WindowSize::new(30, 40)));
        assert_eq!(attachments.size(output), Some(WindowSize::new(30, 40).winsize()));
        attachments.remove(second, &mut cx.sources);
        assert_eq!(attachments.take_size_left(), [output]);
        assert_eq!(attachments.size(output), Some(WindowSize::new(10, 20).winsize()));
    });
}
