//! A value by the number of children, one panel beside the other.

use plotters::prelude::*;

use super::bars::{OURS, failed, short};
use crate::Result;

const PANEL: (u32, u32) = (290, 250);

/// One measure.
pub struct Line {
    /// What it is, and in what.
    pub title: String,
    /// Children, and the value.
    pub points: Vec<(f64, f64)>,
}

/// All of them as one picture.
pub fn draw(lines: &[Line]) -> Result<String> {
    let mut svg = String::new();
    {
        let (width, height) = PANEL;
        let size = (width * lines.len() as u32, height);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        for (area, line) in root.split_evenly((1, lines.len())).iter().zip(lines) {
            draw_line(area, line).map_err(failed)?;
        }
        root.present().map_err(failed)?;
    }
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn<'a> =
    std::result::Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn draw_line<'a>(area: &Area<'a>, line: &Line) -> Drawn<'a> {
    let most = line.points.iter().fold(10.0, |most, (children, _)| f64::max(most, *children));
    let largest = line.points.iter().fold(f64::MIN_POSITIVE, |most, (_, y)| f64::max(most, *y));
    let mut chart = ChartBuilder::on(area)
        .caption(&line.title, ("sans-serif", 13))
        .margin(12)
        .x_label_area_size(38)
        .y_label_area_size(44)
        .build_cartesian_2d((0.7..most * 3.0).log_scale(), 0.0..largest * 1.15)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("children")
        .x_label_formatter(&|children| match children.log10() {
            power if (power - power.round()).abs() < 1e-9 => short(*children),
            _ => String::new(), // these would cover each other
        })
        .y_label_formatter(&|value| short(*value))
        .draw()?;
    let points = || line.points.iter().copied();
    chart.draw_series([PathElement::new(points().collect::<Vec<_>>(), OURS.stroke_width(2))])?;
    chart.draw_series(points().map(|point| Circle::new(point, 4, OURS.filled())))?;
    chart.draw_series(points().map(|(children, value)| {
        let text = super::Unit::Number.show(value);
        EmptyElement::at((children, value)) + Text::new(text, (2, -16), ("sans-serif", 12))
    }))?;
    Ok(())
}
