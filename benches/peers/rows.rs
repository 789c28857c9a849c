//! The rows of the benchmark: one file a kind of workload.

mod crowd;
mod idle;
mod latency;
mod since;
mod size;
mod start;
mod static_build;
mod streams;
mod terminal;

use crate::Result;
use crate::options::Options;
use crate::peers::{Peer, Peers};
use crate::report::Row;
use crate::samples::{Contender, Measured};
use crate::scratch::Scratch;

/// What rows need to know.
pub struct Bench {
    /// What is asked for.
    pub options: Options,
    /// What there is to measure.
    pub peers: Peers,
}

impl Bench {
    /// Makes what is missing.
    pub fn new(options: Options, mut peers: Peers) -> Result<Self> {
        let needed = options.rows.iter().any(|row| matches!(row, 7 | 8 | 11));
        if needed && options.static_vmon == crate::options::StaticVmon::Build {
            eprintln!("peers: building the static vmon");
            match static_build::build() {
                Ok(path) => peers.static_vmon = Some(path),
                Err(error) => eprintln!("peers: no static vmon: {error}"),
            }
        }
        Ok(Self { options, peers })
    }

    /// Measures the rows that are asked for.
    pub fn run(&mut self) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for &number in &self.options.rows {
            let began = std::time::Instant::now();
            let row = match number {
                1 => streams::large(self)?,
                2 => streams::small(self)?,
                3 => streams::forwarded(self)?,
                4 => streams::cri(self)?,
                5 => terminal::row(self)?,
                6 => latency::row(self)?,
                7 => idle::one(self)?,
                8 => idle::many(self)?,
                9 => start::row(self)?,
                10 => crowd::row(self)?,
                11 => size::row(self)?,
                12 => since::row(self)?,
                _ => latency::limited(self)?,
            };
            eprintln!("peers: row {number}, {:.0} s: {}", began.elapsed().as_secs_f64(), row.title);
            rows.push(row);
        }
        Ok(rows)
    }

    /// A directory for one run.
    pub fn scratch(&self) -> Result<Scratch> {
        Scratch::new(&self.options.dir)
    }

    /// One size, or a small one for the quick form.
    pub fn size<T>(&self, full: T, quick: T) -> T {
        if self.options.quick { quick } else { full }
    }

    /// A peer with its path, if it is installed.
    pub fn peer<'a>(
        &'a self,
        peer: Peer,
        name: &str,
        mut run: impl FnMut(&'a std::path::Path) -> Result<Measured> + 'a,
    ) -> Option<Contender<'a>> {
        let path = self.peers.path(peer)?;
        Some(Contender::peer(name, move || run(path)))
    }
}
