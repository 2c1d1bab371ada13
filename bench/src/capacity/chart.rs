//! Charts on two axes, each linear or logarithmic: lines, bands, intervals open at either end, dots.

use crate::diagnose::report::chart::{GREY, INK, Stroke, responsive};
use crate::error::ProgramError;
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::ops::Range;

const GRID: RGBColor = RGBColor(228, 228, 228);
const LABEL: i32 = 16;
const NAME: i32 = 17;
/// Half the width of an interval's caps, in pixels.
const CAP: i32 = 5;
/// Width of the legend.
const LEGEND: i32 = 250;
/// Height of its lines.
const ROW: i32 = 23;

type Drawn = Result<(), Box<dyn std::error::Error>>;
type Plot<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// An axis.
#[derive(Clone, Copy, Debug)]
pub struct Axis<'a> {
    /// Name.
    pub name: &'a str,
    /// Whether it shows log₂ of the values.
    pub logarithmic: bool,
    /// First and last value.
    pub range: (f64, f64),
    /// How a value is written; on a logarithmic axis only powers of two are.
    pub label: fn(f64) -> String,
}

impl Axis<'_> {
    fn project(&self, value: f64) -> f64 {
        if self.logarithmic { value.log2() } else { value }
    }

    fn span(&self) -> Range<f64> {
        let (low, high) = (self.project(self.range.0), self.project(self.range.1));
        if high > low { low..high } else { low..low + 1.0 }
    }

    fn labels(&self) -> usize {
        let span = self.span();
        match self.logarithmic {
            true => (span.end - span.start).floor() as usize + 1,
            false => 8,
        }
        .min(12)
    }

    fn text(&self, place: f64) -> String {
        if !self.logarithmic {
            return (self.label)(place);
        }
        match (place - place.round()).abs() < 1e-6 {
            true => (self.label)(place.round().exp2()),
            false => String::new(),
        }
    }
}

/// What dots look like, so that they are told apart without colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// ●
    Circle,
    /// ▲
    Triangle,
    /// ✕
    Cross,
}

impl Mark {
    /// The mark of the n-th group.
    pub fn nth(index: usize) -> Self {
        [Self::Circle, Self::Triangle, Self::Cross][index % 3]
    }
}

/// Something that is drawn.
#[derive(Clone, Debug)]
pub enum Layer {
    /// A line through points.
    Line(Vec<(f64, f64)>, Stroke),
    /// The area between (x, low, high).
    Band(Vec<(f64, f64, f64)>, RGBColor),
    /// What lies between two ends at x; an end that is not there is an arrow.
    Interval {
        /// Place.
        x: f64,
        /// Lower end.
        low: Option<f64>,
        /// Upper end.
        high: Option<f64>,
        /// Colour.
        colour: RGBColor,
        /// Mark in the middle; none for open intervals.
        mark: Mark,
    },
    /// Dots.
    Dots(Vec<(f64, f64)>, RGBColor, Mark),
    /// A dashed horizontal line.
    Level(f64),
    /// A dashed vertical line.
    At(f64),
}

/// Layers on two axes.
#[derive(Clone, Debug)]
pub struct Chart<'a> {
    /// Pixels.
    pub size: (u32, u32),
    /// Across.
    pub x: Axis<'a>,
    /// Upwards.
    pub y: Axis<'a>,
    /// The last on top.
    pub layers: &'a [Layer],
    /// What stands to the right of the axes.
    pub legend: &'a [Entry],
}

/// A line of the legend.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it says.
    pub text: String,
    /// The line before it, if it is a line.
    pub stroke: Option<Stroke>,
    /// The mark before it, if it is one.
    pub mark: Option<(Mark, RGBColor)>,
}

impl Entry {
    /// A line.
    pub fn line(text: impl Into<String>, stroke: Stroke) -> Self {
        Self {
            text: text.into(),
            stroke: Some(stroke),
            mark: None,
        }
    }

    /// A mark.
    pub fn mark(text: impl Into<String>, mark: Mark, colour: RGBColor) -> Self {
        Self {
            text: text.into(),
            stroke: None,
            mark: Some((mark, colour)),
        }
    }
}

