//! What the command line asks for.

use std::path::PathBuf;
use std::time::Duration;

use crate::{Error, Result};

/// What `--help` prints.
pub const HELP: &str = "\
Usage: cargo bench --bench peers -- [OPTIONS]

Measures vmon beside its peers. What is missing is installed on Debian by
benches/install-peers.sh.

  --quick              tiny sizes: whether everything works, not how fast (for CI)
  --rows N,N…          only these rows: 1 to 13
  --runs N             how many times each tool runs a workload [default: 5; 1 with --quick];
                       rows 7, 8, 10 and 11 are measured once, row 9 in twice as many rounds
  --idle-seconds N     how long row 7 watches [default: 30; 1 with --quick]
  --dir DIR            where logs are written, and removed again [default: target/tmp]
  --out DIR            where tables, JSON and plots go [default: target/peers]
  --save DIR           a copy of the plots, the JSON and the Markdown table
  --static-vmon PATH   the static build to measure [default: $VMON_STATIC, else it is built]
  --no-static          leave the static build out
";

/// The rows that there are.
pub const ROWS: [u8; 13] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13];

/// What to do.
pub enum Asked {
    /// Measure.
    Run(Options),
    /// Print [`HELP`].
    Help,
}

/// Where the static build of the command comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StaticVmon {
    /// It is built.
    Build,
    /// It is there.
    Given(PathBuf),
    /// It is not measured.
    LeaveOut,
}

/// The options of a run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Tiny sizes.
    pub quick: bool,
    /// The rows to measure, in their order.
    pub rows: Vec<u8>,
    /// How often each tool runs a workload.
    pub runs: usize,
    /// How long the idle tools are watched.
    pub idle: Duration,
    /// Where logs are written.
    pub dir: PathBuf,
    /// Where the results go.
    pub out: PathBuf,
    /// Where a copy of them goes.
    pub save: Option<PathBuf>,
    /// The static build.
    pub static_vmon: StaticVmon,
}

/// The words as they come; what depends on `--quick` is decided when all are read.
#[derive(Default)]
struct Words {
    quick: bool,
    rows: Option<Vec<u8>>,
    runs: Option<usize>,
    idle: Option<u64>,
    dir: Option<PathBuf>,
    out: Option<PathBuf>,
    save: Option<PathBuf>,
    static_vmon: Option<StaticVmon>,
    help: bool,
}

impl Options {
    /// Reads the command line.
    pub fn parse(words: &[String]) -> Result<Asked> {
        // `cargo bench` passes --bench, and `cargo test` does not.
        let benchmark = words.iter().any(|word| word == "--bench");
        let given: Vec<&str> =
            words.iter().map(String::as_str).filter(|word| *word != "--bench").collect();
        let mut read = Words { quick: !benchmark && given.is_empty(), ..Words::default() };
        let mut rest = given.into_iter();
        while let Some(word) = rest.next() {
            read.take(word, &mut rest)?;
        }
        if read.help {
            return Ok(Asked::Help);
        }
        Ok(Asked::Run(read.finish()?))
    }
}

impl Words {
    fn take<'a>(&mut self, word: &str, rest: &mut impl Iterator<Item = &'a str>) -> Result<()> {
        let (name, attached) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        let mut value = || attached.or_else(|| rest.next()).ok_or(format!("{name} needs a value"));
        match name {
            "--quick" => self.quick = true,
            "--help" | "-h" => self.help = true,
            "--no-static" => self.static_vmon = Some(StaticVmon::LeaveOut),
            "--rows" => self.rows = Some(rows(value()?)?),
            "--runs" => self.runs = Some(number(name, value()?)?),
            "--idle-seconds" => self.idle = Some(number(name, value()?)?),
            "--dir" => self.dir = Some(value()?.into()),
            "--out" => self.out = Some(value()?.into()),
            "--save" => self.save = Some(value()?.into()),
            "--static-vmon" => self.static_vmon = Some(StaticVmon::Given(value()?.into())),
            _ => return Err(format!("unknown option {word:?}; --help lists the options").into()),
        }
        Ok(())
    }

    fn finish(self) -> Result<Options> {
        let (runs, idle) = if self.quick { (1, 1) } else { (5, 30) };
        let from_environment = || Some(StaticVmon::Given(std::env::var_os("VMON_STATIC")?.into()));
        let otherwise = if self.quick { StaticVmon::LeaveOut } else { StaticVmon::Build };
        let dir = self.dir.unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
        Ok(Options {
            quick: self.quick,
            rows: self.rows.unwrap_or_else(|| ROWS.to_vec()),
            runs: self.runs.unwrap_or(runs),
            idle: Duration::from_secs(self.idle.unwrap_or(idle)),
            // Absolute, for tools that change their working directory.
            dir: std::path::absolute(dir)?,
            out: self.out.unwrap_or_else(|| target_directory().join("peers")),
            save: self.save,
            static_vmon: self.static_vmon.or_else(from_environment).unwrap_or(otherwise),
        })
    }
}

/// Cargo's target directory, from the `tmp` in it that Cargo passes to a benchmark.
pub fn target_directory() -> PathBuf {
    let mut path = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    path.pop();
    path
}

fn number<T: std::str::FromStr + PartialOrd + From<u8>>(name: &str, word: &str) -> Result<T> {
    word.parse()
        .ok()
        .filter(|number| *number >= T::from(1))
        .ok_or_else(|| format!("{name} takes a number from 1 on, not {word:?}").into())
}

fn rows(words: &str) -> Result<Vec<u8>> {
    let row = |word: &str| -> Result<u8> {
        let known = word.trim().parse().ok().filter(|row| ROWS.contains(row));
        known.ok_or_else(|| -> Error { format!("--rows: there is no row {word:?}").into() })
    };
    let mut rows = words.split(',').map(row).collect::<Result<Vec<_>>>()?;
    rows.sort_unstable();
    rows.dedup();
    Ok(rows)
}
