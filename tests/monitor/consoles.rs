//! Consoles beside the child's own streams: each kind of them, two ways, again after a reset, and
//! nothing lost at the end.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use crate::common::host::Host;
use crate::common::{self, State, assert_same, contains, eventually, vmm};
use vmon::child::Signal;
use vmon::logfile::read::{Entry, LogReader};
use vmon::logfile::{LogOptions, Mark, Retention};
use vmon::monitor::{AttachTo, ConsoleState, Input, Outcome, Phase, Reason, Sandbox, StartError};
use vmon::terminal::WindowSize;

#[test]
#[ignore = "a process of its own that other tests start"]
fn stand_in() {
    vmm::stand_in();
}

/// A stand-in whose console is what `kind` says, at which this `console` is.
fn start(state: State, kind: &str, path: &Path, console: &str) -> Host {
    let command = vmm::arguments(module_path!(), kind, path.to_str().unwrap());
    let console = console.parse().unwrap();
    Host::new(state, &command, |sandbox| sandbox.console(console), |builder| builder)
}

/// Each kind, with what it takes to be one.
fn each_kind(mut test: impl FnMut(Host, &str)) {
    for (kind, console) in
        [("listen", "unix"), ("connect", "listen"), ("pty", "pty"), ("open", "pty-of-ours")]
    {
        eprintln!("{console}");
        let state = State::new();
        let path = state.file("console");
        let host = match console {
            "pty-of-ours" => start(state, kind, Path::new("{serial}"), "serial=pty"),
            _ => start(state, kind, &path, &format!("serial={console}:{}", path.display())),
        };
        test(host, console);
    }
}

#[test]
fn every_kind_of_console_is_logged_and_takes_what_is_typed() {
    each_kind(|mut host, kind| {
        host.until_open("serial", 1);
        let mut client = host.attach("serial", 100);
        host.ask(&mut client, "one", "got one\n");
        host.ask(&mut client, "two", "got two\n");
        client.send(b"quit\n");
        let (end, state) = host.end();
        assert!(
            matches!(end.outcome, Outcome::Ended { reason: Reason::Exited, .. }),
            "{kind}: {end:?}"
        );
        let logged = state.log("a@serial");
        assert_eq!(String::from_utf8_lossy(&logged), "login: got one\ngot two\n", "{kind}");
        assert!(contains(&state.log("a"), b"the vmm ends"), "{kind}");
        assert_eq!(end.consoles[0].bytes_logged, logged.len() as u64, "{kind}");
        assert_eq!(end.consoles[0].state, ConsoleState::Gone, "{kind}");
        assert!(!state.file("console").exists() || kind == "pty" || kind == "unix", "{kind}");
    });
}

#[test]
fn a_console_that_closes_is_opened_again_with_a_mark_in_the_index() {
    each_kind(|mut host, kind| {
        host.until_open("serial", 1);
        let mut client = host.attach("serial", 100);
        host.ask(&mut client, "one", "got one\n");
        client.send(b"reset\n");
        host.until_seen(&mut client, "got one\nlogin: ");
        // What we keep open ourselves is not seen to close.
        let ours = kind == "pty-of-ours";
        host.until_open("serial", if ours { 1 } else { 2 });
        host.ask(&mut client, "two", "got two\n");
        client.send(b"quit\n");
        let (_, state) = host.end();
        let expected = "login: got one\nlogin: got two\n";
        assert_eq!(String::from_utf8_lossy(&state.log("a@serial")), expected, "{kind}");
        assert_eq!(reopened_at(&state, "a@serial"), if ours { vec![] } else { vec![15] });
    });
}

/// Where in a log a console was opened again.
fn reopened_at(state: &State, log: &str) -> Vec<u64> {
    let mut reader = LogReader::open(&state.path().join("log"), common::CONFIG, log).unwrap();
    let (mut at, mut marks) = (0, Vec::new());
    while let Some(entry) = reader.next().unwrap() {
        match entry {
            Entry::Bytes { bytes, .. } => at += bytes.len() as u64,
            Entry::Mark { mark: Mark::Reopen, .. } => marks.push(at),
            Entry::Mark { .. } => {}
        }
    }
    marks
}