impl Chart<'_> {
    /// The picture.
    ///
    /// # Errors
    /// [`ProgramError::Picture`] from the drawing library.
    pub fn svg(&self) -> Result<String, ProgramError> {
        let mut svg = String::new();
        let drawn = {
            let root = SVGBackend::with_string(&mut svg, self.size).into_drawing_area();
            self.draw(&root)
        };
        drawn.map_err(|cause| ProgramError::Picture {
            picture: self.y.name.into(),
            cause: cause.to_string(),
        })?;
        Ok(responsive(svg, self.size))
    }

    fn draw(&self, root: &DrawingArea<SVGBackend<'_>, Shift>) -> Drawn {
        let beside = if self.legend.is_empty() { 0 } else { LEGEND };
        let (area, right) = root.split_horizontally(self.size.0 as i32 - beside);
        draw_legend(&right, self.legend)?;
        let mut plot = ChartBuilder::on(&area)
            .margin(6)
            .margin_right(18)
            .x_label_area_size(46)
            .y_label_area_size(66)
            .build_cartesian_2d(self.x.span(), self.y.span())?;
        plot.configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(GREY)
            .x_labels(self.x.labels())
            .y_labels(self.y.labels())
            .x_label_formatter(&|place: &f64| self.x.text(*place))
            .y_label_formatter(&|place: &f64| self.y.text(*place))
            .label_style(("sans-serif", LABEL).into_font().color(&INK))
            .axis_desc_style(("sans-serif", NAME).into_font().color(&INK))
            .x_desc(self.x.name)
            .y_desc(self.y.name)
            .draw()?;
        for layer in self.layers {
            self.layer(&mut plot, layer)?;
        }
        root.present()?;
        Ok(())
    }

    fn layer(&self, plot: &mut Plot<'_, '_>, layer: &Layer) -> Drawn {
        let (x, y) = (self.x.span(), self.y.span());
        match layer {
            Layer::Line(points, stroke) => self.line(plot, points, *stroke)?,
            Layer::Band(points, colour) => self.band(plot, points, *colour)?,
            Layer::Interval {
                x,
                low,
                high,
                colour,
                mark,
            } => self.interval(plot, *x, (*low, *high), *colour, *mark)?,
            Layer::Dots(points, colour, mark) => {
                let points = points.iter().filter_map(|&point| self.inside(point));
                for point in points {
                    draw_mark(plot, point, *colour, *mark)?;
                }
            }
            Layer::Level(value) => dashed(
                plot,
                [(x.start, self.y.project(*value)), (x.end, self.y.project(*value))],
            )?,
            Layer::At(value) => dashed(
                plot,
                [(self.x.project(*value), y.start), (self.x.project(*value), y.end)],
            )?,
        }
        Ok(())
    }

    /// The point in the coordinates of the axes; none outside them.
    fn inside(&self, (x, y): (f64, f64)) -> Option<(f64, f64)> {
        let place = (self.x.project(x), self.y.project(y));
        (self.x.span().contains(&place.0) || place.0 == self.x.span().end)
            .then_some(place)
            .filter(|place| place.1 >= self.y.span().start && place.1 <= self.y.span().end)
    }

    /// The drawing library does not cut lines off at the axes: parts that lie outside are left out.
    fn line(&self, plot: &mut Plot<'_, '_>, points: &[(f64, f64)], stroke: Stroke) -> Drawn {
        let style = stroke.colour.stroke_width(stroke.width);
        let places: Vec<Option<(f64, f64)>> = points.iter().map(|&point| self.inside(point)).collect();
        for part in places.split(|place| place.is_none()) {
            let part: Vec<(f64, f64)> = part.iter().flatten().copied().collect();
            if part.len() < 2 {
                continue;
            }
            match stroke.dash {
                None => plot.draw_series(LineSeries::new(part, style))?,
                Some((dash, gap)) => plot.draw_series(DashedLineSeries::new(part, dash, gap, style))?,
            };
        }
        Ok(())
    }

    fn band(&self, plot: &mut Plot<'_, '_>, points: &[(f64, f64, f64)], colour: RGBColor) -> Drawn {
        let (x, y) = (self.x.span(), self.y.span());
        let place = |value: f64, length: f64| {
            let (place, height) = (self.x.project(value), self.y.project(length));
            // What is no number on a logarithmic axis lies below it.
            let height = if height.is_nan() { y.start } else { height };
            (place >= x.start && place <= x.end).then(|| (place, height.clamp(y.start, y.end)))
        };
        let lower = points.iter().filter_map(|&(x, low, _)| place(x, low));
        let upper = points.iter().rev().filter_map(|&(x, _, high)| place(x, high));
        let outline: Vec<(f64, f64)> = lower.chain(upper).collect();
        if outline.len() > 2 {
            plot.draw_series([Polygon::new(outline, colour.mix(0.16).filled())])?;
        }
        Ok(())
    }

    fn interval(
        &self,
        plot: &mut Plot<'_, '_>,
        x: f64,
        (low, high): (Option<f64>, Option<f64>),
        colour: RGBColor,
        mark: Mark,
    ) -> Drawn {
        let (place, range) = (self.x.project(x), self.y.span());
        let clamp = |value: Option<f64>, open: f64| {
            value.map_or(open, |value| self.y.project(value).clamp(range.start, range.end))
        };
        let (bottom, top) = (clamp(low, range.start), clamp(high, range.end));
        let style = colour.stroke_width(2);
        plot.draw_series(LineSeries::new([(place, bottom), (place, top)], style))?;
        for (end, is_open, outward) in [(bottom, low.is_none(), 1), (top, high.is_none(), -1)] {
            // An arrow's wings lie inside, a cap is straight.
            let wings = if is_open { 9 * outward } else { 0 };
            let tip = EmptyElement::at((place, end))
                + PathElement::new(vec![(-CAP, -wings), (0, 0), (CAP, -wings)], style);
            plot.draw_series([tip])?;
        }
        if low.is_some() && high.is_some() {
            draw_mark(plot, (place, (bottom + top) / 2.0), colour, mark)?;
        }
        Ok(())
    }
}

