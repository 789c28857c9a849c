//! What has come out: rows of figures and of goals, as text, Markdown, JSON and plots.

mod json;
mod markdown;
mod plots;
mod text;

use std::fs;
use std::path::Path;

use crate::Result;
use crate::bench::Bench;
use crate::machine::Machine;
use crate::options::Options;
use crate::row::Row;

/// The whole outcome.
pub struct Report {
    machine: Machine,
    quick: bool,
    missing: Vec<&'static str>,
    rows: Vec<Row>,
}

impl Report {
    /// Of these rows.
    pub fn new(bench: &Bench, rows: Vec<Row>) -> Self {
        let machine = Machine::this(&bench.peers, &bench.options.dir);
        Self { machine, quick: bench.options.quick, missing: bench.peers.missing(), rows }
    }

    /// What vmon did wrong, in all rows.
    pub fn failures(&self) -> Vec<String> {
        let of = |row: &Row| -> Vec<String> {
            row.failures.iter().map(|text| format!("row {}: {text}", row.number)).collect()
        };
        self.rows.iter().flat_map(of).collect()
    }

    /// Writes tables, JSON and plots.
    pub fn save(&self, options: &Options) -> Result<()> {
        self.save_to(&options.out)?;
        options.save.as_deref().map_or(Ok(()), |dir| self.save_to(dir))
    }

    fn save_to(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let write = |name: &str, text: String| -> Result<()> {
            let path = dir.join(name);
            Ok(fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?)
        };
        write("peers.json", format!("{:#}\n", self.json()))?;
        write("peers.md", self.markdown())?;
        for (name, svg) in plots::draw(&self.rows)? {
            write(name, svg)?;
        }
        Ok(())
    }
}
