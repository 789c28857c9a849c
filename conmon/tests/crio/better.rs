//! Where ours is to be better than conmon.

use crate::client::{Client, control};
use crate::common::{descriptors, eventually, status_number};
use crate::engine::{Container, Shape, both, ours};

#[test]
fn a_client_that_does_not_read_holds_up_nothing() {
    ours(|engine| {
        let script = "read _ </gate/go; seq 1 300000; echo over; read _ </gate/go";
        let container = engine.create(Shape::default(), script);
        container.start();
        let stuck = Client::attach(&container).with_little_room();
        let mut reads = Client::attach(&container);
        container.go();
        reads.wait_for("\n300000\nover\n");
        container.wait_for_log("over");
        let lines: String = (1..=300_000).map(|n| format!("{n}\n")).collect();
        assert!(container.logged("stdout") == lines + "over\n");
        // Nor does it hold up the end.
        container.go();
        reads.rest();
        assert_eq!(container.exit_code(), 0);
        drop(stuck);
    });
}

#[test]
fn clients_that_have_gone_leave_nothing_behind() {
    ours(|engine| {
        let container = engine.create(Shape::default(), "echo ready; read _ </gate/go; echo over");
        container.start();
        container.wait_for_log("ready");
        let monitor = container.monitor_pid();
        let before = descriptors(monitor);
        for _ in 0..5 {
            let clients: Vec<_> = (0..10).map(|_| Client::attach(&container)).collect();
            eventually("all are there", || descriptors(monitor) >= before + clients.len());
            // One half closes its input first.
            clients.iter().take(5).for_each(Client::close_input);
        }
        eventually("all are gone", || descriptors(monitor) == before);
        container.go();
        assert_eq!(container.exit_code(), 0);
    });
}

/// The times that the monitor has been woken up.
fn wakeups(container: &Container) -> u64 {
    status_number(container.monitor_pid(), "voluntary_ctxt_switches")
}

/// Waits until conmon has been woken up `times` times.
fn wait_for_wakeups(container: &Container, times: u64) {
    let from = wakeups(container);
    eventually("conmon polls the terminal", || wakeups(container) >= from + times);
}

#[test]
fn an_idle_container_causes_no_wake_up() {
    both(|conmon, ours| {
        // With no open slave, conmon polls its terminal ten times a second: it is the clock here.
        let shape = Shape { terminal: true, ..Shape::default() };
        let clock = conmon.create(shape, "exec sleep 600 </dev/null >/dev/null 2>&1");
        clock.start();
        let shapes = [
            (Shape::default(), "echo ready; exec sleep 600"),
            (Shape { stdin: true, ..Shape::default() }, "echo ready; exec sleep 600"),
            (shape, "echo ready; exec sleep 600"),
            (shape, "echo ready; exec sleep 600 </dev/null >/dev/null 2>&1"),
        ];
        let containers: Vec<_> =
            shapes.iter().map(|(shape, script)| (ours.create(*shape, script), shape)).collect();
        for (container, shape) in &containers {
            container.start();
            container.wait_for_log("ready");
            // What clients and control leave behind is idle too.
            let mut client = Client::attach(container);
            if shape.terminal {
                client.resize(24, 80);
            }
            drop(client);
            drop(control(container));
        }
        // Memory is given back two seconds after the last use, once.
        let all = || containers.iter().map(|(container, _)| wakeups(container)).collect::<Vec<_>>();
        eventually("they settle", || {
            let before = all();
            wait_for_wakeups(&clock, 30);
            all() == before
        });
        let before = all();
        wait_for_wakeups(&clock, 30);
        assert_eq!(all(), before);
        // They are there all the same.
        for (container, _) in &containers {
            container.stop("KILL");
            assert_eq!(container.exit_code(), 137);
        }
        clock.stop("KILL");
    });
}
