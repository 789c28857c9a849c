//! The rows of the benchmark: one file per kind of workload.

mod crowd;
mod idle;
mod latency;
mod since;
mod size;
mod start;
mod static_build;
mod streams;
mod terminal;

use std::time::Instant;

use crate::Result;
use crate::bench::Bench;
use crate::options::{Options, StaticVmon};
use crate::peers::Peers;
use crate::row::Row;

/// Builds the static executable where a selected row measures it and none was given.
pub fn build_static(options: &Options, peers: &mut Peers) {
    let is_measured = options.rows.iter().any(|row| matches!(row, 7 | 8 | 11));
    if !is_measured || options.static_vmon != StaticVmon::Build {
        return;
    }
    eprintln!("peers: building the static vmon");
    match static_build::build() {
        Ok(path) => peers.static_vmon = Some(path),
        Err(error) => eprintln!("peers: no static vmon: {error}"),
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
        _ => latency::limited(bench)?,
    };
    eprintln!("peers: row {number}, {:.0} s: {}", began.elapsed().as_secs_f64(), row.title);
    Ok(row)
}
