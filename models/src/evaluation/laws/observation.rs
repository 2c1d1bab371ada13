//! What is known of a length: its value, or only an interval.

use serde::Serialize;

/// What one experiment says about a length.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Observation {
    /// The length is known exactly: this is its value.
    Exact(f64),
    /// It lies in (low, high].
    Within {
        /// Lower end, above which the length lies; 0 where nothing is known below.
        low: f64,
        /// Upper end, which the length may reach; `None` where nothing is known above.
        high: Option<f64>,
    },
}

/// A length observed at a size of the state.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Size of the state, in the unit of the fit.
    pub size: f64,
    /// The length, in the unit of the fit.
    pub length: Observation,
}

impl Observation {
    /// Known to lie in (half, whole], as lengths tried in powers of two leave it.
    pub fn halved(whole: f64) -> Self {
        Self::Within {
            low: whole / 2.0,
            high: Some(whole),
        }
    }

    /// A single number for starting a search and for drawing: the value, the geometric mean of the interval's ends, or √2
    /// beyond its only end.
    pub fn representative(self) -> f64 {
        let step = std::f64::consts::SQRT_2;
        match self {
            Self::Exact(value) => value,
            Self::Within {
                low,
                high: Some(high),
            } if low > 0.0 => (low * high).sqrt(),
            Self::Within { high: Some(high), .. } => high / step,
            Self::Within { low, high: None } => low * step,
        }
    }

    /// Whether it is bounded on both sides.
    pub fn is_two_sided(self) -> bool {
        match self {
            Self::Exact(_) => true,
            Self::Within { low, high } => low > 0.0 && high.is_some(),
        }
    }

    /// Whether nothing is known.
    pub fn is_empty(self) -> bool {
        matches!(self, Self::Within { low, high: None } if low <= 0.0)
    }
}
