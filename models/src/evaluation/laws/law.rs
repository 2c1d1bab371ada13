//! The laws that are fitted, and what an error of one means.
//!
//! | law | T(S) | parameters |
//! |---|---|---|
//! | linear | a S + b | a, b |
//! | power | a Sᵇ | a, b |
//! | exponential | a (e^{cS} − 1) + b | a, b, c |

use std::fmt;

use serde::Serialize;

/// A law of a length T in tokens against a size S of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Law {
    /// T = a S + b.
    Linear,
    /// T = a Sᵇ.
    Power,
    /// T = a (e^{cS} − 1) + b, with c > 0.
    Exponential,
}

/// How observed lengths scatter around a law.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorModel {
    /// T = f(S) + σ ε, ε standard normal: ordinary least squares.
    Additive,
    /// ln T = ln f(S) + σ ε: every length is off by a factor, and neither T nor f(S) can be 0.
    LogNormal,
}

impl Law {
    /// Every law that can be fitted.
    pub const ALL: [Self; 3] = [Self::Linear, Self::Power, Self::Exponential];

    /// Number of the law's parameters, σ not counted.
    pub fn arity(self) -> usize {
        match self {
            Self::Linear | Self::Power => 2,
            Self::Exponential => 3,
        }
    }

    /// T at a size; NaN unless there are [`Law::arity`] parameters.
    pub fn at(self, parameters: &[f64], size: f64) -> f64 {
        match (self, parameters) {
            (Self::Linear, [a, b]) => a * size + b,
            (Self::Power, [a, b]) => a * size.powf(*b),
            (Self::Exponential, [a, b, c]) => a * (c * size).exp_m1() + b,
            _ => f64::NAN,
        }
    }

    /// With its parameters written in.
    pub fn formula(self, parameters: &[f64]) -> String {
        match (self, parameters) {
            (Self::Linear, [a, b]) => format!("T = {} S {}", number(*a), signed(*b)),
            (Self::Power, [a, b]) => format!("T = {} S^{}", number(*a), number(*b)),
            (Self::Exponential, [a, b, c]) => {
                format!("T = {} (e^({} S) − 1) {}", number(*a), number(*c), signed(*b))
            }
            _ => format!("{self}: {parameters:?}"),
        }
    }
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linear => "linear",
            Self::Power => "power",
            Self::Exponential => "exponential",
        })
    }
}

impl ErrorModel {
    /// Both error models.
    pub const ALL: [Self; 2] = [Self::Additive, Self::LogNormal];

    /// The scale on which errors are normal; NaN or −∞ for what has no place on it.
    pub fn scale(self, length: f64) -> f64 {
        match self {
            Self::Additive => length,
            Self::LogNormal => length.ln(),
        }
    }
}

impl fmt::Display for ErrorModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Additive => "additive",
            Self::LogNormal => "log-normal",
        })
    }
}

/// Four significant digits, in powers of ten only where the number is very large or small.
pub fn number(value: f64) -> String {
    let magnitude = value.abs();
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    if !(1e-3..1e6).contains(&magnitude) {
        return format!("{value:.3e}").replace('-', "−");
    }
    let decimals = (3 - magnitude.log10().floor() as i32).max(0) as usize;
    format!("{value:.decimals$}").replace('-', "−")
}

fn signed(value: f64) -> String {
    if value < 0.0 {
        format!("− {}", number(-value))
    } else {
        format!("+ {}", number(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_hold_their_parameters() {
        assert_eq!(Law::Linear.formula(&[5.1638, -4.4557]), "T = 5.164 S − 4.456");
        assert_eq!(Law::Power.formula(&[1.0905, 1.6654]), "T = 1.091 S^1.665");
        assert_eq!(
            Law::Exponential.formula(&[4.756, -0.742, 0.3112]),
            "T = 4.756 (e^(0.3112 S) − 1) − 0.7420"
        );
        assert_eq!(number(-2.5e-7), "−2.500e−7");
        assert!(Law::Linear.at(&[1.0], 1.0).is_nan());
    }
}
