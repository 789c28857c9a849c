//! The outcome as Markdown, for a README.

use std::fmt::Write;

use super::Report;
use super::text::spread;
use crate::row::{Row, Unit};

impl Report {
    /// The goals in one table, all figures in one table a row, and the machine.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).unwrap_or_default(); // a String takes everything
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "{}.\n", self.machine)?;
        if self.quick {
            writeln!(text, "The quick form: its figures mean nothing.\n")?;
        }
        writeln!(text, "| | workload | measure | vmon | beside | ratio | goal | |")?;
        writeln!(text, "| --- | --- | --- | --- | --- | --- | --- | --- |")?;
        for row in &self.rows {
            goals(text, row)?;
        }
        for row in self.rows.iter().filter(|row| !row.figures.is_empty()) {
            figures(text, row)?;
        }
        let tools: Vec<String> =
            self.machine.tools.iter().map(|(tool, version)| format!("{tool} {version}")).collect();
        writeln!(text, "\nThe peers, by their packages' versions: {}.", tools.join(", "))
    }
}

fn goals(text: &mut String, row: &Row) -> std::fmt::Result {
    for (index, verdict) in row.verdicts.iter().enumerate() {
        let first = index == 0;
        let number = if first { row.number.to_string() } else { String::new() };
        let title = if first { row.title.as_str() } else { "" };
        let (beside, ratio) = match &verdict.peer {
            Some(peer) => (
                format!("{peer}: {}", spread(verdict.unit, &verdict.theirs)),
                spread(Unit::Number, &verdict.values),
            ),
            None => (String::new(), String::new()),
        };
        let measure = match verdict.form() {
            Some(form) => format!("{}{form}", verdict.measure),
            None => format!("{}, {}", verdict.measure, verdict.tool),
        };
        let ours = spread(verdict.unit, &verdict.ours);
        let (goal, outcome) = (verdict.goal_text(), verdict.outcome());
        writeln!(
            text,
            "| {number} | {title} | {measure} | {ours} | {beside} | {ratio} | {goal} | {outcome} |"
        )?;
    }
    Ok(())
}

fn figures(text: &mut String, row: &Row) -> std::fmt::Result {
    let (tools, measures) = row.axes();
    writeln!(text, "\n{}. {}\n", row.number, row.title)?;
    writeln!(text, "| | {} |", measures.join(" | "))?;
    writeln!(text, "| --- |{}", " --- |".repeat(measures.len()))?;
    for tool in tools {
        let cells: Vec<String> = measures.iter().map(|measure| row.cell(tool, measure)).collect();
        writeln!(text, "| {tool} | {} |", cells.join(" | "))?;
    }
    let gaps = row.gaps.iter().map(|gap| format!("Missing: {gap}"));
    let mut notes = row.notes.iter().cloned().chain(gaps);
    notes.try_for_each(|note| writeln!(text, "\n{note}."))
}
