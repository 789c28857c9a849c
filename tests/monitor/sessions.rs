//! Clients that are attached to a child of a host: output, input, window size, and that none of
//! them delays anything.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::common::host::Client;
use crate::common::{self, State, TIMEOUT, assert_same, contains};
use vmon::child::{Command, Signal};
use vmon::logfile::{LogOptions, Retention};
use vmon::monitor::{
    Attach, AttachError, AttachTo, Attached, End, Input, Monitor, RequestError, Restart, Sandbox,
    SessionId,
};
use vmon::reactor::{Handler, HandlerId, Reactor};
use vmon::terminal::WindowSize;

type Loop = Reactor<Monitor>;

/// The preamble of a session.
const HELLO: &[u8] = b"hello\0";

/// A sandbox in a host, and the reactor that runs it.
struct Host {
    state: State,
    reactor: Loop,
    id: HandlerId,
}

impl Host {
    fn new(script: &str, pty: bool, describe: impl FnOnce(Sandbox) -> Sandbox) -> Self {
        let state = State::new();
        let sandbox = Sandbox::new("a", state.path().join("log")).unwrap();
        let mut reactor = Reactor::new().unwrap();
        let command = Command::new("sh").args(["-c", script]).pty(pty);
        let id = Monitor::builder(describe(sandbox)).spawn(&mut reactor, command);
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
        self.until("it is in the log", |host| contains(&host.state.whole_log("a"), bytes));
    }

    fn try_attach(&mut self, request: Attach) -> Result<(Client, Attached), AttachError> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let attached = self
            .reactor
            .call(self.id, |it, cx| it.attach(ours, &request, |_| HELLO.to_vec(), cx))
            .unwrap()
            .map_err(|(error, _)| error)?;
        Ok((Client { stream: theirs, seen: Vec::new(), ended: false }, attached))
    }

    #[track_caller]
    fn attach(&mut self, request: Attach) -> (Client, Attached) {
        self.try_attach(request).unwrap()
    }

    #[track_caller]
    fn until_seen(&mut self, client: &mut Client, bytes: &[u8]) {
        self.until(&format!("the client sees {:?}", String::from_utf8_lossy(bytes)), |_| {
            client.read();
            contains(&client.seen, bytes)
        });
    }

    fn resize(&mut self, session: SessionId, rows: u16, columns: u16) -> Result<(), RequestError> {
        let size = WindowSize::new(rows, columns);
        self.reactor.call(self.id, |it, cx| it.resize(session, size, cx)).unwrap()
    }

    fn monitor(&self) -> &Monitor {
        self.reactor.get(self.id).unwrap()
    }

    fn stop(&mut self) {
        self.reactor.call(self.id, Monitor::stop).unwrap();
    }

    #[track_caller]
    fn end(mut self) -> (End, State) {
        self.until("the end", |host| host.monitor().is_done());
        (self.reactor.remove(self.id).unwrap().into_end().unwrap(), self.state)
    }
}

fn plain(sandbox: Sandbox) -> Sandbox {
    sandbox
}

fn attached_input(sandbox: Sandbox) -> Sandbox {
    sandbox.input(Input::Attached)
}

fn reader() -> Attach {
    Attach::default().read_only(true)
}

fn writer() -> Attach {
    Attach::default()
}

#[test]
fn a_client_gets_the_tail_and_what_follows_without_a_gap() {
    let script = "seq 1 2000; read go; seq 2001 4000";
    let mut host = Host::new(script, false, attached_input);
    host.until_logged(b"\n2000\n");
    let (mut client, attached) = host.attach(writer().tail(100));
    assert_eq!((attached.to, attached.tail), (AttachTo::Stdout, 100));
    client.send(b"go\n");
    let log = host.state.log_path("a");
    host.until("the end of the client's stream", |_| {
        client.read();
        client.ended
    });
    let log = std::fs::read(log).unwrap();
    let begin = log.windows(6).position(|window| window == b"\n2000\n").unwrap() + 6 - 100;
    assert_same(&client.seen, &[HELLO, &log[begin..]].concat(), "what the client got");
    assert_eq!(host.end().0.exit_code(), 0);
}

