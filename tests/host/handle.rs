//! The operations of a handle.

use std::io::{ErrorKind, Read, Write};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal as NixSignal};

use crate::common::{State, contains, each, eventually};
use crate::{builder, sandbox, sh, wait};
use vmon::child::{ChildIo, Command, ExitStatus, Signal};
use vmon::host::{Engine, Events, Handle, Host, HostError, Reply, Started};
use vmon::monitor::{
    Attach, AttachError, Input, Monitor, Phase, Reason, RequestError, StartError, Transition,
};
use vmon::terminal::WindowSize;

#[test]
fn a_handle_is_for_all_threads_and_a_reply_can_be_moved() {
    fn is_send<T: Send>() {}
    fn is_for_all_threads<T: Clone + Send + Sync + 'static>() {}
    is_for_all_threads::<Handle>();
    is_send::<Host>();
    is_send::<Engine>();
    is_send::<Events>();
    is_send::<Reply<Started>>();
}

#[test]
fn two_hundred_sandboxes_of_many_threads_end_with_their_own_codes() {
    let state = State::new();
    let host = Host::new().unwrap();
    let handle = host.handle();
    let threads: Vec<usize> = (0..8).collect();
    each(&threads, |thread| {
        let runs: Vec<_> = (0..25)
            .map(|n| {
                let sandbox = sandbox(&state, &format!("t{thread}-{n}"));
                (n, handle.start(sandbox, sh(&format!("echo {thread} {n}; exit {n}"))))
            })
            .collect();
        for (n, started) in runs {
            let end = wait(wait(started).unwrap().end).unwrap();
            assert_eq!(end.status(), Some(ExitStatus::Code(n)));
            let log = state.log(&format!("t{thread}-{n}"));
            assert_eq!(log, format!("{thread} {n}\n").as_bytes());
        }
    });
    assert!(wait(handle.list()).unwrap().is_empty());
}

#[test]
fn a_start_that_fails_is_an_error_and_a_sandbox_that_has_ended_is_unknown() {
    let state = State::new();
    let host = Host::new().unwrap();
    let handle = host.handle();
    let error = wait(handle.start(sandbox(&state, "web"), Command::new("/none"))).unwrap_err();
    assert!(matches!(&error, HostError::NotStarted { source, exit_code: 127 }
        if matches!(**source, StartError::Spawn(_))));
    let started = wait(handle.start(sandbox(&state, "web"), sh("exit 3"))).unwrap();
    let id = started.id;
    assert_eq!(wait(started.end).unwrap().exit_code(), 3);
    let unknown = |error| matches!(error, HostError::NoSuchSandbox(it) if it == id);
    assert!(unknown(wait(handle.wait(id)).unwrap_err()));
    assert!(unknown(wait(handle.report(id)).unwrap_err()));
    assert!(unknown(wait(handle.stop(id, None)).unwrap_err()));
    assert!(unknown(wait(handle.attach(id, Attach::default())).unwrap_err()));
}

#[test]
fn a_child_is_reported_listed_found_signalled_and_stopped() {
    let state = State::new();
    let host = Host::new().unwrap();
    let handle = host.handle();
    let script = "trap 'echo caught' USR1; echo up; while :; do sleep 0.02; done";
    let started = wait(handle.start(sandbox(&state, "web"), sh(script))).unwrap();
    let id = started.id;
    state.wait_for_log("web", b"up\n");
    let listed = wait(handle.list()).unwrap();
    assert_eq!((listed[0].id, listed[0].pid), (id, Some(started.pid)));
    let report = wait(handle.report(id)).unwrap();
    assert_eq!((report.phase, report.child.unwrap().pid), (Phase::Running, started.pid));
    let find = |name: &str| handle.find(started.config_file.clone(), name.parse().unwrap());
    assert_eq!(wait(find("web")).unwrap(), Some(id));
    assert_eq!(wait(find("other")).unwrap(), None);
    wait(handle.signal(id, Signal::USR1)).unwrap();
    state.wait_for_log("web", b"caught\n");
    // Any number of replies get the end.
    let others = [handle.wait(id), handle.wait(id)];
    wait(handle.stop(id, Some(Duration::from_secs(20)))).unwrap();
    let end = wait(started.end).unwrap();
    assert_eq!((end.signal(), end.reason()), (Some(Signal::TERM), Reason::Stopped));
    for other in others {
        assert_eq!(wait(other).unwrap().signal(), Some(Signal::TERM));
    }
}

#[test]
fn a_log_that_was_moved_away_is_opened_again() {
    let state = State::new();
    let host = Host::new().unwrap();
    let handle = host.handle();
    let sandbox = sandbox(&state, "web").input(Input::Attached);
    let started = wait(handle.start(sandbox, Command::new("cat"))).unwrap();
    wait(handle.send(started.id, "first\n")).unwrap();
    state.wait_for_log("web", b"first\n");
    std::fs::rename(state.log_path("web"), state.file("moved")).unwrap();
    wait(handle.reopen_log(started.id)).unwrap();
    wait(handle.send(started.id, "second\n")).unwrap();
    eventually("the new log has what follows", || state.log("web") == b"second\n");
    assert_eq!(std::fs::read(state.file("moved")).unwrap(), b"first\n");
}

