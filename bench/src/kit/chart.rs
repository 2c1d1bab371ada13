//! Charts on two axes, each linear or logarithmic.

use super::axis::{Axis, Scale};
pub use super::layer::{Curve, Layer, from_the_top, spread};
use super::picture::{Drawing, WIDTH, at, legend};
use super::plot::{HEIGHT, Plot, TOP};
use maud::html;

/// Layers on two axes.
#[derive(Clone, Debug)]
pub struct Chart {
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// Name of an axis on the right with exp of what is upwards: perplexities of losses.
    pub exponential: Option<&'static str>,
    /// What is drawn, the last layer on top.
    pub layers: Vec<Layer>,
}

impl Chart {
    /// The chart as a drawing.
    pub fn draw(&self) -> Drawing {
        let places: Vec<(f64, f64)> = self.layers.iter().flat_map(Layer::places).collect();
        let is_map = self
            .layers
            .iter()
            .any(|layer| matches!(layer, Layer::Cells { .. }));
        let x_margin = if is_map || self.x.scale == Scale::Binary {
            0.0
        } else {
            0.02
        };
        let plot = Plot::new(
            self.x.fitted(places.iter().map(|place| place.0), x_margin),
            self.y.fitted(
                places.iter().map(|place| place.1),
                if is_map { 0.0 } else { 0.06 },
            ),
            self.exponential,
        );
        let drawn = self.layers.iter().any(|layer| layer.entry().is_some());
        let body = html! {
            (plot.axes())
            // What lies outside the axes is cut off; marks on their edges are not.
            svg x=(at(plot.left)) y=(at(TOP)) width=(at(plot.width)) height=(at(plot.height)) { @for layer in &self.layers { (plot.area(layer)) } }
            @for layer in &self.layers { (plot.marks(layer)) }
            @if !drawn || !places.iter().any(|place| place.0.is_finite() || place.1.is_finite()) {
                text.grey.name text-anchor="middle" x=(at(plot.left + plot.width / 2.0)) y=(at(TOP + plot.height / 2.0)) { "nothing to draw" }
            }
        };
        Drawing {
            size: (WIDTH, HEIGHT),
            body,
            legend: legend(self.layers.iter().filter_map(Layer::entry)),
            is_table: false,
        }
    }
}

/// Where a bucket of positions is drawn: its geometric middle; the arithmetic one where it starts at 0.
pub fn middle(start: u64, end: u64) -> f64 {
    match start {
        0 => end as f64 / 2.0,
        start => (start as f64 * end as f64).sqrt(),
    }
}

/// How far the n-th of several is moved aside, in steps, so that all are seen: −1.5, −0.5, 0.5, 1.5 for four.
pub fn aside(index: usize, of: usize) -> f64 {
    index as f64 - (of.max(1) as f64 - 1.0) / 2.0
}
