//! The outcome for programs.

use serde_json::{Value, json};

use super::Report;
use crate::row::{Figure, Goal, Row, Verdict};
use crate::samples::Summary;

impl Report {
    /// All of it: each value of each run, too.
    pub fn json(&self) -> Value {
        let machine = &self.machine;
        let tools: serde_json::Map<String, Value> = machine
            .tools
            .iter()
            .map(|(tool, version)| ((*tool).to_owned(), json!(version)))
            .collect();
        json!({
            "machine": {
                "cpu": machine.cpu,
                "cores": machine.cores,
                "memory": machine.memory,
                "kernel": machine.kernel,
                "file_system": machine.file_system,
                "date": machine.date,
            },
            "tools": tools,
            "missing": self.missing,
            "quick": self.quick,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "failures": self.failures(),
        })
    }
}

fn row(row: &Row) -> Value {
    json!({
        "row": row.number,
        "workload": row.title,
        "figures": row.figures.iter().map(figure).collect::<Vec<_>>(),
        "goals": row.verdicts.iter().map(verdict).collect::<Vec<_>>(),
        "notes": row.notes,
        "gaps": row.gaps,
        "failures": row.failures,
    })
}

fn figure(figure: &Figure) -> Value {
    json!({
        "tool": figure.tool,
        "measure": figure.measure,
        "unit": figure.unit.name(),
        "summary": summary(&figure.values),
        "values": figure.values,
    })
}

fn verdict(verdict: &Verdict) -> Value {
    let goal = verdict.goal.map(|goal| match goal {
        Goal::AtMost(limit) => json!({ "at_most": limit }),
        Goal::AtLeast(limit) => json!({ "at_least": limit }),
    });
    json!({
        "tool": verdict.tool,
        "peer": verdict.peer,
        "measure": verdict.measure,
        "unit": verdict.unit.name(),
        "ours": summary(&verdict.ours),
        "theirs": summary(&verdict.theirs),
        "of": if verdict.peer.is_some() { "ratio" } else { "figure" },
        "summary": summary(&verdict.values),
        "values": verdict.values,
        "goal": goal,
        "met": verdict.is_met(),
    })
}

fn summary(values: &[f64]) -> Option<Value> {
    let Summary { median, min, max } = Summary::of(values)?;
    Some(json!({ "median": median, "min": min, "max": max }))
}
