//! Horizontal bars with their spread: bands one below the other, panels of a band side by side.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::samples::Summary;
use crate::{Error, Result};

const WIDTH: i32 = 860;
/// Room on the left for what the bars are, and on the right of each panel for their values.
const LABELS: i32 = 230;
const VALUES: i32 = 60;
const GAP: i32 = 16;
const BAR: i32 = 22;
const HEAD: i32 = 56;
const FOOT: i32 = 34;

pub const OURS: RGBColor = RGBColor(31, 111, 180);
pub const THEIRS: RGBColor = RGBColor(168, 172, 178);
const MISSED: RGBColor = RGBColor(222, 132, 42);
const INK: RGBColor = RGBColor(40, 40, 44);
const GRID: RGBColor = RGBColor(224, 226, 230);

/// How values become lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// From zero.
    Linear,
    /// By powers of ten.
    Log,
}

/// One bar.
pub struct Bar {
    /// On its left.
    pub label: String,
    /// vmon's, or a goal that is met.
    pub ours: bool,
    /// Its length, and its spread.
    pub summary: Summary,
    /// On its right.
    pub text: String,
    /// Where it should end.
    pub goal: Option<f64>,
}

/// Bars that share a scale.
pub struct Panel {
    /// Above it: what the values are.
    pub unit: String,
    /// The scale.
    pub scale: Scale,
    /// A value to compare with.
    pub reference: Option<f64>,
    /// From top to bottom.
    pub bars: Vec<Bar>,
}

/// Panels beside each other, of the same bars: the first one's labels are for all.
pub struct Band {
    /// Above it.
    pub title: String,
    /// From left to right.
    pub panels: Vec<Panel>,
}

impl Band {
    /// Whether there is nothing to draw.
    pub fn is_empty(&self) -> bool {
        self.panels.iter().all(|panel| panel.bars.is_empty())
    }

    fn height(&self) -> i32 {
        let bars = self.panels.iter().map(|panel| panel.bars.len()).max();
        HEAD + FOOT + BAR * bars.unwrap_or(0) as i32
    }
}

impl Panel {
    /// The axis: what is at its left end, and its marks.
    fn axis(&self, left: i32, right: i32) -> Axis {
        let shown = |bar: &Bar| [Some(bar.summary.median), bar.goal];
        let values = self.bars.iter().flat_map(shown).flatten().chain(self.reference);
        let longest = values.fold(f64::MIN_POSITIVE, f64::max);
        // One run that went astray does not make all bars short: its whisker is cut.
        let most = self.bars.iter().map(|bar| bar.summary.max).fold(longest, f64::max);
        let largest = most.min(1.3 * longest);
        match self.scale {
            Scale::Linear => Axis::linear(largest, left, right),
            Scale::Log => {
                let least = self.bars.iter().map(|bar| bar.summary.min).fold(largest, f64::min);
                Axis::log(least, largest, left, right)
            }
        }
    }
}

struct Axis {
    left: i32,
    right: i32,
    from: f64,
    to: f64,
    log: bool,
    marks: Vec<f64>,
}

impl Axis {
    fn linear(largest: f64, left: i32, right: i32) -> Self {
        let room = f64::from((right - left) / 50);
        let magnitude = 10f64.powf(largest.log10().floor());
        let steps = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0].map(|step| step * magnitude);
        let step = steps.into_iter().find(|step| largest / step <= room).unwrap_or(magnitude);
        let count = (largest / step).ceil() as usize;
        let marks: Vec<f64> = (0..=count).map(|mark| mark as f64 * step).collect();
        Self { left, right, from: 0.0, to: count as f64 * step, log: false, marks }
    }

    fn log(least: f64, largest: f64, left: i32, right: i32) -> Self {
        let from = 10f64.powf(least.log10().floor());
        let all = |digits: &[f64]| -> Vec<f64> {
            let decade = |power| digits.iter().map(move |digit| digit * from * 10f64.powi(power));
            let marks: Vec<f64> = (0..12).flat_map(decade).collect();
            let last = marks.iter().position(|mark| *mark >= largest);
            marks[..=last.unwrap_or(marks.len() - 1)].to_vec()
        };
        let fine = all(&[1.0, 2.0, 5.0]);
        let room = ((right - left) / 50) as usize;
        let marks = if fine.len() <= room { fine } else { all(&[1.0]) };
        let to = marks.last().copied().unwrap_or(largest);
        Self { left, right, from, to, log: true, marks }
    }

    fn x(&self, value: f64) -> i32 {
        let part = if self.log {
            (value.max(self.from) / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        self.left + (part.min(1.0) * f64::from(self.right - self.left)).round() as i32
    }
}

/// All bands as one picture.
pub fn draw(bands: &[Band]) -> Result<String> {
    let height: i32 = bands.iter().map(Band::height).sum();
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH as u32, height as u32));
        let root = root.into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        let mut top = 0;
        for band in bands {
            draw_band(&root, band, top).map_err(failed)?;
            top += band.height();
        }
        root.present().map_err(failed)?;
    }
    Ok(svg)
}

