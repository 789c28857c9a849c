//! Packet clients that read slowly lose nothing, and those that do not read hold nothing up.

use super::*;

#[test]
fn a_client_that_reads_slowly_loses_nothing() {
    let mut host = Host::new("read go; seq 1 400000; seq 1 100 >&2");
    let mut slow = host.attach(IGNORED);
    slow.send(b"\n");
    host.until("the end of the client's stream", |_| {
        slow.read_one();
        slow.ended
    });
    let (end, state) = host.end();
    assert_eq!(end.exit_code(), 0);
    let expected: String = (1..=400_000).map(|n| format!("{n}\n")).collect();
    assert_same(&slow.stdout, expected.as_bytes(), "what the client got");
    assert_eq!(slow.stdout.len() + slow.stderr.len(), state.log("a").len());
}

#[test]
fn a_client_that_does_not_read_holds_up_neither_the_child_nor_others_and_gets_a_notice() {
    let mut host = Host::new("read go; seq 1 400000; read go; echo more; read go");
    let mut silent = host.attach(IGNORED);
    let mut other = host.attach(IGNORED);
    other.send(b"\n");
    host.until("all of the output", |_| {
        other.read();
        other.stdout.ends_with(b"\n400000\n")
    });
    let log = host.state.log("a");
    assert_same(&other.stdout, &log, "what the other client got");
    // No timer, and no queue that is tried again and again.
    turn_until_asleep(&mut host.reactor);
    let missed = host.monitor().report().sessions[0].missed;
    assert!(missed > 0);
    host.until("the notice", |_| {
        silent.read();
        !silent.stderr.is_empty()
    });
    let notice = format!("\r\n[vmon: {missed} bytes left out]\r\n");
    assert_eq!(String::from_utf8_lossy(&silent.stderr), notice);
    let got = silent.stdout.len();
    assert_eq!(got as u64 + missed, log.len() as u64);
    assert_same(&silent.stdout, &log[..got], "what the client got");
    other.send(b"\n");
    host.until_seen(&mut silent, "more\n");
    assert_eq!(&silent.stdout[got..], b"more\n");
    other.send(b"\n");
    host.until_ended(&mut silent);
    assert_eq!(host.end().0.exit_code(), 0);
}

#[test]
fn the_notice_of_a_terminal_is_in_its_own_stream() {
    let script = "stty -echo; echo up; read go; seq 1 100000; read go";
    let mut host = Host::with(script, true, |sandbox| sandbox, |builder| builder);
    host.until_logged(b"up");
    let mut silent = host.attach(IGNORED);
    silent.send(b"\n");
    let last = |host: &mut Host| host.state.log("a").ends_with(b"\n100000\r\n");
    host.until("all of the output", last);
    host.until_seen(&mut silent, " bytes left out]\r\n");
    assert!(silent.stderr.is_empty());
    host.stop();
    host.end();
}

#[test]
fn what_waits_at_the_end_reaches_a_client_that_reads() {
    let mut host = Host::new("read go; seq 1 60000; exit 3");
    let mut client = host.attach(IGNORED);
    client.send(b"\n");
    host.until_logged(b"\n60000\n");
    host.until_ended(&mut client);
    let (end, state) = host.end();
    assert_eq!(end.exit_code(), 3);
    assert_same(&client.stdout, &state.log("a"), "what the client got");
}

#[test]
fn a_client_that_does_not_read_does_not_hold_up_the_end() {
    for bytes in [300_000, 3_000_000] {
        let mut host = Host::new(&format!("read go; head -c {bytes} /dev/zero; exit 3"));
        let mut client = host.attach(IGNORED);
        client.send(b"\n");
        host.until("the end", |host| host.monitor().is_done());
        let (end, state) = host.end();
        assert_eq!((end.exit_code(), end.bytes_logged), (3, bytes));
        assert_eq!(state.log("a").len() as u64, bytes);
        client.read();
        assert!(client.ended && !client.stdout.is_empty());
    }
}

#[test]
fn a_stop_does_not_wait_for_a_client_that_does_not_read() {
    let describe = |sandbox: Sandbox| sandbox.stop_timeout(Duration::ZERO);
    let script = "read go; head -c 10000000 /dev/zero; sleep 1000";
    let mut host = Host::with(script, false, describe, |builder| builder);
    let client = host.attach(IGNORED);
    client.send(b"\n");
    host.until_logged(&[0; 100_000]);
    host.stop();
    let (end, _) = host.end();
    assert_eq!(end.exit_code(), 143);
}

#[test]
fn a_slow_client_gets_the_end_of_a_command_whose_daemon_holds_the_pipe() {
    let describe =
        |sandbox: Sandbox| sandbox.leave_descendants(true).stop_timeout(Duration::from_secs(3600));
    let build = |builder: Builder| builder.drain(Drain::Available);
    let script =
        "read go; { while echo more; do sleep 0.01; done 2>&-; } & seq 1 60000 >&2; exit 6";
    let mut host = Host::with(script, false, describe, build);
    let mut slow = host.attach(IGNORED);
    slow.send(b"\n");
    host.until("the end of the client's stream", |_| {
        slow.read_one();
        slow.ended
    });
    let expected: String = (1..=60_000).map(|n| format!("{n}\n")).collect();
    assert_same(&slow.stderr, expected.as_bytes(), "what the client got");
    assert_eq!(host.end().0.exit_code(), 6);
}
