//! Row 9: from start to end, with `true` as the child.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::Result;
use crate::bench::Bench;
use crate::peers::Peer;
use crate::process::{self, Running};
use crate::row::{Goal, Row, Unit};
use crate::samples::{Contender, Measured, Samples, percentile};
use crate::tools::{self, AtTheEnd};

const TIME: (&str, Unit) = ("time", Unit::Millis);
const NO_FSYNC: &str = "conmon --no-sync-log";
const NEW: &str = "vmon, new state directory";

pub fn row(bench: &Bench) -> Result<Row> {
    let starts = bench.size(20, 3);
    let rounds = bench.size(2 * bench.options.runs, 1);
    let child = [OsString::from("true")];
    let child = child.as_slice();
    let vmon = |dir: &Path| tools::vmon(&bench.peers.vmon, dir, "true", &[], child);

    // The record grows, as it does in use.
    let lasting = bench.scratch()?;
    let mut tools = vec![
        Contender::ours("vmon", || median(starts, || time(vmon(lasting.path())))),
        Contender::ours(NEW, || {
            median(starts, || {
                let scratch = bench.scratch()?;
                time(vmon(&scratch.join("state")))
            })
        }),
        Contender::peer("true alone", || median(starts, || time(Command::new("true")))),
    ];
    tools.extend(
        bench.peer(Peer::Tini, "tini", move |path| {
            median(starts, || time(tools::tini(path, child)))
        }),
    );
    for (name, end) in [("conmon", AtTheEnd::Fsync), (NO_FSYNC, AtTheEnd::NoFsync)] {
        tools.extend(bench.peer(Peer::Conmon, name, move |path| {
            median(starts, || {
                let scratch = bench.scratch()?;
                time(tools::conmon(path, scratch.path(), end, child)?)
            })
        }));
    }
    tools.extend(bench.peer(Peer::Script, "script", move |path| {
        median(starts, || {
            let scratch = bench.scratch()?;
            time(tools::script(path, &scratch.join("log"), child)?)
        })
    }));
    let samples = Samples::in_turn(tools, rounds)?;

    let mut row = Row::new(9, "Start to end with `true`, record included");
    row.take(&samples, &[TIME]);
    row.ratio(&samples, ("vmon", "tini"), TIME, Some(Goal::AtMost(2.0)));
    row.ratio(&samples, ("vmon", "conmon"), TIME, Some(Goal::AtMost(0.5)));
    row.ratio(&samples, ("vmon", NO_FSYNC), TIME, None);
    row.ratio(&samples, (NEW, "tini"), TIME, None);
    row.ratio(&samples, ("vmon", "script"), TIME, None);
    row.notes.push(format!("A value is the median of {starts} starts in a row"));
    Ok(row)
}

/// How long one start may take.
const LIMIT: Duration = Duration::from_secs(30);

/// One start, in milliseconds.
fn time(mut command: Command) -> Result<f64> {
    let began = process::now();
    let ended = Running::spawn_plain(tools::silent(&mut command))?.wait_success(LIMIT)?;
    Ok((ended.at - began).as_secs_f64() * 1e3)
}

fn median(starts: usize, mut start: impl FnMut() -> Result<f64>) -> Result<Measured> {
    let mut times = (0..starts).map(|_| start()).collect::<Result<Vec<_>>>()?;
    times.sort_by(f64::total_cmp);
    Ok(vec![("time", percentile(&times, 0.5))])
}
