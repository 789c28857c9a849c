//! `vmon run --metrics-interval`: samples are recorded only with the option, while the command
//! runs.

#![cfg(target_os = "linux")]

use crate::common::{Detached, State, eventually};

fn samples(state: &State) -> Vec<(Option<f64>, Option<i64>)> {
    let db = rusqlite::Connection::open(state.db()).unwrap();
    let query = "SELECT cpu_usage_percent, memory_usage_bytes FROM sandbox_metrics";
    let mut statement = db.prepare(query).unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

#[test]
fn samples_of_a_busy_command_have_its_cpu_usage() {
    let state = State::new();
    let options = ["-d", "--metrics-interval", "50ms"];
    let _web = Detached::start(&state, &mut state.run("web", &options, "while :; do :; done"));
    eventually("a sample of it at work", || {
        samples(&state).iter().any(|(cpu, memory)| {
            cpu.is_some_and(|cpu| cpu > 5.0) && memory.is_some_and(|memory| memory > 100_000)
        })
    });
    assert!(state.vmon().args(["stop", "web"]).status().unwrap().success());
    let count = samples(&state).len();
    assert!(state.vmon().args(["wait", "web"]).output().unwrap().status.success());
    assert_eq!(samples(&state).len(), count);
}

#[test]
fn without_the_option_there_is_no_sample() {
    let state = State::new();
    let _web = Detached::start(&state, &mut state.run("web", &["-d"], "exec sleep 100"));
    assert!(state.vmon().args(["stop", "web"]).status().unwrap().success());
    assert_eq!(samples(&state), []);
}
