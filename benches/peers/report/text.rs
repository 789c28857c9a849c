//! The outcome for a terminal.

use std::fmt;

use comfy_table::{Table, presets};

use super::Report;
use crate::row::{Row, Unit, Verdict};
use crate::samples::Summary;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        if self.quick {
            writeln!(f, "The quick form: whether it works. Its figures mean nothing.")?;
        }
        for row in &self.rows {
            writeln!(f, "\n{}. {}", row.number, row.title)?;
            writeln!(f, "{}", goals(row))?;
            if !row.figures.is_empty() {
                writeln!(f, "{}", figures(row))?;
            }
            row.notes.iter().try_for_each(|note| writeln!(f, "  note: {note}"))?;
            row.gaps.iter().try_for_each(|gap| writeln!(f, "  missing: {gap}"))?;
            row.failures.iter().try_for_each(|failure| writeln!(f, "  FAILED: {failure}"))?;
        }
        for failure in self.failures() {
            writeln!(f, "\nFAILED: {failure}")?;
        }
        Ok(())
    }
}

fn goals(row: &Row) -> Table {
    let mut table = table(&["measure", "of", "value", "beside", "value", "ratio", "goal", ""]);
    for verdict in &row.verdicts {
        table.add_row(goal(verdict));
    }
    table
}

fn goal(verdict: &Verdict) -> Vec<String> {
    let ratio = match verdict.peer {
        Some(_) => spread(Unit::Number, &verdict.values),
        None => String::new(),
    };
    vec![
        verdict.measure.clone(),
        verdict.tool.clone(),
        spread(verdict.unit, &verdict.ours),
        verdict.peer.clone().unwrap_or_default(),
        spread(verdict.unit, &verdict.theirs),
        ratio,
        verdict.goal_text(),
        verdict.outcome().to_owned(),
    ]
}

/// A line a tool, a column a measure.
fn figures(row: &Row) -> Table {
    let (tools, measures) = row.axes();
    let header = ["tool"].into_iter().chain(measures.iter().copied()).collect::<Vec<_>>();
    let mut table = table(&header);
    for tool in tools {
        let cells = measures.iter().map(|measure| row.cell(tool, measure));
        table.add_row([tool.to_owned()].into_iter().chain(cells).collect::<Vec<_>>());
    }
    table
}

impl Row {
    /// The tools and the measures of its figures, each once.
    pub(super) fn axes(&self) -> (Vec<&str>, Vec<&str>) {
        let (mut tools, mut measures) = (Vec::new(), Vec::new());
        for figure in &self.figures {
            if !tools.contains(&figure.tool.as_str()) {
                tools.push(&figure.tool);
            }
            if !measures.contains(&figure.measure.as_str()) {
                measures.push(&figure.measure);
            }
        }
        (tools, measures)
    }

    /// A figure in words; nothing where there is none.
    pub(super) fn cell(&self, tool: &str, measure: &str) -> String {
        let figure = self.figures.iter().find(|it| it.tool == tool && it.measure == measure);
        figure.map(|figure| spread(figure.unit, &figure.values)).unwrap_or_default()
    }
}

/// The median, and the spread where there is one.
pub(super) fn spread(unit: Unit, values: &[f64]) -> String {
    match Summary::of(values) {
        None => String::new(),
        Some(Summary { median, min, max }) if min == max => unit.show(median),
        Some(Summary { median, min, max }) => {
            let bare = Unit::Number;
            format!("{} ({}–{})", unit.show(median), bare.show(min), bare.show(max))
        }
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().copied());
    table
}
