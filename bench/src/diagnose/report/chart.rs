//! Line charts, dot charts and heat maps as SVG, with one look: light, thin grid, few colours, told apart without them too.

use super::format;
use crate::error::ProgramError;
use plotters::prelude::*;
use std::fmt::Display;
use std::ops::Range;

/// Okabe and Ito's palette without its yellow, which is lost on white; safe for colour-blind readers.
pub const PALETTE: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 120, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
    RGBColor(120, 94, 40),
];
/// Text and axes.
pub const INK: RGBColor = RGBColor(40, 40, 40);
/// What serves for comparison only.
pub const GREY: RGBColor = RGBColor(130, 130, 130);
const GRID: RGBColor = RGBColor(228, 228, 228);

/// Shades of a heat map up to this are not told from the background.
const LIGHTEST: f64 = 0.01;

/// Sizes of text in the drawing library's unit, of which 1.24 make a pixel.
const LABEL: i32 = 16;
const NAME: i32 = 17;

/// Least height of an axis of ratios.
const RATIO_RANGE: f64 = 0.1;

/// Lengths of dash and gap in pixels.
pub const DASHES: [Option<(i32, i32)>; 4] = [None, Some((7, 4)), Some((2, 3)), Some((12, 3))];

/// How a line is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Stroke {
    /// Colour.
    pub colour: RGBColor,
    /// Dash and gap; `None` is a solid line.
    pub dash: Option<(i32, i32)>,
    /// Width in pixels.
    pub width: u32,
}

impl Stroke {
    /// The stroke of the n-th line: colours first, then dashes.
    pub fn nth(index: usize) -> Self {
        let dash = DASHES[(index % PALETTE.len() + index / PALETTE.len()) % DASHES.len()];
        Self {
            colour: PALETTE[index % PALETTE.len()],
            dash,
            width: 2,
        }
    }
}

/// A line and its name in the legend.
#[derive(Clone, Debug)]
pub struct Line {
    /// Name.
    pub name: String,
    /// (position, value).
    pub points: Vec<(f64, f64)>,
    /// How it is drawn.
    pub stroke: Stroke,
}

/// What the vertical axis shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vertical {
    /// The values.
    Linear,
    /// The values, and exp of them on the right-hand side.
    LossAndPerplexity,
    /// log₂ of the values, labelled with the values.
    Log2,
}

/// What the horizontal axis shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Horizontal {
    /// Positions in a text on a logarithmic axis.
    Positions {
        /// A position to mark.
        mark: f64,
    },
    /// Steps of a training, from 0.
    Steps,
}

impl Horizontal {
    fn name(self) -> &'static str {
        match self {
            Self::Positions { .. } => "position (tokens)",
            Self::Steps => "step",
        }
    }

    /// Into the coordinate of the axis.
    fn project(self, x: f64) -> f64 {
        match self {
            Self::Positions { .. } => x.log2(),
            Self::Steps => x,
        }
    }

    /// A coordinate that is always shown: the marked position, or the first step.
    fn anchor(self) -> f64 {
        match self {
            Self::Positions { mark } => mark.log2(),
            Self::Steps => 0.0,
        }
    }

    /// Pixels for the labels of the vertical axis: rates of learning and of tokens take more digits than losses.
    fn margin(self) -> u32 {
        match self {
            Self::Positions { .. } => 62,
            Self::Steps => 80,
        }
    }

    fn labels(self, range: &Range<f64>) -> usize {
        match self {
            Self::Positions { .. } => (range.end - range.start).floor() as usize + 1,
            Self::Steps => 8,
        }
    }

    fn label(self, x: f64) -> String {
        match self {
            Self::Positions { .. } => power_of_two(&x),
            Self::Steps if (x - x.round()).abs() < 1e-6 => format::count(x.round() as u64),
            Self::Steps => String::new(),
        }
    }
}

