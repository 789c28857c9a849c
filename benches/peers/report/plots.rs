//! Plots, as SVG: which figures go into which.

mod bars;
mod lines;

use crate::Result;
use crate::row::{Figure, Goal, Row, Unit};
use crate::samples::Summary;
use bars::{Band, Bar, Panel, Scale};
use lines::Line;

/// All plots of which there are figures, by file name.
pub fn draw(rows: &[Row]) -> Result<Vec<(&'static str, String)>> {
    let of = |number| rows.iter().find(|row| row.number == number);
    let mut plots = Vec::new();
    let mut add = |name, bands: Vec<Band>| -> Result<()> {
        let bands: Vec<Band> = bands.into_iter().filter(|band| !band.is_empty()).collect();
        if !bands.is_empty() {
            plots.push((name, bars::draw(&bands)?));
        }
        Ok(())
    };
    add("ratios.svg", vec![ratios(rows)])?;
    let streams = [of(1), of(2), of(3), of(4), of(5)];
    let both = |row: &Row| {
        let measures =
            [("rate", "MB/s, more is better"), ("CPU", "CPU seconds a GB, less is better")];
        figures(row, &measures, Scale::Linear)
    };
    add("throughput.svg", streams.into_iter().flatten().map(both).collect())?;
    let latency = |row: &Row| {
        figures(row, &[("p50", "the median, µs"), ("p99", "the 99th percentile, µs")], Scale::Log)
    };
    add("latency.svg", of(6).map(latency).into_iter().collect())?;
    let memory = |row: &Row| {
        let measures = [("PSS", "PSS of each, KiB"), ("Anonymous", "Anonymous of each, KiB")];
        figures(row, &measures, Scale::Linear)
    };
    add("memory.svg", of(8).or(of(7)).map(memory).into_iter().collect())?;
    let start = |row: &Row| figures(row, &[("time", "ms")], Scale::Linear);
    add("start.svg", of(9).map(start).into_iter().collect())?;
    if let Some(lines) = of(10).map(children).filter(|lines| !lines.is_empty()) {
        plots.push(("children.svg", lines::draw(&lines)?));
    }
    Ok(plots)
}

/// Every ratio that is to be small, with its goal.
fn ratios(rows: &[Row]) -> Band {
    let mut bars = Vec::new();
    for row in rows {
        for verdict in &row.verdicts {
            let (Some(peer), Some(Goal::AtMost(limit)), Some(summary)) =
                (&verdict.peer, verdict.goal, Summary::of(&verdict.values))
            else {
                continue;
            };
            // Two sizes of one host are no two tools.
            if row.number == 10 {
                continue;
            }
            // A form that the peer has too is said once.
            let form = verdict.form().and_then(|form| form.strip_prefix(", ")).unwrap_or_default();
            let form = if peer.contains(form) { String::new() } else { format!(" ({form})") };
            let label = format!("{}. {} / {peer}{form}", row.number, verdict.measure);
            bars.push(Bar {
                label,
                ours: verdict.is_met() == Some(true),
                summary,
                text: Unit::Number.show(summary.median),
                goal: Some(limit),
            });
        }
    }
    let panel = Panel {
        unit: "ratio of each pair: median, least and most; the mark is the goal; blue: met"
            .to_owned(),
        scale: Scale::Linear,
        reference: Some(1.0),
        bars,
    };
    Band { title: "vmon / peer, by row".to_owned(), panels: vec![panel] }
}

/// These measures of all tools of a row, beside each other.
fn figures(row: &Row, measures: &[(&str, &str)], scale: Scale) -> Band {
    let bar = |figure: &Figure| {
        let summary = Summary::of(&figure.values)?;
        Some(Bar {
            label: figure.tool.clone(),
            ours: figure.tool.starts_with("vmon"),
            summary,
            text: Unit::Number.show(summary.median),
            goal: None,
        })
    };
    let panel = |(measure, unit): &(&str, &str)| {
        let of = row.figures.iter().filter(|figure| figure.measure == *measure);
        let bars = of.filter_map(bar).collect();
        Panel { unit: (*unit).to_owned(), scale, reference: None, bars }
    };
    Band { title: row.title.clone(), panels: measures.iter().map(panel).collect() }
}

/// What a child costs, by how many there are.
fn children(row: &Row) -> Vec<Line> {
    let line = |measure: &str, title: &str| {
        let points = row.figures.iter().filter(|figure| figure.measure == measure);
        let point = |figure: &Figure| {
            let children = figure.tool.split_whitespace().next()?.parse().ok()?;
            Some((children, Summary::of(&figure.values)?.median))
        };
        Line { title: title.to_owned(), points: points.filter_map(point).collect() }
    };
    let lines = [
        line("heap a child", "heap a child, KiB"),
        line("CPU a line", "CPU a line, one a second each, µs"),
        line("flood", "all flooding, MB/s together"),
    ];
    lines.into_iter().filter(|line| !line.points.is_empty()).collect()
}
