//! The figures of one workload, and the goals that they are compared with.

use crate::samples::{Samples, Summary};

/// What a measure is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// 10^6 bytes in a second.
    MbPerSecond,
    /// Seconds for 10^9 bytes.
    SecondsPerGb,
    /// Milliseconds.
    Millis,
    /// Microseconds.
    Micros,
    /// 1024 bytes.
    Kibibytes,
    /// 10^6 bytes.
    Megabytes,
    /// Of a processor.
    Percent,
    /// A number of things, or a ratio.
    Number,
}

impl Unit {
    /// Behind a number.
    pub fn name(self) -> &'static str {
        match self {
            Self::MbPerSecond => "MB/s",
            Self::SecondsPerGb => "s/GB",
            Self::Millis => "ms",
            Self::Micros => "µs",
            Self::Kibibytes => "KiB",
            Self::Megabytes => "MB",
            Self::Percent => "%",
            Self::Number => "",
        }
    }

    /// A value with a sensible number of digits.
    pub fn show(self, value: f64) -> String {
        let digits = match value.abs() {
            _ if value.fract() == 0.0 => 0,
            size if size >= 100.0 => 0,
            size if size >= 10.0 => 1,
            size if size >= 0.1 => 2,
            _ => 4,
        };
        match self.name() {
            "" => format!("{value:.digits$}"),
            unit => format!("{value:.digits$} {unit}"),
        }
    }
}

/// What a value is to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// No more.
    AtMost(f64),
    /// No less.
    AtLeast(f64),
}

impl Goal {
    /// Whether it is.
    pub fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }
}

/// One measure of one tool.
pub struct Figure {
    /// The tool.
    pub tool: String,
    /// What is measured.
    pub measure: String,
    /// In what.
    pub unit: Unit,
    /// One a run.
    pub values: Vec<f64>,
}

/// A goal, and how far vmon is from it.
pub struct Verdict {
    /// vmon, or which of its forms.
    pub tool: String,
    /// Beside which tool; `None` for a figure of vmon's own.
    pub peer: Option<String>,
    /// What is measured.
    pub measure: String,
    /// In what: of vmon's own figure, and of the peer's.
    pub unit: Unit,
    /// vmon's figures.
    pub ours: Vec<f64>,
    /// The peer's.
    pub theirs: Vec<f64>,
    /// What the goal is about: the ratios of the pairs, or vmon's figures.
    pub values: Vec<f64>,
    /// The goal; `None` where the ratio is only of interest.
    pub goal: Option<Goal>,
}

impl Verdict {
    /// What follows the name of vmon, or of its monitor of containers; `None` for another tool.
    pub fn form(&self) -> Option<&str> {
        let after = |name| self.tool.strip_prefix(name);
        after("vmon-conmon").or_else(|| after("vmon"))
    }

    /// Whether the goal is met, at the median; `None` where there is none, or no figure.
    pub fn is_met(&self) -> Option<bool> {
        Some(self.goal?.is_met(Summary::of(&self.values)?.median))
    }

    /// The goal in words.
    pub fn goal_text(&self) -> String {
        let show = |limit| match self.peer {
            Some(_) => Unit::Number.show(limit),
            None => self.unit.show(limit),
        };
        match self.goal {
            Some(Goal::AtMost(limit)) => format!("≤ {}", show(limit)),
            Some(Goal::AtLeast(limit)) => format!("≥ {}", show(limit)),
            None => "—".to_owned(),
        }
    }

    /// `met`, `missed`, or none.
    pub fn outcome(&self) -> &'static str {
        match (self.is_met(), self.goal) {
            (Some(true), _) => "met",
            (Some(false), _) => "missed",
            (None, Some(_)) => "no figure",
            (None, None) => "—",
        }
    }
}

/// One workload, measured.
pub struct Row {
    /// Its number.
    pub number: u8,
    /// What it is.
    pub title: String,
    /// All figures.
    pub figures: Vec<Figure>,
    /// The goals.
    pub verdicts: Vec<Verdict>,
    /// A remark on the row.
    pub notes: Vec<String>,
    /// What a peer did not do, so that its figures are missing.
    pub gaps: Vec<String>,
    /// What vmon did wrong.
    pub failures: Vec<String>,
}

impl Row {
    /// One without figures.
    pub fn new(number: u8, title: impl Into<String>) -> Self {
        Self {
            number,
            title: title.into(),
            figures: Vec::new(),
            verdicts: Vec::new(),
            notes: Vec::new(),
            gaps: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Takes these measures of all tools, and what went wrong.
    pub fn take(&mut self, samples: &Samples, measures: &[(&str, Unit)]) {
        for tool in samples.tools() {
            for (measure, unit) in measures {
                let values = samples.values(tool, measure);
                self.figure(tool, measure, *unit, values);
            }
        }
        self.gaps.extend(samples.gaps.iter().cloned());
        self.failures.extend(samples.failures.iter().cloned());
    }

    /// One figure, if it has values.
    pub fn figure(&mut self, tool: &str, measure: &str, unit: Unit, values: Vec<f64>) {
        if !values.is_empty() {
            let (tool, measure) = (tool.to_owned(), measure.to_owned());
            self.figures.push(Figure { tool, measure, unit, values });
        }
    }

    /// What a figure has; nothing where there is none.
    pub fn values(&self, tool: &str, measure: &str) -> Vec<f64> {
        let figure = self.figures.iter().find(|it| it.tool == tool && it.measure == measure);
        figure.map(|figure| figure.values.clone()).unwrap_or_default()
    }

    /// A ratio, and what it is to be.
    pub fn ratio(
        &mut self,
        samples: &Samples,
        (tool, peer): (&str, &str),
        (measure, unit): (&str, Unit),
        goal: Option<Goal>,
    ) {
        self.verdicts.push(Verdict {
            tool: tool.to_owned(),
            peer: Some(peer.to_owned()),
            measure: measure.to_owned(),
            unit,
            ours: samples.values(tool, measure),
            theirs: samples.values(peer, measure),
            values: samples.ratios(tool, peer, measure),
            goal,
        });
    }

    /// A figure of vmon's own, and what it is to be.
    pub fn own(&mut self, tool: &str, measure: &str, unit: Unit, values: Vec<f64>, goal: Goal) {
        self.verdicts.push(Verdict {
            tool: tool.to_owned(),
            peer: None,
            measure: measure.to_owned(),
            unit,
            ours: values.clone(),
            theirs: Vec::new(),
            values,
            goal: Some(goal),
        });
    }
}