#[test]
fn a_client_whose_input_a_console_did_not_take_is_read_again_after_a_reset() {
    let state = State::new();
    let path = state.file("console");
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let console = format!("serial=unix-any:{}", path.display()).parse().unwrap();
    let mut host = Host::new(state, &idle(), |it| it.console(console), |builder| builder);
    host.until_open("serial", 1);
    // A word of the enumeration `ConsoleKind` of the control interface.
    assert_eq!(host.console("serial").kind, "unix");
    let (deaf, _) = listener.accept().unwrap();
    let mut client = host.attach("serial", 0);
    let mut sent = 0;
    let mut full = 0;
    host.until("the console takes no more of it", |_| {
        let taken = client.stream.write(&[b'x'; 65536]).unwrap_or(0);
        full = if taken == 0 { full + 1 } else { 0 };
        sent += taken;
        sent > 0 && full > 3
    });
    drop(deaf);
    host.until_open("serial", 2);
    let (mut console, _) = listener.accept().unwrap();
    console.set_nonblocking(true).unwrap();
    let mut heard = Vec::new();
    host.until("the rest is heard", |_| {
        let _ = client.stream.write(b"!");
        let mut buffer = [0; 65536];
        while let Ok(count @ 1..) = std::io::Read::read(&mut console, &mut buffer) {
            heard.extend_from_slice(&buffer[..count]);
        }
        heard.contains(&b'!')
    });
    host.reactor.call(host.id, vmon::monitor::Monitor::stop).unwrap();
    host.end();
}

#[test]
fn output_in_a_socket_is_complete_after_the_end_of_the_vmm() {
    each_kind(|mut host, kind| {
        // The kernel drops what is left in a PTY whose master is closed.
        if kind == "pty" {
            host.reactor.call(host.id, vmon::monitor::Monitor::stop).unwrap();
            return;
        }
        host.until_open("serial", 1);
        let mut client = host.attach("serial", 0);
        client.send(b"flood\n");
        let (_, state) = host.end();
        let expected = [b"login: ", vmm::flood().as_slice()].concat();
        assert_same(&state.whole_log("a@serial"), &expected, kind);
    });
}

#[test]
fn a_fifo_is_made_read_to_its_end_and_removed() {
    let state = State::new();
    let path = state.file("fifo");
    let mut host = start(state, "write", &path, &format!("serial=fifo:{}", path.display()));
    host.until("it is there", |_| path.exists());
    let metadata = fs::metadata(&path).unwrap();
    assert!(metadata.file_type().is_fifo());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let (_, state) = host.end();
    assert_same(&state.whole_log("a@serial"), &vmm::flood(), "fifo");
    assert!(!path.exists());
}

#[test]
fn a_fifo_has_one_reader_only() {
    let state = State::new();
    let path = state.file("fifo");
    let console: vmon::monitor::Console =
        format!("serial=fifo:{}", path.display()).parse().unwrap();
    let mut first = Host::new(state, &idle(), |it| it.console(console.clone()), |it| it);
    first.until_open("serial", 1);
    let (error, _) = refused(State::new(), &[&console.to_string()]);
    assert!(error.contains("another process uses"), "{error}");
    fs::write(&path, "all of it").unwrap();
    first.until("it is logged", |host| host.state.log("a@serial") == b"all of it");
    first.reactor.call(first.id, vmon::monitor::Monitor::stop).unwrap();
    first.end();
    assert!(!path.exists());
}

/// A command that ends when its input does, which is at once or never.
fn idle() -> Vec<String> {
    ["sh", "-c", "echo here; sleep 1000"].map(str::to_owned).to_vec()
}

/// One that was not started, because of its consoles.
#[track_caller]
fn refused(state: State, consoles: &[&str]) -> (String, State) {
    let consoles: Vec<_> = consoles.iter().map(|console| console.parse().unwrap()).collect();
    let describe = |sandbox: Sandbox| consoles.into_iter().fold(sandbox, Sandbox::console);
    let (end, state) = Host::new(state, &idle(), describe, |builder| builder).end();
    let Some(StartError::Console(error)) = end.error() else { panic!("{end:?}") };
    (error.to_string(), state)
}