fn draw_legend(area: &DrawingArea<SVGBackend<'_>, Shift>, legend: &[Entry]) -> Drawn {
    let style = ("sans-serif", LABEL).into_font().color(&INK);
    let style = style.pos(Pos::new(HPos::Left, VPos::Center));
    for (row, entry) in legend.iter().enumerate() {
        let y = 20 + ROW * row as i32;
        if let Some(stroke) = entry.stroke {
            let (dash, gap) = stroke.dash.unwrap_or((30, 1));
            for x in (0..30).step_by((dash + gap).unsigned_abs() as usize) {
                let part = vec![(x, y), ((x + dash).min(30), y)];
                area.draw(&PathElement::new(part, stroke.colour.stroke_width(stroke.width)))?;
            }
        }
        match entry.mark {
            Some((Mark::Circle, colour)) => area.draw(&Circle::new((15, y), 4, colour.filled()))?,
            Some((Mark::Triangle, colour)) => area.draw(&TriangleMarker::new((15, y), 6, colour.filled()))?,
            Some((Mark::Cross, colour)) => area.draw(&Cross::new((15, y), 4, colour.stroke_width(2)))?,
            None => {}
        }
        area.draw_text(&entry.text, &style, (38, y))?;
    }
    Ok(())
}

fn dashed(plot: &mut Plot<'_, '_>, ends: [(f64, f64); 2]) -> Drawn {
    plot.draw_series(DashedLineSeries::new(ends, 4, 4, GREY.stroke_width(1)))?;
    Ok(())
}

fn draw_mark(plot: &mut Plot<'_, '_>, place: (f64, f64), colour: RGBColor, mark: Mark) -> Drawn {
    match mark {
        Mark::Circle => plot.draw_series([Circle::new(place, 4, colour.filled())])?,
        Mark::Triangle => plot.draw_series([TriangleMarker::new(place, 6, colour.filled())])?,
        Mark::Cross => plot.draw_series([Cross::new(place, 4, colour.stroke_width(2))])?,
    };
    Ok(())
}

/// The next power of two below and above all values that are positive; none if there are none.
pub fn octaves(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let positive = values.filter(|value| *value > 0.0 && value.is_finite());
    let (low, high) = positive.fold((f64::INFINITY, 0.0f64), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    (low <= high).then(|| (low.log2().floor().exp2(), high.log2().ceil().exp2()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_intervals_and_values_outside_the_axes_can_be_drawn() {
        let axis = |name| Axis {
            name,
            logarithmic: true,
            range: (16.0, 256.0),
            label: |value| format!("{value:.0}"),
        };
        let interval = |low, high| Layer::Interval {
            x: 32.0,
            low,
            high,
            colour: INK,
            mark: Mark::Circle,
        };
        let layers = [
            Layer::Band(vec![(16.0, -3.0, 20.0), (64.0, 40.0, 1e9)], INK),
            Layer::Line(
                vec![(1.0, 1.0), (32.0, 32.0), (64.0, 64.0), (128.0, -1.0)],
                Stroke::nth(0),
            ),
            interval(Some(32.0), Some(64.0)),
            interval(None, Some(64.0)),
            interval(Some(64.0), None),
            Layer::Level(32.0),
            Layer::At(64.0),
        ];
        let chart = Chart {
            size: (400, 300),
            x: axis("across"),
            y: axis("upwards"),
            layers: &layers,
            legend: &[],
        };
        let svg = chart.svg().expect("drawn");
        assert!(svg.contains("across") && svg.contains("upwards") && svg.contains("128"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        // One mark: only the closed interval has a middle.
        assert_eq!(svg.matches("<circle").count(), 1);
    }

    #[test]
    fn axes_end_at_powers_of_two() {
        assert_eq!(octaves([3.0, 100.0, 0.0, -1.0].into_iter()), Some((2.0, 128.0)));
        assert_eq!(octaves([f64::INFINITY, f64::NAN].into_iter()), None);
    }
}