#[test]
fn a_tail_goes_back_over_rotated_generations_and_no_further_than_the_log() {
    let small = |sandbox: Sandbox| {
        sandbox.input(Input::Attached).log(
            LogOptions::default().retention(Retention::default().max_size(1000).max_files(100)),
        )
    };
    let mut host = Host::new("seq 1 2000; cat", false, small);
    host.until_logged(b"\n2000\n");
    let whole = host.state.whole_log("a");
    for (asked, got) in [(5000, 5000), (1 << 20, whole.len())] {
        let (mut client, attached) = host.attach(reader().tail(asked));
        assert_eq!(attached.tail, got as u64);
        client.read();
        let expected = [HELLO, &whole[whole.len() - got..]].concat();
        assert_same(&client.seen, &expected, "the tail");
    }
}

#[test]
fn any_bytes_pass_both_ways() {
    let mut host = Host::new("cat", false, attached_input);
    host.until("it runs", |host| host.monitor().pid().is_some());
    let (mut client, _) = host.attach(writer());
    let noise = common::noise(300_000, 7);
    let mut rest = &noise[..];
    let expected = [HELLO, &noise].concat();
    host.until("all came back", |_| {
        if let Ok(count) = client.stream.write(rest) {
            rest = &rest[count..];
        }
        client.read();
        client.seen.len() >= expected.len()
    });
    assert_same(&client.seen, &expected, "what came back");
    assert_same(&host.state.log("a"), &noise, "the log");
    host.stop();
    host.end();
}

#[test]
fn each_client_of_pipes_has_one_stream() {
    let mut host = Host::new("read go; echo out; echo err >&2; cat", false, attached_input);
    host.until("it runs", |host| host.monitor().pid().is_some());
    let (mut out, _) = host.attach(writer());
    let (mut err, attached) = host.attach(reader().to(Some(AttachTo::Stderr)));
    assert_eq!(attached.to, AttachTo::Stderr);
    out.send(b"go\n");
    host.until_seen(&mut out, b"out\n");
    host.until_seen(&mut err, b"err\n");
    assert_eq!((&out.seen[..], &err.seen[..]), (&b"hello\0out\n"[..], &b"hello\0err\n"[..]));
    let refused = host.try_attach(reader().to(Some(AttachTo::Tty)));
    assert!(matches!(refused.err().unwrap(), AttachError::NoSuchStream(AttachTo::Tty)));
}

#[test]
fn a_read_only_client_sends_no_input() {
    let mut host = Host::new("cat", false, attached_input);
    host.until("it runs", |host| host.monitor().pid().is_some());
    let (mut reader, attached) = host.attach(reader());
    let (mut writer, _) = host.attach(writer());
    reader.send(b"of the reader\n");
    writer.send(b"of the writer\n");
    host.until_seen(&mut writer, b"of the writer\n");
    host.until_seen(&mut reader, b"of the writer\n");
    assert!(!contains(&host.state.log("a"), b"reader"));
    assert!(matches!(host.resize(attached.session, 1, 1), Err(RequestError::ReadOnly(_))));
    let report = host.monitor().report();
    let roles: Vec<bool> = report.sessions.iter().map(|session| session.read_only).collect();
    assert_eq!(roles, [true, false]);
}

#[test]
fn the_window_size_is_that_of_the_client_that_typed_last() {
    let script = "stty -echo; echo ready; while read line; do stty size; done";
    let mut host = Host::new(script, true, attached_input);
    host.until_logged(b"ready");
    let (mut one, first) = host.attach(writer());
    let (mut two, second) = host.attach(writer());
    assert_eq!(first.to, AttachTo::Tty);
    host.resize(first.session, 30, 90).unwrap();
    host.resize(second.session, 50, 120).unwrap();
    two.send(b"size\n");
    host.until_seen(&mut two, b"50 120");
    // A key of the first makes its size count again, before the child sees that key.
    host.until_seen(&mut one, b"50 120");
    one.send(b"size\n");
    host.until_seen(&mut one, b"30 90");
    drop(one);
    host.until("the first has gone", |host| host.monitor().report().sessions.len() == 1);
    two.send(b"size\n");
    two.seen.clear();
    host.until_seen(&mut two, b"50 120");
    assert!(matches!(host.resize(first.session, 1, 1), Err(RequestError::NoSuchSession(_))));
}

