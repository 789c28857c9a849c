//! `@flood`: writes a stream as fast as it is taken, and reports what that has cost the writer.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use super::{nanos, raw_stdout};
use crate::Result;
use crate::pattern::{Block, Flood};

/// The environment variable that names the file for the report.
pub const REPORT: &str = "VMON_BENCH_REPORT";

/// The writer's own report.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    /// Just before the first write.
    pub began: Duration,
    /// The writer's user and system time.
    pub cpu: Duration,
}

impl Written {
    /// Reads the report.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("the writer has left no report: {error}"))?;
        let mut numbers = text.split_whitespace().map(str::parse::<u64>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(began)), Some(Ok(cpu))) => {
                Ok(Self { began: Duration::from_nanos(began), cpu: Duration::from_micros(cpu) })
            }
            _ => Err(format!("the writer's report is {text:?}").into()),
        }
    }
}

pub fn run(blocks: &str, block: &str, line: &str) -> Result<()> {
    let flood = Flood { blocks: blocks.parse()?, block: block.parse()?, line: line.parse()? };
    let mut out = raw_stdout()?;
    let mut next = Block::first(&flood);
    let began = nanos();
    let mut left = if flood.blocks == 0 { u64::MAX } else { flood.blocks };
    while left > 0 {
        out.write_all(next.bytes())?;
        next.advance();
        left -= 1;
    }
    if let Some(path) = std::env::var_os(REPORT) {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let cpu = (usage.user_time() + usage.system_time()).num_microseconds();
        std::fs::write(path, format!("{began} {cpu}\n"))?;
    }
    Ok(())
}
