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
  --rows N,N…          only these rows: 1 to 18
  --runs N             how many times each tool runs a workload [default: 5; 1 with --quick];
                       rows 7, 8, 10 and 11 are measured once, row 14 at most three times, rows
                       9, 17 and 18 in twice as many rounds
  --idle-seconds N     how long row 7 watches [default: 30; 1 with --quick]
  --dir DIR            where logs are written, and removed again [default: target/tmp]
  --out DIR            where tables, JSON and plots go [default: target/peers]
  --save DIR           a copy of the plots, the JSON and the Markdown table
  --static-vmon PATH   the static build to measure [default: $VMON_STATIC, else it is built]
  --vmon-conmon PATH   the vmon-conmon of rows 14 to 18 [default: $VMON_CONMON, else it is built]
  --static-vmon-conmon PATH
                       its static build [default: $VMON_CONMON_STATIC, else it is built]
  --no-static          leave the static builds out
  --conmon PATH        the conmon to measure [default: $CONMON, else the one in $PATH]
";

/// The rows that there are.
pub const ROWS: [u8; 18] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18];

/// What to do.
pub enum Asked {
    /// Measure.
    Run(Box<Options>),
    /// Print [`HELP`].
    Help,
}

/// Where an executable of this project comes from, other than the command itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Executable {
    /// It is built.
    Build,
    /// It is there.
    Given(PathBuf),
    /// It is not measured.
    LeaveOut,
}

impl Executable {
    /// The one of the command line, else of the environment variable, else this.
    fn or(given: Option<Self>, variable: &str, otherwise: Self) -> Self {
        let from_environment = || Some(Self::Given(std::env::var_os(variable)?.into()));
        given.or_else(from_environment).unwrap_or(otherwise)
    }

    /// The path that was given.
    pub fn given(&self) -> Option<PathBuf> {
        match self {
            Self::Given(path) => Some(path.clone()),
            Self::Build | Self::LeaveOut => None,
        }
    }
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
    /// The static build of the command.
    pub static_vmon: Executable,
    /// The monitor of containers.
    pub vmon_conmon: Executable,
    /// Its static build.
    pub static_vmon_conmon: Executable,
    /// Another conmon than the one in `PATH`.
    pub conmon: Option<PathBuf>,
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
    static_vmon: Option<Executable>,
    vmon_conmon: Option<Executable>,
    static_vmon_conmon: Option<Executable>,
    conmon: Option<PathBuf>,
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
        Ok(Asked::Run(Box::new(read.finish()?)))
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
            "--no-static" => {
                self.static_vmon = Some(Executable::LeaveOut);
                self.static_vmon_conmon = Some(Executable::LeaveOut);
            }
            "--rows" => self.rows = Some(rows(value()?)?),
            "--runs" => self.runs = Some(number(name, value()?)?),
            "--idle-seconds" => self.idle = Some(number(name, value()?)?),
            "--dir" => self.dir = Some(value()?.into()),
            "--out" => self.out = Some(value()?.into()),
            "--save" => self.save = Some(value()?.into()),
            "--static-vmon" => self.static_vmon = Some(Executable::Given(value()?.into())),
            "--vmon-conmon" => self.vmon_conmon = Some(Executable::Given(value()?.into())),
            "--static-vmon-conmon" => {
                self.static_vmon_conmon = Some(Executable::Given(value()?.into()));
            }
            "--conmon" => self.conmon = Some(value()?.into()),
            _ => return Err(format!("unknown option {word:?}; --help lists the options").into()),
        }
        Ok(())
    }

    fn finish(self) -> Result<Options> {
        let (runs, idle) = if self.quick { (1, 1) } else { (5, 30) };
        let static_build = if self.quick { Executable::LeaveOut } else { Executable::Build };
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
            static_vmon: Executable::or(self.static_vmon, "VMON_STATIC", static_build.clone()),
            vmon_conmon: Executable::or(self.vmon_conmon, "VMON_CONMON", Executable::Build),
            static_vmon_conmon: Executable::or(
                self.static_vmon_conmon,
                "VMON_CONMON_STATIC",
                static_build,
            ),
            conmon: self.conmon.or_else(|| Some(std::env::var_os("CONMON")?.into())),
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