#[test]
fn a_child_is_given_back_with_its_descriptors() {
    let state = State::new();
    let host = Host::new().unwrap();
    let handle = host.handle();
    let sandbox = sandbox(&state, "web").input(Input::Attached);
    let started = wait(handle.start(sandbox, Command::new("cat"))).unwrap();
    wait(handle.send(started.id, "first\n")).unwrap();
    state.wait_for_log("web", b"first\n");
    let released = wait(handle.release(started.id)).unwrap();
    assert_eq!(released.pid, started.pid);
    assert_eq!(wait(started.end).unwrap().reason(), Reason::Released);
    let ChildIo::Piped { stdin: Some(stdin), stdout: Some(stdout), .. } = released.io else {
        panic!("{:?}", released.io);
    };
    std::fs::File::from(stdin).write_all(b"second\n").unwrap();
    let mut rest = String::new();
    std::fs::File::from(stdout).read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), &state.log("web")[..]), ("second\n", &b"first\n"[..]));
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(released.pid as i32), None).unwrap();
}

#[test]
fn input_goes_to_the_child_whole_or_not_at_all() {
    let state = State::new();
    let host = Host::new().unwrap();
    let handle = host.handle();
    let no_input = |error| matches!(error, HostError::Request(RequestError::NoInput));
    let full = |error| matches!(error, HostError::Request(RequestError::InputFull(65_536)));

    let cat = sandbox(&state, "cat").input(Input::Attached);
    let cat = wait(handle.start(cat, Command::new("cat"))).unwrap();
    wait(handle.send(cat.id, "hello\n")).unwrap();
    state.wait_for_log("cat", b"hello\n");
    assert!(full(wait(handle.send(cat.id, vec![0; 65_537])).unwrap_err()));

    // A pipe has 64 KiB, and as much waits in the host.
    let stuck = sandbox(&state, "stuck").input(Input::Attached);
    let stuck = wait(handle.start(stuck, sh("exec sleep 1000"))).unwrap();
    for _ in 0..2 {
        wait(handle.send(stuck.id, vec![0; 65_536])).unwrap();
    }
    assert!(full(wait(handle.send(stuck.id, "x")).unwrap_err()));

    let deaf = wait(handle.start(sandbox(&state, "deaf"), sh("exec sleep 1000"))).unwrap();
    assert!(no_input(wait(handle.send(deaf.id, "x")).unwrap_err()));

    let script = "read -r line </dev/tty; echo \"got $line\"; exec sleep 1000";
    let pty = wait(handle.start(sandbox(&state, "pty"), sh(script).pty(true))).unwrap();
    wait(handle.send(pty.id, "typed\n")).unwrap();
    state.wait_for_log("pty", b"got typed");
}

#[test]
fn a_client_gets_a_stream_of_its_own_and_the_terminal_its_size() {
    let state = State::new();
    let host = Host::new().unwrap();
    let handle = host.handle();
    let script = "echo up; read -r line; stty size; echo \"got $line\"; exec sleep 1000";
    let sandbox = sandbox(&state, "pty").input(Input::Attached);
    let pty = wait(handle.start(sandbox, sh(script).pty(true))).unwrap();
    state.wait_for_log("pty", b"up\r\n");
    wait(handle.resize(pty.id, WindowSize::new(12, 98))).unwrap();
    let mut client = wait(handle.attach(pty.id, Attach::default().tail(100))).unwrap();
    let session = client.attached.session;
    wait(handle.resize_session(pty.id, session, WindowSize::new(11, 99))).unwrap();
    client.stream.write_all(b"line\n").unwrap();
    let mut seen = Vec::new();
    while !contains(&seen, b"got line\r\n") {
        let mut buffer = [0; 4096];
        let count = client.stream.read(&mut buffer).unwrap();
        assert!(count > 0, "{seen:?}");
        seen.extend_from_slice(&buffer[..count]);
    }
    assert!(contains(&seen, b"up\r\n") && contains(&seen, b"11 99\r\n"), "{seen:?}");
    wait(handle.stop(pty.id, Some(Duration::ZERO))).unwrap();
    wait(pty.end).unwrap();
    // The stream is at its end, or reset by bytes of ours that the child has not read.
    match client.stream.read_to_end(&mut seen) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
}

