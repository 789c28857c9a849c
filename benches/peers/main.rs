//! vmon beside the tools that do a part of its work: `cargo bench --bench peers`.
//!
//! Each row of the benchmark is one workload. It runs vmon and its peers in turn, A B A B …,
//! measures each as a whole process from outside, checks that what was written is complete, and
//! gives the ratio of each pair. `--help` lists the options.
//!
//! Every child that a tool supervises here is this very program in a hidden mode (`@flood`,
//! `@idle` …, see [`modes`]), so all tools run the same child.

// A failure of the benchmark is a panic.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::unwrap_used)]

mod bench;
mod machine;
mod modes;
mod options;
mod pattern;
mod peers;
mod process;
mod procfs;
mod pty;
mod report;
mod row;
mod rows;
mod samples;
mod scratch;
mod tools;

use std::process::ExitCode;

use bench::Bench;
use options::{Asked, Options};
use peers::Peers;
use report::Report;

/// An error message for the user of the benchmark.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// A result of this program.
pub type Result<T> = std::result::Result<T, Error>;

fn main() -> ExitCode {
    let words: Vec<String> =
        std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    if let Some(mode) = words.first().and_then(|word| word.strip_prefix('@')) {
        return modes::run(mode, &words[1..]);
    }
    let options = match Options::parse(&words) {
        Ok(Asked::Run(options)) => options,
        Ok(Asked::Help) => {
            print!("{}", options::HELP);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("peers: {error}");
            return ExitCode::from(2);
        }
    };
    match run(*options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs what is asked for. Whether vmon did everything right; how fast is no question here.
fn run(options: Options) -> Result<bool> {
    pattern::check_the_checker()?;
    let _sweeper = process::Sweeper::install()?;
    let mut peers = Peers::find(&options);
    for missing in peers.missing() {
        eprintln!("peers: {missing} is not installed: its figures are left out");
    }
    rows::build(&options, &mut peers);
    let bench = Bench { options, peers };
    let rows = rows::run(&bench)?;
    let report = Report::new(&bench, rows);
    report.save(&bench.options)?;
    print!("{report}");
    Ok(report.failures().is_empty())
}