#[test]
fn an_impossible_console_is_an_error_before_anything_is_started() {
    let long = format!("/tmp/{}", "x".repeat(120));
    let cases: [(&[&str], &str); 5] = [
        (&["a=pty", "b=pty", "a=pty"], "two consoles have the name \"a\""),
        (&[&format!("unix:{long}")], "longer than a socket's may be"),
        (&[&format!("listen:{long}")], "longer than a socket's may be"),
        (&["listen:/nonexistent/a"], "can't listen at /nonexistent/a"),
        (&["fifo:/nonexistent/a"], "can't make /nonexistent/a"),
    ];
    for (consoles, expected) in cases {
        let (error, state) = refused(State::new(), consoles);
        assert!(error.contains(expected), "{error}");
        assert_eq!(state.log("a"), b"", "{error}");
    }
}

#[test]
fn a_file_in_the_place_of_a_socket_or_fifo_is_never_touched() {
    for kind in ["listen", "fifo"] {
        let state = State::new();
        let path = state.file("precious");
        fs::write(&path, "precious").unwrap();
        let (error, _state) = refused(state, &[&format!("{kind}:{}", path.display())]);
        assert!(error.contains("precious is not a"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious", "{kind}");
    }
    // One that is to be opened only: it is no PTY, whatever comes of it.
    for kind in ["unix", "pty"] {
        let state = State::new();
        let path = state.file("precious");
        fs::write(&path, "precious").unwrap();
        let console = format!("{kind}:{}", path.display()).parse().unwrap();
        let command = ["sh", "-c", "sleep 0.3"].map(str::to_owned);
        let host = Host::new(state, &command, |sandbox| sandbox.console(console), |it| it);
        let (end, state) = host.end();
        assert_eq!(end.consoles[0].opened, 0, "{kind}");
        assert_eq!(state.log("a@console"), b"");
        assert_eq!(fs::read(&path).unwrap(), b"precious", "{kind}");
    }
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let state = State::new();
    let path = state.file("socket");
    let console = format!("serial=listen:{}", path.display());
    let live = UnixListener::bind(&path).unwrap();
    let (error, state) = refused(state, &[&console]);
    assert!(error.contains("another process uses"), "{error}");
    drop(live);
    // A process that another test is just starting has its copy until it becomes its program.
    eventually("nobody listens", || UnixStream::connect(&path).is_err());
    let mut host = start(state, "connect", &path, &console);
    host.until_open("serial", 1);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut client = host.attach("serial", 0);
    client.send(b"quit\n");
    host.end();
    assert!(!path.exists());
}

#[test]
fn a_link_to_the_terminal_of_another_process_is_not_opened() {
    let state = State::new();
    let path = state.file("pty");
    let mut theirs =
        common::Terminal::spawn(std::process::Command::new("sh").args(["-c", "tty; exec cat"]));
    theirs.wait_for("/dev/pts/");
    let name = String::from_utf8(theirs.seen.clone()).unwrap();
    theirs.wait_for("\n");
    symlink(name.split_whitespace().next().unwrap(), &path).unwrap();
    let modes = theirs.modes();
    let console = format!("serial=pty:{}", path.display()).parse().unwrap();
    let command = ["sh", "-c", "sleep 0.5"].map(str::to_owned);
    let host = Host::new(state, &command, |sandbox| sandbox.console(console), |it| it);
    let (end, state) = host.end();
    assert_eq!(end.consoles[0].opened, 0);
    assert_eq!(theirs.modes(), modes);
    assert_eq!(state.log("a@serial"), b"");
}

#[test]
fn a_socket_of_a_process_that_the_child_has_not_started_is_no_console() {
    let state = State::new();
    let path = state.file("console");
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let console = format!("serial=unix:{}", path.display()).parse().unwrap();
    let mut host = Host::new(state, &idle(), |it| it.console(console), |builder| builder);
    let mut stream = None;
    host.until("a connection is tried", |_| {
        stream = listener.accept().ok();
        stream.is_some()
    });
    let (mut stream, _) = stream.unwrap();
    let _ = stream.write(b"from another VM");
    stream.set_nonblocking(true).unwrap();
    // Ended, or reset because of what was sent.
    host.until("it is closed again", |_| match std::io::Read::read(&mut stream, &mut [0; 1]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    });
    host.reactor.call(host.id, vmon::monitor::Monitor::stop).unwrap();
    let (end, state) = host.end();
    assert_eq!(end.consoles[0].opened, 0);
    assert_eq!(state.log("a@serial"), b"");
}

#[test]
fn a_socket_of_a_process_that_the_child_has_started_is_a_console() {
    let state = State::new();
    let path = state.file("console");
    let console = format!("serial=unix:{}", path.display()).parse().unwrap();
    let vmm = vmm::arguments(module_path!(), "listen", path.to_str().unwrap());
    let below = ["sh", "-c", r#""$@" & wait"#, "sh"].map(str::to_owned);
    let command: Vec<String> = below.into_iter().chain(vmm).collect();
    let mut host = Host::new(state, &command, |it| it.console(console), |builder| builder);
    host.until_open("serial", 1);
    let mut client = host.attach("serial", 0);
    client.send(b"quit\n");
    let (_, state) = host.end();
    assert_eq!(state.log("a@serial"), b"login: ");
}

#[test]
fn a_new_connection_replaces_one_that_a_process_holds_open_and_both_are_logged() {
    let state = State::new();
    let path = state.file("console");
    let console = format!("serial=listen:{}", path.display()).parse().unwrap();
    let mut host = Host::new(state, &idle(), |it| it.console(console), |builder| builder);
    host.until("it listens", |_| path.exists());
    let mut held = UnixStream::connect(&path).unwrap();
    held.write_all(b"one ").unwrap();
    host.until_open("serial", 1);
    let mut client = host.attach("serial", 100);
    // Both at once: what the first one has sent is not lost.
    held.write_all(b"two ").unwrap();
    let mut second = UnixStream::connect(&path).unwrap();
    second.write_all(b"three").unwrap();
    host.until_seen(&mut client, "one two three");
    host.until_open("serial", 2);
    assert_eq!(std::io::Read::read(&mut held, &mut [0; 1]).unwrap(), 0, "it is closed");
    client.send(b"typed");
    second.set_nonblocking(true).unwrap();
    let mut typed = [0; 5];
    host.until("the new one has the input", |_| {
        std::io::Read::read(&mut second, &mut typed).is_ok()
    });
    assert_eq!(&typed, b"typed");
    host.reactor.call(host.id, vmon::monitor::Monitor::stop).unwrap();
    let (_, state) = host.end();
    assert_eq!(state.log("a@serial"), b"one two three");
    assert_eq!(reopened_at(&state, "a@serial"), [8]);
}

/// A burst of connections that a process holds open, just before the child ends.
fn end_with_burst(peers: usize) -> String {
    let state = State::new();
    let path = state.file("console");
    let console = format!("serial=listen:{}", path.display()).parse().unwrap();
    let command = ["sh", "-c", "read line"].map(str::to_owned);
    let describe = |it: Sandbox| {
        it.console(console).input(Input::Attached).stop_timeout(Duration::from_millis(1))
    };
    let mut host = Host::new(state, &command, describe, |builder| builder);
    host.until("it listens", |_| path.exists());
    let mut client = host.try_attach(None, 0).unwrap().0;
    let held: Vec<UnixStream> = (0..peers)
        .map(|number| {
            let mut peer = UnixStream::connect(&path).unwrap();
            // One has nothing to say.
            write!(peer, "{}", if number == 1 { String::new() } else { format!("<{number}>") })
                .unwrap();
            peer
        })
        .collect();
    client.send(b"\n");
    let (_, state) = host.end();
    drop(held);
    String::from_utf8(state.log("a@serial")).unwrap()
}

#[test]
fn connections_that_wait_at_the_end_of_the_run_are_logged_before_it_ends() {
    let expected: String =
        (0..20).filter(|number| *number != 1).map(|number| format!("<{number}>")).collect();
    assert_eq!(end_with_burst(20), expected);
}

#[test]
fn a_listening_socket_that_was_removed_is_made_again_with_and_without_a_peer() {
    let state = State::new();
    let path = state.file("console");
    let console = format!("serial=listen:{}", path.display()).parse().unwrap();
    let mut host = Host::new(state, &idle(), |it| it.console(console), |builder| builder);
    let mut client = None;
    for (opened, text) in [(1, "one "), (2, "two ")] {
        host.until("it listens", |_| path.exists());
        fs::remove_file(&path).unwrap();
        host.reactor.call(host.id, vmon::monitor::Monitor::reopen_log).unwrap().unwrap();
        host.until("it is there again", |_| path.exists());
        let mut peer = UnixStream::connect(&path).unwrap();
        host.until_open("serial", opened);
        peer.write_all(text.as_bytes()).unwrap();
        let client = client.get_or_insert_with(|| host.attach("serial", 100));
        host.until_seen(client, text);
        std::mem::forget(peer); // held open, as by a helper of the VMM
    }
    host.reactor.call(host.id, vmon::monitor::Monitor::stop).unwrap();
    let (_, state) = host.end();
    assert_eq!(state.log("a@serial"), b"one two ");
    assert!(!path.exists());
}

#[test]
fn several_consoles_each_have_a_log_and_so_has_the_vmm() {
    let state = State::new();
    let (one, two) = (state.file("one"), state.file("two"));
    let fifo = format!("two=fifo:{}", two.display()).parse().unwrap();
    let listen = format!("one=listen:{}", one.display()).parse().unwrap();
    let mut command = vmm::arguments(module_path!(), "connect", one.to_str().unwrap());
    // The other one's bytes come from beside it.
    command[2] = format!("echo aside >{}; {}", two.display(), command[2]);
    let describe = |sandbox: Sandbox| sandbox.console(listen).console(fifo);
    let mut host = Host::new(state, &command, describe, |builder| builder);
    host.until_open("one", 1);
    let mut client = host.attach("one", 100);
    host.ask(&mut client, "hello", "got hello\n");
    client.send(b"quit\n");
    let (end, state) = host.end();
    assert_eq!(state.log("a@one"), b"login: got hello\n");
    assert_eq!(state.log("a@two"), b"aside\n");
    assert!(contains(&state.log("a"), b"the vmm begins"));
    let bytes: Vec<u64> = end.consoles.iter().map(|console| console.bytes_logged).collect();
    assert_eq!(bytes, [17, 6]);
    assert_eq!(end.bytes_logged, state.log("a").len() as u64);
}

#[test]
fn a_host_adds_a_console_on_a_descriptor_of_its_own() {
    let (first, theirs) = UnixStream::pair().unwrap();
    let build = |builder: vmon::monitor::Builder| {
        builder.console("first".parse().unwrap(), OwnedFd::from(theirs))
    };
    let mut host = Host::new(State::new(), &idle(), |sandbox| sandbox, build);
    host.until_open("first", 1);
    let (reader, mut second) = std::io::pipe().unwrap();
    let add = |host: &mut Host, fd: OwnedFd| {
        let name = "second".parse().unwrap();
        host.reactor.call(host.id, |it, cx| it.add_console(name, fd, cx)).unwrap()
    };
    add(&mut host, reader.into()).unwrap();
    let taken = add(&mut host, File::open("/dev/null").unwrap().into());
    assert!(matches!(taken, Err(StartError::Console(_))), "{taken:?}");

    (&first).write_all(b"one\n").unwrap();
    second.write_all(b"two\n").unwrap();
    host.until("both are logged", |host| {
        host.state.log("a@first") == b"one\n" && host.state.log("a@second") == b"two\n"
    });
    let mut client = host.attach("first", 100);
    client.send(b"to the console\n");
    let mut buffer = [0; 15];
    host.until_seen(&mut client, "one\n");
    first.set_nonblocking(true).unwrap();
    host.until("it gets what is typed", |_| {
        std::io::Read::read(&mut (&first), &mut buffer).is_ok()
    });
    assert_eq!(&buffer, b"to the console\n");
    drop(second);
    host.until("an end is one for good", |host| host.console("second").state == ConsoleState::Gone);
    host.reactor.call(host.id, vmon::monitor::Monitor::stop).unwrap();
    host.end();
}

#[test]
fn a_console_on_a_descriptor_is_not_reopened_after_a_read_error() {
    let (_reader, writer) = std::io::pipe().unwrap();
    let build = |builder: vmon::monitor::Builder| {
        builder.console("only".parse().unwrap(), OwnedFd::from(writer))
    };
    let mut host = Host::new(State::new(), &idle(), |sandbox| sandbox, build);
    host.until("it runs", |host| host.monitor().report().phase == Phase::Running);
    assert_eq!(host.console("only").state, ConsoleState::Gone);
    host.reactor.call(host.id, vmon::monitor::Monitor::stop).unwrap();
    host.end();
}

#[test]
fn a_console_rotates_as_the_log_does() {
    let state = State::new();
    let path = state.file("fifo");
    let command = vmm::arguments(module_path!(), "write", path.to_str().unwrap());
    let console = format!("serial=fifo:{}", path.display()).parse().unwrap();
    let retention = Retention::default().max_size(100_000).max_files(10);
    let describe =
        |sandbox: Sandbox| sandbox.console(console).log(LogOptions::default().retention(retention));
    let (_, state) = Host::new(state, &command, describe, |builder| builder).end();
    assert_eq!(state.generations("a@serial").len(), 4);
    assert_same(&state.whole_log("a@serial"), &vmm::flood(), "all generations");
}

#[test]
fn a_pty_console_has_the_window_size_of_the_attached_client() {
    let mut host = start(State::new(), "open", Path::new("{serial}"), "serial=pty");
    host.until_open("serial", 1);
    let path = host.console("serial").path.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let (mut client, attached) = host.try_attach(Some("serial"), 100).unwrap();
    host.until_seen(&mut client, "login: ");
    let size = WindowSize::new(33, 99);
    let resized = host.reactor.call(host.id, |it, cx| it.resize(attached.session, size, cx));
    resized.unwrap().unwrap();
    assert_eq!(size_of(&path), "33 99\n");
    client.send(b"quit\n");
    host.end();
}

fn size_of(terminal: &Path) -> String {
    let terminal = File::options().read(true).custom_flags(libc::O_NOCTTY).open(terminal).unwrap();
    let mut stty = std::process::Command::new("stty");
    String::from_utf8(stty.arg("size").stdin(terminal).output().unwrap().stdout).unwrap()
}

#[test]
fn consoles_are_made_anew_when_the_child_is_started_again() {
    let state = State::new();
    let path = state.file("socket");
    let console = format!("serial=listen:{}", path.display()).parse().unwrap();
    let command = vmm::arguments(module_path!(), "connect", path.to_str().unwrap());
    let describe =
        |sandbox: Sandbox| sandbox.console(console).restart(vmon::monitor::Restart::Always);
    let mut host = Host::new(state, &command, describe, |builder| builder);
    host.until_open("serial", 1);
    let mut client = host.attach("serial", 100);
    host.ask(&mut client, "one", "got one\n");
    client.send(b"quit\n");
    host.until_seen(&mut client, "got one\nlogin: ");
    host.ask(&mut client, "two", "got two\n");
    host.reactor.call(host.id, vmon::monitor::Monitor::stop).unwrap();
    let (_, state) = host.end();
    assert_eq!(state.log("a@serial"), b"login: got one\nlogin: got two\n");
}

#[test]
fn the_interactive_console_can_be_given_again_after_a_restart() {
    let state = State::new();
    let command = ["sleep", "1000"].map(str::to_owned);
    let (first, _peer) = UnixStream::pair().unwrap();
    let name = || "serial".parse().unwrap();
    let describe = |sandbox: Sandbox| {
        sandbox.interactive(name()).input(Input::Null).restart(vmon::monitor::Restart::Always)
    };
    let mut host = Host::new(state, &command, describe, |it| it.console(name(), first));
    host.until_open("serial", 1);
    host.reactor.call(host.id, |it, _| it.signal_child(Signal::TERM)).unwrap().unwrap();
    host.until("the second run", |host| {
        let report = host.monitor().report();
        report.restarts > 0 && report.phase == Phase::Running
    });
    let (second, _peer) = UnixStream::pair().unwrap();
    host.reactor.call(host.id, |it, cx| it.add_console(name(), second, cx)).unwrap().unwrap();
    let (_client, attached) = host.try_attach(None, 0).unwrap();
    assert_eq!(attached.to, AttachTo::Console(name()));
    host.reactor.call(host.id, vmon::monitor::Monitor::stop).unwrap();
    host.end();
}
