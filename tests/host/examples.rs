//! The examples on tokio.

use std::sync::Arc;

use crate::common::State;
use crate::sandbox;
use vmon::child::{ExitStatus, Signal};
use vmon::host::Host;
use vmon::monitor::{Phase, Reason};
use vmon::registry::Registry;

#[allow(dead_code)] // its `main`
#[path = "../../examples/process_monitor.rs"]
mod process_monitor;
#[allow(dead_code)] // its `main`
#[path = "../../examples/tokio.rs"]
mod tasks;

#[test]
fn two_hundred_sandboxes_of_tasks_end_with_their_codes_and_are_on_record() {
    let state = State::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let codes = runtime.block_on(tasks::run(state.path())).unwrap();
    assert_eq!(codes, (0..200).collect::<Vec<u8>>());
    let runs = Registry::open(state.db()).unwrap().runs().unwrap();
    assert_eq!(runs.len(), 200);
    for run in runs {
        let name = run.name.as_str();
        let code = name.trim_start_matches('n').parse().unwrap();
        assert_eq!((run.state, run.exit_code), (Some(Phase::Stopped), Some(code)));
        assert_eq!(state.log(name), format!("{code}\n").as_bytes());
    }
}

#[test]
fn a_supervisor_on_tokio_awaits_its_children_and_each_end_is_recorded_with_its_status() {
    use process_monitor::{MicroVmMonitor, supervise};
    let state = State::new();
    let registry = Registry::open(state.db()).unwrap().keep_connection();
    let host = Host::new().unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let tasks: Vec<_> = (0..100)
            .map(|n| {
                let name = format!("n{n}");
                let monitor = MicroVmMonitor::new(&host, &registry, sandbox(&state, &name));
                let mut command = tokio::process::Command::new("sh");
                let script = if n % 10 == 0 { "echo $$; kill -9 $$" } else { "echo $$; exit 7" };
                command.args(["-c", script]);
                (n, name, tokio::spawn(supervise(monitor, command)))
            })
            .collect();
        let mut ends = Vec::new();
        for (n, name, task) in tasks {
            ends.push((n, name, task.await.unwrap().unwrap()));
        }
        let runs = registry.runs().unwrap();
        for (n, name, end) in ends {
            let (status, reason) = match n % 10 {
                0 => (ExitStatus::Signal(Signal::KILL), Reason::Signalled),
                _ => (ExitStatus::Code(7), Reason::Exited),
            };
            assert_eq!((end.status(), end.reason()), (Some(status), reason));
            let run = runs.iter().find(|run| run.name.as_str() == name).unwrap();
            assert_eq!((run.state, run.exit_code), (Some(Phase::Stopped), status.code()));
            assert_eq!(state.log(&name), format!("{}\n", run.pid.unwrap()).as_bytes());
        }
    });
}

#[test]
fn a_stop_before_the_child_has_ended_asks_it_to() {
    use process_monitor::MicroVmMonitor;
    let state = State::new();
    let registry = Registry::open(state.db()).unwrap();
    let host = Host::new().unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut monitor = MicroVmMonitor::new(&host, &registry, sandbox(&state, "web"));
        let mut command = std::process::Command::new("sleep");
        let mut child = command.arg("1000").spawn().unwrap();
        let pid = child.id();
        monitor.start(pid, (&mut child).into()).await.unwrap();
        let end: Arc<_> = monitor.stop().await.unwrap();
        assert_eq!((end.signal(), end.reason()), (Some(Signal::TERM), Reason::Stopped));
        // It is left to the host to reap it.
        assert_eq!(ExitStatus::from(child.wait().unwrap()), ExitStatus::Signal(Signal::TERM));
    });
}