#[test]
fn the_window_size_goes_back_when_a_write_fails_to_the_client_that_typed_last() {
    let script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done";
    let mut host = Host::new(script, true, attached_input);
    host.until_logged(b"ready");
    let (_one, first) = host.attach(writer());
    let (two, second) = host.attach(writer());
    host.resize(first.session, 30, 90).unwrap();
    host.until_logged(b"30 90");
    // Its input is still open, so only a write shows it.
    two.stream.shutdown(std::net::Shutdown::Read).unwrap();
    host.resize(second.session, 50, 120).unwrap();
    host.until_logged(b"50 120");
    host.until("the first's size is back", |host| {
        host.state.whole_log("a").ends_with(b"30 90\r\n")
    });
    host.stop();
}

#[test]
fn what_a_client_has_sent_before_it_closed_the_connection_is_input() {
    let script = "while read line; do echo \"got $line\"; done";
    let mut host = Host::new(script, false, attached_input);
    for line in ["one", "two"] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        writeln!(theirs, "{line}").unwrap();
        drop(theirs);
        // The answer finds no reader.
        let attached = host.reactor.call(host.id, |it, cx| {
            it.attach(ours, &writer(), |_| HELLO.to_vec(), cx).map_err(|(error, _)| error)
        });
        attached.unwrap().unwrap();
        host.until_logged(format!("got {line}\n").as_bytes());
        host.until("it is gone", |host| host.monitor().report().sessions.is_empty());
    }
    host.stop();
    host.end();
}

#[test]
fn pipes_have_no_size() {
    let mut host = Host::new("cat", false, attached_input);
    host.until("it runs", |host| host.monitor().pid().is_some());
    let (_client, attached) = host.attach(writer());
    assert!(matches!(host.resize(attached.session, 1, 1), Err(RequestError::NoTerminal)));
}

#[test]
fn a_client_that_stops_reading_misses_bytes_and_gets_a_notice_and_delays_nothing() {
    let script = "head -c 20000000 /dev/zero | tr '\\0' x; read go; echo; echo last";
    let big = |sandbox: Sandbox| {
        sandbox
            .input(Input::Attached)
            .log(LogOptions::default().retention(Retention::default().max_size(0).max_files(0)))
    };
    let mut host = Host::new(script, false, big);
    host.until("it runs", |host| host.monitor().pid().is_some());
    let (mut slow, _) = host.attach(writer());
    host.until("the log has it all", |host| host.monitor().report().bytes_logged == 20_000_000);
    let missed = host.monitor().report().sessions[0].missed;
    assert!(missed > 0 && missed < 20_000_000, "{missed}");
    host.until_seen(&mut slow, format!("[vmon: {missed} bytes left out]").as_bytes());
    slow.send(b"go\n");
    host.until_seen(&mut slow, b"last\n");
    let got = slow.seen.iter().filter(|&&byte| byte == b'x').count() as u64;
    assert_eq!(got + missed, 20_000_000);
    let (end, _) = host.end();
    assert_eq!(end.bytes_dropped, 0, "neither the log nor our own stdout lacks anything");
}

