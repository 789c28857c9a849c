//! The input of packet clients, and its end.

use super::*;

#[test]
fn a_half_close_ends_the_input_of_the_child_for_all_and_the_output_goes_on() {
    let mut host = Host::new("cat; echo over; until [ -e \"$1\" ]; do sleep 0.01; done; echo last");
    let (mut one, mut other) = (host.attach(CLOSES), host.attach(CLOSES));
    one.send(b"line\n");
    one.half_close();
    host.until_seen(&mut other, "line\nover\n");
    other.send(b"discarded\n");
    host.open_gate();
    host.until_ended(&mut one);
    host.until_ended(&mut other);
    assert_eq!(one.stdout, b"line\nover\nlast\n");
    assert_eq!(other.stdout, one.stdout);
    assert_eq!(host.end().0.exit_code(), 0);
}

#[test]
fn an_empty_packet_and_a_close_are_the_end_of_the_input_too() {
    for close in [false, true] {
        let mut host = Host::new("cat; echo over");
        let client = host.attach(CLOSES);
        let mut other = host.attach(IGNORED);
        client.send(b"line\n");
        match close {
            true => drop(client),
            false => client.send(b""),
        }
        host.until_ended(&mut other);
        assert_eq!(other.stdout, b"line\nover\n");
        assert_eq!(host.end().0.exit_code(), 0);
    }
}

#[test]
fn the_end_of_a_clients_input_may_mean_nothing_for_the_child() {
    let mut host = Host::new("while read line; do echo \"got $line\"; done; echo over");
    let (mut one, other) = (host.attach(IGNORED), host.attach(IGNORED));
    one.send(b"a\n");
    one.half_close();
    host.until_seen(&mut one, "got a\n");
    other.send(b"b\n");
    host.until_seen(&mut one, "got b\n");
    drop(other);
    host.until("the other one is closed", |host| host.clients() == 1);
    let last = host.attach(CLOSES);
    last.send(b"c\n");
    last.half_close();
    host.until_ended(&mut one);
    assert_eq!(one.stdout, b"got a\ngot b\ngot c\nover\n");
}

#[test]
fn the_end_of_input_of_a_terminal_is_that_of_all_clients_and_its_output_goes_on() {
    let script =
        "trap 'echo signalled' USR1; echo up; while :; do read line && echo \"got $line\"; done";
    let mut host = Host::with(script, true, |sandbox| sandbox, |builder| builder);
    let mut one = host.attach(CLOSES);
    let (ours, theirs) = pair();
    let seen_by_monitor = ours.try_clone().unwrap();
    host.try_attach(ours, CLOSES).unwrap();
    let other = Client::new(theirs);
    one.send(b"a\n");
    host.until_seen(&mut one, "got a\r\n");
    one.half_close();
    other.send(b"lost\n");
    // The one was readable first, so it is read before the other one or in the same turn.
    host.until("it has been read", |_| bytes_waiting(seen_by_monitor.as_raw_fd()) == 0);
    other.send(b"lost too\n");
    host.until("it has been read", |_| bytes_waiting(seen_by_monitor.as_raw_fd()) == 0);
    host.monitor().pid().unwrap();
    host.reactor.call(host.id, |it, _| it.signal_child(Signal::USR1)).unwrap().unwrap();
    host.until_seen(&mut one, "signalled\r\n");
    assert!(!contains(&host.state.log("a"), b"lost too"));
    host.reactor.call(host.id, |it, _| it.signal_child(Signal::KILL)).unwrap().unwrap();
    host.until_ended(&mut one);
}

#[test]
fn input_that_the_child_does_not_take_waits_and_the_output_goes_on() {
    let script = "echo up; until [ -e \"$1\" ]; do sleep 0.01; done; echo on; read go; \
                  until [ -e \"$1.too\" ]; do sleep 0.01; done; wc -c; echo over";
    let mut host = Host::new(script);
    let mut client = host.attach(CLOSES);
    client.send(b"\n");
    let piece = [b'x'; 32 << 10];
    let mut sent = 0;
    // As much as the pipe, the monitor and the socket take.
    for _ in 0..20 {
        while sent < 32 && client.try_send(&piece) {
            sent += 1;
        }
        host.reactor.poll_once(Some(Duration::ZERO)).unwrap();
    }
    assert!(sent < 32);
    host.open_gate();
    host.until_seen(&mut client, "on\n");
    turn_until_asleep(&mut host.reactor);
    fs::write(host.state.file("gate.too"), "").unwrap();
    host.until("all is sent", |_| {
        while sent < 32 && client.try_send(&piece) {
            sent += 1;
        }
        sent == 32
    });
    client.half_close();
    host.until_ended(&mut client);
    let text = String::from_utf8(client.stdout).unwrap();
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    assert_eq!(lines, ["up", "on", "1048576", "over"]);
}

#[test]
fn input_that_the_child_did_not_take_does_not_cost_its_client_the_last_output() {
    let mut host = Host::new("until [ -e \"$1\" ]; do sleep 0.01; done; seq 1 20000; exit 3");
    let mut client = host.attach(CLOSES);
    for _ in 0..20 {
        while client.try_send(&[b'x'; 32 << 10]) {}
        host.reactor.poll_once(Some(Duration::ZERO)).unwrap();
    }
    host.open_gate();
    host.until("the end of the client's stream", |_| {
        // It keeps sending, too.
        let _ =
            send(client.socket.as_raw_fd(), b"x", MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
        client.read();
        client.ended
    });
    let (end, state) = host.end();
    assert_eq!(end.exit_code(), 3);
    assert_same(&client.stdout, &state.log("a"), "what the client got");
}
