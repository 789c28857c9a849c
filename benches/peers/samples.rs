//! Tools run in turn, and what comes of it: figures with their spread, and ratios of pairs.

use crate::{Result, process};

/// Median and spread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// The middle one; of an even number, the mean of the two.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Summary {
    /// Of these values; `None` of none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
            _ => sorted[middle],
        };
        Some(Self { median, min, max })
    }
}

/// The value of this share of the sorted values: 0.5 for the median, 0.99 for the 99th percentile.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// What one run gives: the value of each measure.
pub type Measured = Vec<(&'static str, f64)>;

/// One tool under one workload.
pub struct Contender<'a> {
    name: String,
    ours: bool,
    rounds: usize,
    run: Box<dyn FnMut() -> Result<Measured> + 'a>,
}

impl<'a> Contender<'a> {
    /// vmon, whose mistakes are failures of the benchmark.
    pub fn ours(name: &str, run: impl FnMut() -> Result<Measured> + 'a) -> Self {
        Self { name: name.to_owned(), ours: true, rounds: usize::MAX, run: Box::new(run) }
    }

    /// Another tool, or a bare loop: a mistake of theirs is a gap in the table.
    pub fn peer(name: &str, run: impl FnMut() -> Result<Measured> + 'a) -> Self {
        Self { ours: false, ..Self::ours(name, run) }
    }

    /// Runs only so often: for information, where a tool is slow.
    pub fn at_most(self, rounds: usize) -> Self {
        Self { rounds, ..self }
    }
}

/// The values of all tools in all rounds.
#[derive(Default)]
pub struct Samples {
    values: Vec<Sample>,
    /// What a peer did not do, so that its figures are missing.
    pub gaps: Vec<String>,
    /// What vmon did wrong.
    pub failures: Vec<String>,
}

struct Sample {
    tool: String,
    measure: &'static str,
    round: usize,
    value: f64,
}

impl Samples {
    /// Runs these tools in turn, in this many rounds; every other round goes backwards, so that
    /// none always comes after the same one.
    pub fn in_turn(mut tools: Vec<Contender<'_>>, rounds: usize) -> Result<Self> {
        let mut samples = Self::default();
        for round in 0..rounds {
            let mut order: Vec<usize> = (0..tools.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                let tool = &mut tools[index];
                if round < tool.rounds {
                    samples.take(tool, round)?;
                }
            }
        }
        Ok(samples)
    }

    fn take(&mut self, tool: &mut Contender<'_>, round: usize) -> Result<()> {
        let result = (tool.run)();
        process::sweep();
        process::check_interrupted()?;
        match result {
            Ok(measured) => {
                for (measure, value) in measured {
                    self.values.push(Sample { tool: tool.name.clone(), measure, round, value });
                }
            }
            Err(error) => {
                // Once is enough: it would fail again.
                tool.rounds = 0;
                let list = if tool.ours { &mut self.failures } else { &mut self.gaps };
                list.push(format!("{}: {error}", tool.name));
            }
        }
        Ok(())
    }

    /// The tools of which there is something, in the order in which they first ran.
    pub fn tools(&self) -> Vec<&str> {
        let mut tools = Vec::new();
        for sample in &self.values {
            if !tools.contains(&sample.tool.as_str()) {
                tools.push(&sample.tool);
            }
        }
        tools
    }

    /// All values of a tool's measure.
    pub fn values(&self, tool: &str, measure: &str) -> Vec<f64> {
        let of = |sample: &&Sample| sample.tool == tool && sample.measure == measure;
        self.values.iter().filter(of).map(|sample| sample.value).collect()
    }

    /// The ratio of each pair of one round.
    pub fn ratios(&self, tool: &str, peer: &str, measure: &str) -> Vec<f64> {
        let in_round = |tool: &str, round| {
            let of = |sample: &&Sample| {
                sample.tool == tool && sample.measure == measure && sample.round == round
            };
            self.values.iter().find(of).map(|sample| sample.value)
        };
        let rounds = self.values.iter().map(|sample| sample.round + 1).max().unwrap_or(0);
        let pair = |round| Some(in_round(tool, round)? / in_round(peer, round)?);
        (0..rounds).filter_map(pair).collect()
    }
}