#[test]
fn a_terminal_that_is_read_too_slowly_gets_the_latest_output_and_is_drawn_again() {
    let script = "stty raw -echo; trap 'printf redrawn' WINCH; printf ready
        until read go; do :; done
        flood() { head -c 2000000 /dev/zero | tr '\\0' x; }
        flood; printf '\\033[?2004h\\033[?25l'; flood; printf last
        while :; do sleep 0.02; done";
    let mut host = Host::new(script, true, attached_input);
    let (mut slow, attached) = host.attach(writer());
    host.until_seen(&mut slow, b"ready");
    host.resize(attached.session, 30, 90).unwrap();
    host.until_seen(&mut slow, b"redrawn");
    slow.seen.clear();
    slow.send(b"\n");
    host.until("the log has it all", |host| {
        host.monitor().report().bytes_logged > 4_000_000 && host.state.log("a").ends_with(b"last")
    });
    let missed = host.monitor().report().sessions[0].missed;
    assert!(missed > 2_000_000, "{missed}");
    host.until_seen(&mut slow, b"xlast");
    host.until_seen(&mut slow, b"redrawn");
    assert!(!contains(&slow.seen, b"left out"), "a notice on the screen");
    // The modes that the bytes left out have set are in force.
    let mut modes = vmon::terminal::Modes::default();
    modes.scan(&slow.seen);
    let mut set = Vec::new();
    modes.set(&mut set);
    assert_eq!(set, b"\x1b[?25l\x1b[?2004h");
    let got = slow.seen.iter().filter(|&&byte| byte == b'x').count() as u64;
    assert!(got + missed >= 4_000_000, "{got} {missed}");
    host.stop();
}

#[test]
fn a_program_that_polls_its_window_size_draws_again_for_a_client_of_the_same_size() {
    let sizes = tempfile::NamedTempFile::new().unwrap();
    let script = format!(
        "stty -echo; last=; while :; do size=$(stty size); if [ \"$size\" != \"$last\" ]; then
            echo $size >>{}; echo drawn $size; last=$size; fi; sleep 0.1; done",
        sizes.path().display()
    );
    // Without an index, whose timer might come first.
    let unindexed = |it| attached_input(it).log(LogOptions::default().index(false));
    let mut host = Host::new(&script, true, unindexed);
    let (mut client, attached) = host.attach(writer());
    host.resize(attached.session, 30, 90).unwrap();
    host.until_seen(&mut client, b"drawn 30 90");
    client.seen.clear();
    let asked = Instant::now();
    host.resize(attached.session, 30, 90).unwrap();
    // The window is wider for longer than the program sleeps.
    let restored = host.reactor.next_deadline().unwrap();
    assert!(restored.duration_since(asked) > Duration::from_millis(100));
    // No timer expires before the next turn, however slow this machine is.
    let drawn = || std::fs::read_to_string(sizes.path()).unwrap();
    common::eventually("the program sees it", || drawn().ends_with("30 91\n"));
    host.until_seen(&mut client, b"drawn 30 91");
    host.until_seen(&mut client, b"drawn 30 90");
    host.stop();
}

#[test]
fn the_end_of_a_clients_input_ends_neither_its_session_nor_the_childs_input() {
    let mut host = Host::new("cat", false, attached_input);
    host.until("it runs", |host| host.monitor().pid().is_some());
    let (mut one, _) = host.attach(writer());
    one.send(b"the first\n");
    one.stream.shutdown(std::net::Shutdown::Write).unwrap();
    host.until_seen(&mut one, b"the first\n");
    let (mut two, _) = host.attach(writer());
    two.send(b"the second\n");
    host.until_seen(&mut one, b"the second\n");
    // Gone altogether, it is let go although nothing is written to it.
    drop(one);
    host.until("it is let go", |host| host.monitor().report().sessions.len() == 1);
}

#[test]
fn a_terminal_without_forwarded_stdin_takes_the_input_of_clients() {
    let mut host = Host::new("read line </dev/tty; echo got $line", true, plain);
    host.until("it runs", |host| host.monitor().pid().is_some());
    let (mut client, _) = host.attach(writer());
    client.send(b"it\n");
    host.until_seen(&mut client, b"got it");
    assert_eq!(host.end().0.exit_code(), 0);
}

#[test]
fn the_preamble_precedes_the_output_of_a_session() {
    let mut host = Host::new("cat", false, attached_input);
    host.until("it runs", |host| host.monitor().pid().is_some());
    let (mut client, attached) = host.attach(writer());
    client.send(b"late\n");
    let session = attached.session;
    host.reactor.call(host.id, |it, cx| it.send(session, b"early\n", cx)).unwrap();
    host.until_seen(&mut client, b"early\nlate\n");
}

