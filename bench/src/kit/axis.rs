//! An axis: its name and unit, how values lie on it, and the range that it shows.

use super::ticks::{self, LARGEST, Tick};

/// Ticks of an axis that has little room.
const FEWEST: usize = 5;
/// The most ticks of a vertical axis.
pub(super) const UPWARDS: usize = 7;
/// Pixels between two ticks of an axis that shows something else than the one that it is drawn beside.
const APART: f64 = 18.0;

/// How values lie on an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Evenly, with ticks at round values.
    Linear,
    /// Evenly, with ticks at whole numbers.
    Whole,
    /// By their logarithms, with ticks at powers of two, as is usual for lengths.
    Binary,
    /// By their logarithms, with ticks at round values, as is usual for ratios.
    Decimal,
}

/// An axis of a chart: its name with the unit, its scale, and the range that it shows.
#[derive(Clone, Debug)]
pub struct Axis {
    pub(super) name: String,
    pub(super) scale: Scale,
    range: Option<(f64, f64)>,
    with: Vec<f64>,
    least: f64,
    pub(super) downwards: bool,
}

impl Axis {
    /// An axis over all values, called `quantity (unit)`.
    pub fn new(name: impl Into<String>, scale: Scale) -> Self {
        Self {
            name: name.into(),
            scale,
            range: None,
            with: Vec::new(),
            least: 0.0,
            downwards: false,
        }
    }

    /// Positions in a text.
    pub fn positions() -> Self {
        Self::new("position (tokens)", Scale::Binary)
    }

    /// This axis from `low` to `high`, whatever the values on it are.
    pub fn range(self, low: f64, high: f64) -> Self {
        Self {
            range: Some((low, high)),
            ..self
        }
    }

    /// Shows a value, whatever the others are.
    pub fn with(mut self, value: f64) -> Self {
        self.with.push(value);
        self
    }

    /// Is at least so long, so that what hardly differs is drawn as such.
    pub fn least(self, least: f64) -> Self {
        Self { least, ..self }
    }

    /// Begins at the top.
    pub fn downwards(self) -> Self {
        Self {
            downwards: true,
            ..self
        }
    }

    pub(super) fn is_logarithmic(&self) -> bool {
        matches!(self.scale, Scale::Binary | Scale::Decimal)
    }

    /// Whether a value has a place on it.
    pub(super) fn holds(&self, value: f64) -> bool {
        value.abs() <= LARGEST && (value >= 1.0 / LARGEST || !self.is_logarithmic())
    }

    /// The axis with the range that it shows of these values, `margin` of their extent free at either end.
    pub(super) fn fitted(&self, values: impl Iterator<Item = f64>, margin: f64) -> Fitted<'_> {
        let values = values.chain(self.with.iter().copied());
        let extent = ticks::extent(values.filter(|value| self.holds(*value)));
        let (low, high) = match (self.range, self.is_logarithmic()) {
            (Some(range), _) if range.0 < range.1 && self.holds(range.0) => range,
            (_, true) => ticks::widened_logarithmic(extent, margin),
            (_, false) => {
                let (low, high) = ticks::widened(extent, margin);
                let more = ((self.least - (high - low)) / 2.0).max(0.0);
                // What is never negative has no negative axis.
                let floor = if extent.is_none_or(|extent| extent.0 >= 0.0) {
                    0.0
                } else {
                    f64::NEG_INFINITY
                };
                match self.scale {
                    Scale::Whole => (low.max(floor).floor(), high.ceil()),
                    _ => ((low - more).max(floor), high + more),
                }
            }
        };
        Fitted {
            axis: self,
            low,
            high,
        }
    }

    /// `loss` of `loss (nats per token)`.
    pub(super) fn quantity(&self) -> &str {
        self.name.split(" (").next().unwrap_or(&self.name)
    }
}

/// An axis and its range.
pub(super) struct Fitted<'a> {
    pub(super) axis: &'a Axis,
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Fitted<'_> {
    /// The share of the axis that lies below a value.
    pub(super) fn share(&self, value: f64) -> f64 {
        match self.axis.is_logarithmic() {
            true => (value / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        }
    }

    pub(super) fn ticks(&self, most: usize) -> Vec<Tick> {
        let ticks = match self.axis.scale {
            Scale::Linear => ticks::linear,
            Scale::Whole => ticks::whole,
            Scale::Binary => ticks::binary,
            Scale::Decimal => ticks::decimal,
        };
        ticks(self.low, self.high, most.max(FEWEST))
    }

    pub(super) fn has(&self, value: f64) -> bool {
        self.axis.holds(value) && (-1e-9..=1.0 + 1e-9).contains(&self.share(value))
    }
}

/// Ticks of exp of the values of an axis, far enough from each other.
pub(super) fn exponentials(y: &Fitted<'_>, height: f64) -> Vec<Tick> {
    let (low, high) = (y.low.exp(), y.high.exp());
    if !(low > 0.0 && high.is_finite() && low < high) {
        return Vec::new();
    }
    let mut kept: Vec<Tick> = Vec::new();
    for tick in ticks::decimal(low, high, UPWARDS + 1) {
        let far = |last: &Tick| height * (y.share(tick.at.ln()) - y.share(last.at.ln())) >= APART;
        if kept.last().is_none_or(far) {
            kept.push(tick);
        }
    }
    kept
}