/// Lines over positions or steps.
#[derive(Clone, Debug)]
pub struct LineChart<'a> {
    /// Pixels.
    pub size: (u32, u32),
    /// Name of the vertical axis.
    pub quantity: &'a str,
    /// What that axis shows.
    pub vertical: Vertical,
    /// What the horizontal axis shows.
    pub horizontal: Horizontal,
    /// The lines, the last on top.
    pub lines: &'a [Line],
    /// A value to mark.
    pub level: Option<f64>,
}

fn failed(picture: &str) -> impl Fn(&dyn Display) -> ProgramError {
    let picture = picture.to_string();
    move |cause| ProgramError::Picture {
        picture: picture.clone(),
        cause: cause.to_string(),
    }
}

impl LineChart<'_> {
    /// The picture.
    ///
    /// # Errors
    /// [`ProgramError::Picture`] from the drawing library.
    pub fn svg(&self) -> Result<String, ProgramError> {
        let mut svg = String::new();
        let failed = failed(self.quantity);
        self.draw(&mut svg).map_err(|cause| failed(&cause))?;
        Ok(responsive(svg, self.size))
    }

    fn draw(&self, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        let lines: Vec<Line> = self.lines.iter().map(|line| self.project(line)).collect();
        let (x, y) = (self.horizontal_range(&lines), self.vertical_range(&lines));
        let root = SVGBackend::with_string(svg, self.size).into_drawing_area();
        let right = if self.vertical == Vertical::LossAndPerplexity {
            64
        } else {
            8
        };
        let mut chart = ChartBuilder::on(&root)
            .margin(6)
            .margin_right(16)
            .x_label_area_size(44)
            .y_label_area_size(self.horizontal.margin())
            .right_y_label_area_size(right)
            .build_cartesian_2d(x.clone(), y.clone())?
            .set_secondary_coord(x.clone(), y.clone());
        let value = |value: &f64| match self.vertical {
            Vertical::Log2 => short(value.exp2()),
            _ => short(*value),
        };
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(GREY)
            .x_labels(self.horizontal.labels(&x))
            .y_labels(8)
            .x_label_formatter(&|x: &f64| self.horizontal.label(*x))
            .y_label_formatter(&value)
            .label_style(("sans-serif", LABEL).into_font().color(&INK))
            .axis_desc_style(("sans-serif", NAME).into_font().color(&INK))
            .x_desc(self.horizontal.name())
            .y_desc(self.quantity)
            .draw()?;
        if self.vertical == Vertical::LossAndPerplexity {
            chart
                .configure_secondary_axes()
                .axis_style(GREY)
                .y_labels(8)
                .y_label_formatter(&|loss: &f64| short(loss.exp()))
                .label_style(("sans-serif", LABEL).into_font().color(&INK))
                .axis_desc_style(("sans-serif", NAME).into_font().color(&INK))
                .y_desc("perplexity")
                .draw()?;
        }
        if let Horizontal::Positions { .. } = self.horizontal {
            let mark = self.horizontal.anchor();
            chart.draw_series(DashedLineSeries::new(
                [(mark, y.start), (mark, y.end)],
                4,
                4,
                GREY.stroke_width(1),
            ))?;
        }
        if let Some(level) = self.level() {
            chart.draw_series(DashedLineSeries::new(
                [(x.start, level), (x.end, level)],
                4,
                4,
                GREY.stroke_width(1),
            ))?;
        }
        for line in &lines {
            let style = line.stroke.colour.stroke_width(line.stroke.width);
            let points = line.points.iter().copied();
            match line.stroke.dash {
                None => chart.draw_series(LineSeries::new(points, style))?,
                Some((dash, gap)) => chart.draw_series(DashedLineSeries::new(points, dash, gap, style))?,
            };
        }
        root.present()?;
        Ok(())
    }

    /// Into the coordinates of the axes; points that are not finite are left out.
    fn project(&self, line: &Line) -> Line {
        let value = |value: f64| {
            if self.vertical == Vertical::Log2 {
                value.log2()
            } else {
                value
            }
        };
        let points = line
            .points
            .iter()
            .map(|&(x, y)| (self.horizontal.project(x), value(y)));
        Line {
            points: points.filter(|(x, y)| x.is_finite() && y.is_finite()).collect(),
            ..line.clone()
        }
    }

    fn level(&self) -> Option<f64> {
        self.level.map(|value| {
            if self.vertical == Vertical::Log2 {
                value.log2()
            } else {
                value
            }
        })
    }

    fn horizontal_range(&self, lines: &[Line]) -> Range<f64> {
        let positions = lines
            .iter()
            .flat_map(|line| line.points.iter().map(|point| point.0));
        let (low, high) = bounds(positions.chain([self.horizontal.anchor()]));
        low..high.max(low + 1.0)
    }

    fn vertical_range(&self, lines: &[Line]) -> Range<f64> {
        let values = lines
            .iter()
            .flat_map(|line| line.points.iter().map(|point| point.1));
        let (low, high) = bounds(values.chain(self.level()));
        let mut margin = ((high - low) * 0.06).max(1e-6);
        if self.level == Some(1.0) {
            // Ratios that hardly differ from 1 are drawn as such.
            margin = margin.max((RATIO_RANGE - (high - low)) / 2.0);
        }
        low - margin..high + margin
    }
}

fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
        (low.min(v), high.max(v))
    });
    if low <= high { (low, high) } else { (0.0, 1.0) }
}

/// Whole powers of two get a label, others none.
fn power_of_two(exponent: &f64) -> String {
    if (exponent - exponent.round()).abs() < 1e-6 {
        format::position(exponent.exp2())
    } else {
        String::new()
    }
}

/// Three significant digits.
pub fn short(value: f64) -> String {
    match value.abs() {
        v if v < 1e-9 => "0".into(),
        v if !(0.001..100_000.0).contains(&v) => format!("{value:.0e}"),
        v if v >= 100.0 => format::count(value.round() as u64),
        v => {
            let decimals = (2 - v.log10().floor() as i32).max(0) as usize;
            let text = format!("{value:.decimals$}");
            if text.contains('.') {
                text.trim_end_matches('0').trim_end_matches('.').to_string()
            } else {
                text
            }
        }
    }
}

/// One cell per (row, column), darker for larger values.
#[derive(Clone, Debug)]
pub struct HeatMap<'a> {
    /// Pixels.
    pub size: (u32, u32),
    /// Name of the vertical axis.
    pub rows_name: &'a str,
    /// Positions that the columns end at.
    pub columns: &'a [f64],
    /// `[rows][columns]`, from 0 (light) to 1 (dark).
    pub shades: &'a [Vec<f64>],
    /// A position to mark.
    pub mark: f64,
}

impl HeatMap<'_> {
    /// The picture.
    ///
    /// # Errors
    /// [`ProgramError::Picture`] from the drawing library.
    pub fn svg(&self) -> Result<String, ProgramError> {
        let mut svg = String::new();
        let failed = failed(self.rows_name);
        self.draw(&mut svg).map_err(|cause| failed(&cause))?;
        Ok(responsive(svg, self.size))
    }

    fn draw(&self, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        let edges: Vec<f64> = self.columns.iter().map(|position| position.log2()).collect();
        let (low, high) = bounds(edges.iter().copied());
        let rows = self.shades.len();
        let root = SVGBackend::with_string(svg, self.size).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin(6)
            .margin_right(16)
            .x_label_area_size(44)
            .y_label_area_size(62)
            .build_cartesian_2d(low..high.max(low + 1.0), rows as f64..0.0)?;
        chart
            .configure_mesh()
            .disable_mesh()
            .axis_style(GREY)
            .x_labels((high - low).floor() as usize + 1)
            .y_labels(8)
            .x_label_formatter(&power_of_two)
            .y_label_formatter(&|row: &f64| format!("{row:.0}"))
            .label_style(("sans-serif", LABEL).into_font().color(&INK))
            .axis_desc_style(("sans-serif", NAME).into_font().color(&INK))
            .x_desc("position (tokens)")
            .y_desc(self.rows_name)
            .draw()?;
        let all = [(low, 0.0), (high, rows as f64)];
        chart.draw_series([Rectangle::new(all, shade_colour(0.0).filled())])?;
        for (row, shades) in self.shades.iter().enumerate() {
            let (top, bottom) = (row as f64, row as f64 + 1.0);
            let cells = edges.windows(2).zip(shades.iter().skip(1));
            // The background is as light as the lightest cell; hundreds of heads make many cells.
            let cells = cells.filter(|(_, shade)| **shade > LIGHTEST || shade.is_nan());
            chart.draw_series(cells.map(|(pair, &shade)| {
                Rectangle::new([(pair[0], top), (pair[1], bottom)], shade_colour(shade).filled())
            }))?;
        }
        let mark = self.mark.log2();
        chart.draw_series(DashedLineSeries::new(
            [(mark, 0.0), (mark, rows as f64)],
            4,
            4,
            INK.stroke_width(1),
        ))?;
        root.present()?;
        Ok(())
    }
}

