//! The rows of the benchmark: one file per kind of workload.

mod builds;
mod crowd;
mod idle;
mod latency;
mod monitors;
mod since;
mod size;
mod start;
mod streams;
mod terminal;

use std::time::Instant;

use crate::Result;
use crate::bench::Bench;
use crate::options::{Executable, Options};
use crate::peers::Peers;
use crate::row::Row;

/// The rows of the monitor of containers.
const MONITORS: [u8; 5] = [14, 15, 16, 17, 18];

/// Builds the executables that a selected row measures and that were not given.
pub fn build(options: &Options, peers: &mut Peers) {
    let builds = [
        (&options.static_vmon, &[7, 8, 11][..], &builds::STATIC_VMON, &mut peers.static_vmon),
        (&options.vmon_conmon, &MONITORS[..], &builds::VMON_CONMON, &mut peers.vmon_conmon),
        (
            &options.static_vmon_conmon,
            &[14][..],
            &builds::STATIC_VMON_CONMON,
            &mut peers.static_vmon_conmon,
        ),
    ];
    for (wanted, rows, build, place) in builds {
        let is_measured = options.rows.iter().any(|row| rows.contains(row));
        if !is_measured || *wanted != Executable::Build {
            continue;
        }
        eprintln!("peers: building {}", build.name);
        match build.path() {
            Ok(path) => *place = Some(path),
            Err(error) => eprintln!("peers: no {}: {error}", build.name),
        }
    }
}

/// Measures the selected rows, in their order.
pub fn run(bench: &Bench) -> Result<Vec<Row>> {
    bench.options.rows.iter().map(|&number| run_row(bench, number)).collect()
}

fn run_row(bench: &Bench, number: u8) -> Result<Row> {
    let began = Instant::now();
    let row = match number {
        1 => streams::large(bench)?,
        2 => streams::small(bench)?,
        3 => streams::forwarded(bench)?,
        4 => streams::cri(bench)?,
        5 => terminal::row(bench)?,
        6 => latency::row(bench)?,
        7 => idle::one(bench)?,
        8 => idle::many(bench)?,
        9 => start::row(bench)?,
        10 => crowd::row(bench)?,
        11 => size::row(bench)?,
        12 => since::row(bench)?,
        13 => latency::limited(bench)?,
        14 => monitors::idle(bench)?,
        15 => monitors::large(bench)?,
        16 => monitors::small(bench)?,
        17 => monitors::start(bench)?,
        _ => monitors::exec(bench)?,
    };
    eprintln!("peers: row {number}, {:.0} s: {}", began.elapsed().as_secs_f64(), row.title);
    Ok(row)
}
