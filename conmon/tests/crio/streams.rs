//! Attached clients.

use crate::client::Client;
use crate::common::{contains, eventually, text};
use crate::engine::{Shape, each};

const STDIN: Shape = Shape { terminal: false, stdin: true, stdin_once: false, memory: 0 };

#[test]
fn a_client_gets_both_streams_from_the_first_byte() {
    each(|engine| {
        let script = "seq 1 30000; seq 1 100 >&2; exit 2";
        let container = engine.create(Shape::default(), script);
        let mut client = Client::attach(&container);
        container.start();
        client.rest();
        let lines = |to| (1..=to).map(|n| format!("{n}\n")).collect::<String>();
        assert!(text(&client.stdout) == lines(30_000), "{} bytes", client.stdout.len());
        assert!(text(&client.stderr) == lines(100), "{} bytes", client.stderr.len());
        assert_eq!(container.exit_code(), 2);
        assert!(container.logged("stdout") == lines(30_000));
    });
}

#[test]
fn the_end_of_input_ends_that_of_a_container_with_one_client() {
    each(|engine| {
        let shape = Shape { stdin_once: true, ..STDIN };
        let container = engine.create(shape, "cat; echo the end");
        let mut client = Client::attach(&container);
        container.start();
        let input: String = (1..=20_000).map(|n| format!("{n}\n")).collect();
        // What does not fit waits, and so does its sender; output goes on.
        let (way_in, sent) = (client.input(), input.clone());
        let sender = std::thread::spawn(move || {
            way_in.send(sent.as_bytes());
            way_in.close();
        });
        client.rest();
        sender.join().unwrap();
        let expected = input + "the end\n";
        assert!(text(&client.stdout) == expected, "{} bytes", client.stdout.len());
        assert_eq!(container.exit_code(), 0);
    });
}

#[test]
fn input_may_go_on_after_a_client_has_ended_its_own() {
    each(|engine| {
        let container = engine.create(STDIN, "while read -r line; do echo \"got $line\"; done");
        container.start();
        for round in ["one", "two"] {
            let mut client = Client::attach(&container);
            client.send(format!("{round}\n").as_bytes());
            client.close_input();
            // After its half of the close it still gets output.
            client.wait_for(&format!("got {round}\n"));
        }
        container.stop("KILL");
        assert_eq!(container.logged("stdout"), "got one\ngot two\n");
    });
}

#[test]
fn a_terminal_takes_input_and_sizes() {
    each(|engine| {
        let shape = Shape { terminal: true, ..Shape::default() };
        let script = "trap 'stty size' WINCH; echo ready; n=0; while test $n -lt 2; do read -r line && echo \"got $line\" && n=$((n+1)); done";
        let container = engine.create(shape, script);
        let mut client = Client::attach(&container);
        container.start();
        client.wait_for("ready\r\n");
        client.resize(50, 132);
        client.wait_for("50 132\r\n");
        client.send(b"hello\n");
        client.wait_for("hello\r\ngot hello\r\n");
        let mut second = Client::attach(&container);
        second.send(b"there\n");
        second.wait_for("got there\r\n");
        client.rest();
        assert!(contains(&client.stdout, b"got there\r\n"));
    });
}

#[test]
fn what_no_line_ends_stays_a_part() {
    each(|engine| {
        let container = engine.create(Shape::default(), "printf 'a line\\nno line'");
        container.start();
        assert_eq!(container.exit_code(), 0);
        let records = container.records();
        let records: Vec<_> =
            records.iter().map(|record| (record.is_full, text(&record.text))).collect();
        assert_eq!(records, [(true, "a line".to_owned()), (false, "no line".to_owned())]);
    });
}

#[test]
fn a_daemon_that_holds_the_streams_is_not_waited_for() {
    each(|engine| {
        // In the host's pid namespace the daemon outlives the first process.
        let container = engine.prepare(Shape::default(), "sleep 600 & echo over");
        let path = container.bundle().join("config.json");
        let config = std::fs::read_to_string(&path).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
        config["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .retain(|namespace| namespace["type"] != "pid");
        std::fs::write(&path, config.to_string()).unwrap();
        container.create().unwrap();
        container.start();
        container.wait_for_monitor();
        assert_eq!(std::fs::read_to_string(container.persist().join("exit")).unwrap(), "0");
        assert_eq!(container.logged("stdout"), "over\n");
        let _ = engine.runtime(&["kill", "--all", &container.id, "KILL"]).output();
        eventually("it is deleted", || container.delete().status.success());
    });
}