#[test]
fn a_session_lasts_over_a_restart() {
    let always = |sandbox: Sandbox| sandbox.input(Input::Attached).restart(Restart::Always);
    let mut host = Host::new("read line; echo $line of $$", false, always);
    host.until("it runs", |host| host.monitor().pid().is_some());
    let (mut client, _) = host.attach(writer());
    let first = host.monitor().pid().unwrap();
    client.send(b"first\n");
    host.until_seen(&mut client, format!("first of {first}\n").as_bytes());
    host.until("it runs again", |host| host.monitor().pid().is_some_and(|pid| pid != first));
    let second = host.monitor().pid().unwrap();
    client.send(b"second\n");
    host.until_seen(&mut client, format!("second of {second}\n").as_bytes());
    host.until("the restart is counted", |host| host.monitor().report().restarts >= 1);
    host.stop();
    let (_, state) = host.end();
    assert!(contains(&state.log("a"), b"second of"));
}

#[test]
fn the_end_of_the_sandbox_is_the_end_of_its_sessions() {
    let mut host = Host::new("read go; echo bye", false, attached_input);
    host.until("it runs", |host| host.monitor().pid().is_some());
    let (mut client, _) = host.attach(writer());
    let (stuck, _) = host.attach(reader());
    client.send(b"go\n");
    host.until("the client's end", |_| {
        client.read();
        client.ended
    });
    assert_eq!(client.seen, b"hello\0bye\n");
    host.until("the end", |host| host.monitor().is_done());
    assert!(host.monitor().report().sessions.is_empty());
    assert!(matches!(host.try_attach(reader()).err().unwrap(), AttachError::NotRunning));
    drop(stuck);
}

#[test]
fn the_end_waits_for_a_client_that_takes_it() {
    let script = "read go; head -c 400000 /dev/zero";
    let mut host = Host::new(script, false, attached_input);
    host.until("it runs", |host| host.monitor().pid().is_some());
    let (mut client, _) = host.attach(writer());
    client.send(b"go\n");
    host.until("it has ended", |host| host.monitor().end().is_some());
    assert!(!host.monitor().is_done(), "the client does not have it all yet");
    host.until("the client's end", |_| {
        client.read();
        client.ended
    });
    assert_eq!(client.seen.len(), HELLO.len() + 400_000);
    host.until("the end", |host| host.monitor().is_done());
}

#[test]
fn a_client_of_a_console_of_one_run_gets_nothing_of_another_console_of_the_next() {
    let state = State::new();
    let sandbox = Sandbox::new("a", state.path().join("log")).unwrap().restart(Restart::Always);
    let mut reactor = Reactor::new().unwrap();
    let (first, mut first_peer) = UnixStream::pair().unwrap();
    let id = Monitor::builder(sandbox)
        .console("first".parse().unwrap(), first)
        .spawn(&mut reactor, Command::new("sleep").args(["1000"]));
    let mut host = Host { state, reactor, id };
    host.until("it runs", |host| host.monitor().pid().is_some());
    let to = Some(AttachTo::Console("first".parse().unwrap()));
    let (mut client, _) = host.attach(reader().to(to));
    first_peer.write_all(b"from the first").unwrap();
    host.until_seen(&mut client, b"from the first");
    host.reactor.call(host.id, |it, _| it.signal_child(Signal::TERM)).unwrap().unwrap();
    host.until("the second run", |host| host.monitor().report().restarts > 0);
    let (second, mut second_peer) = UnixStream::pair().unwrap();
    let added = host
        .reactor
        .call(host.id, |it, cx| it.add_console("second".parse().unwrap(), second, cx))
        .unwrap();
    added.unwrap();
    second_peer.write_all(b"from the second").unwrap();
    host.until("the second console is logged", |host| {
        contains(&host.state.whole_log("a@second"), b"from the second")
    });
    client.read();
    assert!(!contains(&client.seen, b"from the second"), "{:?}", client.seen);
    host.stop();
    host.end();
}