#[test]
fn requests_that_a_child_cannot_meet_say_why() {
    let state = State::new();
    let host = Host::new().unwrap();
    let handle = host.handle();
    let web = wait(handle.start(sandbox(&state, "web"), sh("exec sleep 1000"))).unwrap();
    let error = wait(handle.resize(web.id, WindowSize::new(1, 1))).unwrap_err();
    assert!(matches!(error, HostError::Request(RequestError::NoTerminal)));
    let to = vmon::monitor::AttachTo::Tty;
    let error = wait(handle.attach(web.id, Attach::default().to(to))).unwrap_err();
    assert!(matches!(error, HostError::Attach(AttachError::NoSuchStream(_))));
}

#[test]
fn a_child_of_the_hosts_is_taken_over_and_its_status_handed_in() {
    let state = State::new();
    let host = Host::new().unwrap();
    let handle = host.handle();
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "read go; echo out; exit 7"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (pid, io) = (child.id(), ChildIo::from(&mut child));
    let sandbox = sandbox(&state, "web").input(Input::Attached);
    let started = wait(handle.adopt(Monitor::builder(sandbox).host_reaps(), pid, io)).unwrap();
    assert_eq!(started.pid, pid);
    wait(handle.send(started.id, "go\n")).unwrap();
    let status = child.wait().unwrap();
    handle.reaped(started.id, pid, status);
    let end = wait(started.end).unwrap();
    assert_eq!((end.status(), end.bytes_logged), (Some(ExitStatus::Code(7)), 4));
}

#[test]
fn a_process_that_is_no_child_is_refused_and_its_descriptors_come_back() {
    let state = State::new();
    let host = Host::new().unwrap();
    let (reader, _writer) = std::io::pipe().unwrap();
    let io = ChildIo::Piped { stdin: None, stdout: Some(reader.into()), stderr: None };
    let refused = wait(host.handle().adopt(sandbox(&state, "web"), 1, io)).unwrap_err();
    let HostError::Adopt(error) = refused else { panic!("{refused}") };
    assert!(matches!(error.io, ChildIo::Piped { stdout: Some(_), .. }));
}

#[test]
fn a_reply_that_is_dropped_cancels_nothing() {
    let state = State::new();
    let host = Host::new().unwrap();
    let handle = host.handle();
    drop(handle.start(sandbox(&state, "web"), sh("echo up; exec sleep 1000")));
    state.wait_for_log("web", b"up\n");
    let listed = wait(handle.list()).unwrap();
    let end = handle.wait(listed[0].id);
    drop(handle.stop(listed[0].id, None));
    assert_eq!(wait(end).unwrap().reason(), Reason::Stopped);
}

#[test]
fn a_reply_is_asked_for_without_waiting_too() {
    let state = State::new();
    let host = Host::new().unwrap();
    let web = wait(host.handle().start(sandbox(&state, "web"), sh("exec sleep 1000"))).unwrap();
    let end = web.end.try_take().unwrap_err();
    let end = end.wait_timeout(Duration::from_millis(1)).unwrap_err();
    drop(host);
    assert_eq!(wait(end).unwrap().reason(), Reason::Stopped);
}

#[test]
fn the_thread_of_the_host_does_not_wait_for_itself() {
    let state = State::new();
    let host = Host::new().unwrap();
    let (handle, (sender, receiver)) = (host.handle(), mpsc::channel());
    let mut events = handle.events(10);
    let inner = handle.clone();
    let observer = move |transition: &Transition| {
        if let Transition::Running { .. } = transition {
            let replies = (inner.list().wait(), inner.events(1).wait().is_err());
            sender.send(replies).unwrap();
        }
    };
    let started = handle.start(builder(&state, "web").observer(observer), sh("exit 0"));
    wait(wait(started).unwrap().end).unwrap();
    let (list, events_refused) = receiver.recv().unwrap();
    assert!(matches!(list, Err(HostError::OwnThread)) && events_refused);
    // A reply that is there already is not waited for.
    let ready = handle.list();
    events.wait().unwrap();
    let on_it = handle.call(move |_| ready.wait().map(|list| list.len()));
    assert_eq!(wait(on_it).unwrap().unwrap(), 0);
}

#[test]
fn the_thread_blocks_signals_that_the_program_may_handle_and_children_do_not() {
    let state = State::new();
    let before = SigSet::thread_get_mask().unwrap();
    let host = Host::new().unwrap();
    assert_eq!(SigSet::thread_get_mask().unwrap(), before);
    let mask = wait(host.handle().call(|_| SigSet::thread_get_mask().unwrap())).unwrap();
    for blocked in [NixSignal::SIGTERM, NixSignal::SIGINT, NixSignal::SIGCHLD, NixSignal::SIGUSR1] {
        assert!(mask.contains(blocked), "{blocked}");
    }
    assert!(!mask.contains(NixSignal::SIGSEGV));
    let script = sh("grep SigBlk /proc/self/status");
    let started = wait(host.handle().start(sandbox(&state, "web"), script)).unwrap();
    wait(started.end).unwrap();
    assert_eq!(state.log("web"), b"SigBlk:\t0000000000000000\n");
}