/// From near white to dark blue.
pub fn shade_colour(shade: f64) -> RGBColor {
    let shade = if shade.is_finite() {
        shade.clamp(0.0, 1.0)
    } else {
        1.0
    };
    let mix = |light: f64, dark: f64| (light + (dark - light) * shade).round() as u8;
    RGBColor(mix(244.0, 8.0), mix(247.0, 48.0), mix(251.0, 107.0))
}

/// Dots in rows over a logarithmic axis.
#[derive(Clone, Debug)]
pub struct DotChart<'a> {
    /// Pixels.
    pub size: (u32, u32),
    /// Name of the horizontal axis.
    pub quantity: &'a str,
    /// Name of the rows.
    pub rows_name: &'a str,
    /// Number of rows.
    pub rows: usize,
    /// (row, value).
    pub dots: &'a [(usize, f64)],
    /// A value to mark.
    pub mark: f64,
}

impl DotChart<'_> {
    /// The picture.
    ///
    /// # Errors
    /// [`ProgramError::Picture`] from the drawing library.
    pub fn svg(&self) -> Result<String, ProgramError> {
        let mut svg = String::new();
        let failed = failed(self.quantity);
        self.draw(&mut svg).map_err(|cause| failed(&cause))?;
        Ok(responsive(svg, self.size))
    }

    fn draw(&self, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        let values = self.dots.iter().map(|dot| dot.1.log2());
        let (low, high) = bounds(values.chain([self.mark.log2()]));
        let (low, high) = ((low - 0.5).floor(), (high + 0.5).ceil());
        let root = SVGBackend::with_string(svg, self.size).into_drawing_area();
        let rows = self.rows as f64;
        let mut chart = ChartBuilder::on(&root)
            .margin(6)
            .margin_right(16)
            .x_label_area_size(44)
            .y_label_area_size(62)
            .build_cartesian_2d(low..high, rows - 0.5..-0.5)?;
        let whole = |row: &f64| {
            if (row - row.round()).abs() < 1e-6 {
                format!("{row:.0}")
            } else {
                String::new()
            }
        };
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(GREY)
            .x_labels((high - low) as usize + 1)
            .y_labels(self.rows.min(10))
            .x_label_formatter(&power_of_two)
            .y_label_formatter(&whole)
            .label_style(("sans-serif", LABEL).into_font().color(&INK))
            .axis_desc_style(("sans-serif", NAME).into_font().color(&INK))
            .x_desc(self.quantity)
            .y_desc(self.rows_name)
            .draw()?;
        let mark = self.mark.log2();
        let ends = [(mark, -0.5), (mark, rows - 0.5)];
        chart.draw_series(DashedLineSeries::new(ends, 4, 4, GREY.stroke_width(1)))?;
        let style = PALETTE[0].mix(0.7).filled();
        chart.draw_series(
            self.dots
                .iter()
                .map(|&(row, value)| Circle::new((value.log2(), row as f64), 5, style)),
        )?;
        root.present()?;
        Ok(())
    }
}

/// Scales with the page, in the page's own font.
pub fn responsive(svg: String, (width, height): (u32, u32)) -> String {
    svg.replacen(
        &format!("width=\"{width}\" height=\"{height}\""),
        "role=\"img\"",
        1,
    )
}
