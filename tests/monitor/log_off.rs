//! A sandbox without logs.

use std::fs;

use crate::common::State;
use crate::common::host::Host;
use vmon::child::Command;
use vmon::monitor::{Monitor, Restart, Sandbox};
use vmon::reactor::Reactor;

const ECHO: &str =
    "stty raw -echo; echo ready; while read -r line; do echo got $line; done; exit 3";

fn off(sandbox: Sandbox) -> Sandbox {
    sandbox.log_off(true)
}

fn host(state: State, script: &str, describe: impl FnOnce(Sandbox) -> Sandbox) -> Host {
    Host::new(state, &["sh", "-c", script].map(str::to_owned), describe, |builder| builder)
}

#[test]
fn no_directory_is_made_and_nothing_is_logged() {
    let (end, state) = host(State::new(), "echo out; echo err >&2; exit 3", off).end();
    assert_eq!((end.exit_code(), end.bytes_logged, end.bytes_dropped), (3, 0, 0));
    assert!(end.rotated.is_empty());
    assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0);
}

#[test]
fn a_log_directory_that_can_not_be_made_does_not_matter() {
    let describe = |mut sandbox: Sandbox| {
        sandbox.log_dir = "/dev/null/log".into();
        off(sandbox).console("c=pty".parse().unwrap())
    };
    let (end, _) = host(State::new(), "echo x; exit 3", describe).end();
    assert_eq!(end.exit_code(), 3);
}

#[test]
fn consoles_have_no_log_either_and_clients_get_no_tail() {
    let describe = |sandbox: Sandbox| off(sandbox).console("c=pty".parse().unwrap());
    let script = format!("exec <{{c}} >{{c}}; {ECHO}");
    let mut host = host(State::new(), &script, describe);
    host.until_open("c", 1);
    let report = host.monitor().report();
    assert_eq!((report.log, &report.consoles[0].log), (None, &None));
    let (mut client, attached) = host.try_attach(Some("c"), 1000).unwrap();
    assert_eq!(attached.tail, 0);
    host.ask(&mut client, "one", "got one");
    client.send(b"\x04");
    host.reactor.call(host.id, Monitor::stop).unwrap();
    let (end, state) = host.end();
    assert_eq!((end.consoles[0].bytes_logged, &end.consoles[0].log), (0, &None));
    assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0);
}

#[test]
fn no_name_is_claimed_by_it() {
    let state = State::new();
    let path = state.path().to_owned();
    let mut reactor = Reactor::new().unwrap();
    let ids = [(); 2].map(|()| {
        let sandbox = off(Sandbox::new("a", path.join("log")).unwrap());
        let command = Command::new("sh").args(["-c", "exit 3"]);
        Monitor::builder(sandbox).spawn(&mut reactor, command)
    });
    reactor.run().unwrap();
    for id in ids {
        let end = reactor.remove(id).unwrap().into_end().unwrap();
        assert_eq!(end.exit_code(), 3);
    }
}

#[test]
fn a_restarted_command_has_no_log_in_any_run() {
    let describe = |sandbox: Sandbox| {
        let sandbox = off(sandbox).console("c=pty".parse().unwrap());
        sandbox.restart(Restart::OnFailure { max: Some(2) })
    };
    let (end, state) = host(State::new(), "echo x; exit 3", describe).end();
    assert_eq!((end.exit_code(), end.bytes_logged), (3, 0));
    assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0);
}
