//! Step sizes, and how a trained parameter stands for a positive number.

use super::super::error::{Result, StateSpaceError, require_positive};
use rand::Rng;

/// What keeps a rate of decay away from 0.
const FLOOR: f64 = 1e-4;

/// The function that turns a trained parameter into Δ, −Re λ or Im λ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transform {
    /// `none`: the number itself.
    None,
    /// `exp`: eᵖ.
    #[default]
    Exp,
    /// `relu`: max(p, 0) + 1e-4.
    Relu,
    /// `sigmoid`: 1 / (1 + e⁻ᵖ).
    Sigmoid,
    /// `softplus`: ln(1 + eᵖ).
    Softplus,
}

impl Transform {
    /// The transform of a published name.
    ///
    /// # Errors
    /// Another name.
    pub fn from_name(name: &str) -> Result<Self> {
        Ok(match name {
            "none" => Self::None,
            "exp" => Self::Exp,
            "relu" => Self::Relu,
            "sigmoid" => Self::Sigmoid,
            "softplus" => Self::Softplus,
            _ => {
                return Err(StateSpaceError::Name {
                    what: "transform",
                    found: name.to_owned(),
                    known: "none, exp, relu, sigmoid, softplus",
                });
            }
        })
    }

    /// The number that a parameter stands for.
    pub fn apply(self, parameter: f64) -> f64 {
        match self {
            Self::None => parameter,
            Self::Exp => parameter.exp(),
            Self::Relu => parameter.max(0.0) + FLOOR,
            Self::Sigmoid => 1.0 / (1.0 + (-parameter).exp()),
            // Without overflow, and exact for large p.
            Self::Softplus => parameter.max(0.0) + (-parameter.abs()).exp().ln_1p(),
        }
    }

    /// The parameter that stands for a number. Published code raises rates of decay to 1e-4 before this:
    /// [`Transform::invert_rate`].
    ///
    /// # Errors
    /// A number that the transform does not reach.
    pub fn invert(self, value: f64) -> Result<f64> {
        let (parameter, expected) = match self {
            Self::None => (value, "a finite number"),
            Self::Exp => (value.ln(), "a finite number above 0"),
            Self::Relu if value < FLOOR => (f64::NAN, "a finite number of at least 1e-4"),
            Self::Relu => (value - FLOOR, "a finite number of at least 1e-4"),
            Self::Sigmoid => ((value / (1.0 - value)).ln(), "a number between 0 and 1"),
            // ln(eᵛ − 1), which is v for large v.
            Self::Softplus => (value + (-(-value).exp()).ln_1p(), "a finite number above 0"),
        };
        if parameter.is_finite() {
            return Ok(parameter);
        }
        Err(StateSpaceError::Value {
            what: "the number",
            place: "the inverse of a transform".into(),
            expected,
            found: value,
        })
    }

    /// As [`Transform::invert`], of a rate of decay that is first raised to 1e-4, since a rate of 0 has no logarithm.
    ///
    /// # Errors
    /// As [`Transform::invert`].
    pub fn invert_rate(self, rate: f64) -> Result<f64> {
        match self {
            Self::None => self.invert(rate),
            _ => self.invert(rate.max(FLOOR)),
        }
    }
}

/// The range of fresh step sizes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepRange {
    /// The least step size Δ.
    pub min: f64,
    /// The greatest step size Δ.
    pub max: f64,
}

impl Default for StepRange {
    /// 1e-3 to 1e-1. Path-X starts at 1e-4, and S4ND on images has 0.1 to 1.
    fn default() -> Self {
        Self { min: 1e-3, max: 1e-1 }
    }
}

impl StepRange {
    /// Log-uniform step sizes: one for each channel where it is tied over a channel's modes, or one for each mode.
    ///
    /// # Errors
    /// Ends that are not finite, positive and in order.
    pub fn random(self, count: usize, rng: &mut impl Rng) -> Result<Vec<f64>> {
        let (low, high) = self.logarithms()?;
        let draw = |_| (low + (high - low) * rng.random::<f64>()).exp();
        Ok((0..count).map(draw).collect())
    }

    /// Step sizes whose logarithms are equally far apart, from the least to the greatest.
    ///
    /// (Published code with the option `deterministic` stores them where their logarithms belong, so that Δ is about 1 under
    /// the transform exp. These are Δ.)
    ///
    /// # Errors
    /// As [`StepRange::random`].
    pub fn spaced(self, count: usize) -> Result<Vec<f64>> {
        let (low, high) = self.logarithms()?;
        let gaps = count.saturating_sub(1).max(1) as f64;
        Ok((0..count)
            .map(|i| (low + (high - low) * i as f64 / gaps).exp())
            .collect())
    }

    fn logarithms(self) -> Result<(f64, f64)> {
        require_positive("the least Δ", || "a range of step sizes".into(), self.min)?;
        require_positive("the greatest Δ", || "a range of step sizes".into(), self.max)?;
        if self.min <= self.max {
            return Ok((self.min.ln(), self.max.ln()));
        }
        Err(StateSpaceError::Value {
            what: "the greatest Δ",
            place: "a range of step sizes".into(),
            expected: "at least the least Δ",
            found: self.max,
        })
    }
}