pub fn failed(error: impl std::fmt::Display) -> Error {
    format!("a plot could not be drawn: {error}").into()
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn<'a> =
    std::result::Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn draw_band<'a>(root: &Area<'a>, band: &Band, top: i32) -> Drawn<'a> {
    text(root, &band.title, (12, top + 18), 16, HPos::Left)?;
    let first = top + HEAD;
    let labels = band.panels.first().map_or(&[][..], |panel| &panel.bars);
    for (index, bar) in labels.iter().enumerate() {
        let middle = first + BAR * index as i32 + BAR / 2;
        text(root, &bar.label, (LABELS - 8, middle), 13, HPos::Right)?;
    }
    let width = (WIDTH - LABELS) / band.panels.len() as i32;
    for (index, panel) in band.panels.iter().enumerate() {
        let left = LABELS + width * index as i32 + if index > 0 { GAP } else { 0 };
        let right = LABELS + width * (index as i32 + 1) - VALUES;
        draw_panel(root, panel, &panel.axis(left, right), first)?;
    }
    Ok(())
}

fn draw_panel<'a>(root: &Area<'a>, panel: &Panel, axis: &Axis, first: i32) -> Drawn<'a> {
    let last = first + BAR * panel.bars.len() as i32;
    text(root, &panel.unit, (axis.left, first - 14), 13, HPos::Left)?;
    for mark in &axis.marks {
        let x = axis.x(*mark);
        root.draw(&PathElement::new(vec![(x, first), (x, last)], GRID))?;
        text(root, &short(*mark), (x, last + 12), 12, HPos::Center)?;
    }
    for (index, bar) in panel.bars.iter().enumerate() {
        draw_bar(root, panel, axis, bar, first + BAR * index as i32)?;
    }
    if let Some(reference) = panel.reference {
        let x = axis.x(reference);
        root.draw(&PathElement::new(vec![(x, first), (x, last)], INK))?;
    }
    Ok(())
}

fn draw_bar<'a>(root: &Area<'a>, panel: &Panel, axis: &Axis, bar: &Bar, y: i32) -> Drawn<'a> {
    let color = match (bar.ours, panel.reference) {
        (true, _) => OURS,
        (false, None) => THEIRS,
        (false, Some(_)) => MISSED,
    };
    let middle = y + BAR / 2;
    let Summary { median, min, max } = bar.summary;
    let corners = [(axis.left, y + 4), (axis.x(median), y + BAR - 4)];
    root.draw(&Rectangle::new(corners, color.filled()))?;
    if min < max {
        let whisker = vec![(axis.x(min), middle), (axis.x(max), middle)];
        root.draw(&PathElement::new(whisker, INK.stroke_width(1)))?;
        for end in [min, max] {
            let x = axis.x(end);
            root.draw(&PathElement::new(vec![(x, middle - 3), (x, middle + 3)], INK))?;
        }
    }
    if let Some(goal) = bar.goal {
        let x = axis.x(goal);
        let mark = vec![(x, y + 2), (x, y + BAR - 2)];
        root.draw(&PathElement::new(mark, INK.stroke_width(3)))?;
    }
    let right = axis.x(max.max(bar.goal.unwrap_or(max)));
    text(root, &bar.text, (right + 8, middle), 12, HPos::Left)
}

fn text<'a>(root: &Area<'a>, text: &str, at: (i32, i32), size: i32, anchor: HPos) -> Drawn<'a> {
    let style = TextStyle::from(("sans-serif", size).into_font())
        .color(&INK)
        .pos(Pos::new(anchor, VPos::Center));
    root.draw(&Text::new(text.to_owned(), at, style))
}

/// A tick label of an axis, without insignificant digits.
pub fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
