//! How the tensors of a fresh model are drawn.

use std::sync::Arc;

/// How a tensor's values are drawn in a random checkpoint.
#[derive(Clone, Debug)]
pub enum Init {
    /// Every element is 0.
    Zeros,
    /// Every element is 1.
    Ones,
    /// Every element is this number.
    Constant(f32),
    /// Uniform from the first to the second.
    Uniform(f32, f32),
    /// Normal around 0 with this standard deviation.
    Normal(f32),
    /// ln x with x uniform from the first to the second, which are positive.
    LogOfUniform(f32, f32),
    /// softplus⁻¹(Δ) with Δ log-uniform and at least a floor: the bias of a step size.
    StepBias(StepSizes),
    /// A ramp from the first to the last element: `from` + (`to` − `from`) (i / (n − 1))^`power`.
    Ramp {
        /// Value of the first element.
        from: f32,
        /// Value of the last element.
        to: f32,
        /// Power of the share of the way from one end to the other.
        power: f32,
    },
    /// A function of an element's index and the number of elements.
    Values(fn(usize, usize) -> f32),
    /// These values, over and over: the same for every row or channel. None at all give zeros.
    Repeated(Arc<[f32]>),
}

impl Init {
    /// Uniform in ±1/√n, the usual start of a projection from n features.
    pub fn fan_in(n: usize) -> Self {
        let bound = 1.0 / (n.max(1) as f32).sqrt();
        Self::Uniform(-bound, bound)
    }
}

/// Step sizes of a fresh layer: log-uniform from `min` to `max`, and then at least `floor`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSizes {
    /// Lower end of the range of Δ that step sizes are drawn from.
    pub min: f64,
    /// Upper end of the range of Δ that step sizes are drawn from.
    pub max: f64,
    /// What none is below, whatever the ends.
    pub floor: f64,
}

impl Default for StepSizes {
    /// The defaults of all published code: 1e-3 to 1e-1, at least 1e-4.
    fn default() -> Self {
        Self {
            min: 1e-3,
            max: 1e-1,
            floor: 1e-4,
        }
    }
}
