//! How a continuous system becomes a recurrence over samples.
//!
//! x′ = A x + B u with a step Δ becomes x_k = Ā x_{k−1} + B̄ u_k, so that u_k reaches x_k at once and K̄₀ = C B̄.
//!
//! | rule | Ā | B̄ |
//! |---|---|---|
//! | generalised bilinear, α | (I − αΔA)⁻¹ (I + (1 − α)ΔA) | (I − αΔA)⁻¹ ΔB |
//! | zero-order hold | e^{ΔA} | Δ φ₁(ΔA) B, which is A⁻¹(Ā − I) B |
//! | mixed (Mamba) | e^{ΔA} | ΔB |
//! | exponential-trapezoidal, λ (Mamba-3) | e^{ΔA} | x_k = Ā x_{k−1} + (1 − λ)Δ Ā B u_{k−1} + λΔB u_k |
//!
//! α = 0, ½ and 1 are the forward Euler, bilinear (Tustin) and backward Euler rules. The last row is the mixed rule on the
//! shifted state z_k = x_k + (1 − λ)ΔB u_k, with a smaller skip:
//!
//! ```text
//! z_k = Ā z_{k−1} + ΔB u_k        y_k = C z_k + (D − (1 − λ)Δ C B) u_k
//! ```
//!
//! so that it has the same three views as the others.
//!
//! The bilinear rule bends frequencies: a mode at ω answers at 2 atan(ωΔ/2)/Δ. For Re λ < 0 all rules here with α ≥ ½ give
//! |ā| < 1; the forward Euler rule does not (9.8 for S4D-Lin with N = 64, Δ = 0.1).

use super::error::{Result, StateSpaceError, require_positive};
use super::phi::phi1;
use num_complex::Complex64;

/// A rule of discretisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Discretisation {
    /// The generalised bilinear transform; α from 0 to 1.
    GeneralisedBilinear {
        /// The share of the derivative that is taken at the end of a step.
        alpha: f64,
    },
    /// The input is constant over a step, and the system is solved exactly.
    ZeroOrderHold,
    /// Ā of the zero-order hold with B̄ = ΔB, as Mamba has it.
    Mixed,
    /// The trapezoid between two inputs under an exact decay, as Mamba-3 has it; λ from 0 to 1.
    ExponentialTrapezoidal {
        /// The share of the newer input; 1 is [`Discretisation::Mixed`], ½ the trapezoid.
        lambda: f64,
    },
}

/// One mode under a rule: ā, and what an input is multiplied by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DiscreteMode {
    /// ā, what the mode's state is multiplied by at every step.
    pub transition: Complex64,
    /// b̄ for B = 1.
    pub input: Complex64,
    /// (1 − λ)Δ of the exponential-trapezoidal rule, and 0 of the others: z = x + shift · B u.
    pub shift: f64,
}

impl Discretisation {
    /// The generalised bilinear rule with α = 0.
    pub const FORWARD_EULER: Self = Self::GeneralisedBilinear { alpha: 0.0 };
    /// The generalised bilinear rule with α = ½, Tustin's rule.
    pub const BILINEAR: Self = Self::GeneralisedBilinear { alpha: 0.5 };
    /// The generalised bilinear rule with α = 1.
    pub const BACKWARD_EULER: Self = Self::GeneralisedBilinear { alpha: 1.0 };

    /// The rule of a published name: `forward` (`euler`), `bilinear` (`tustin`), `backward` (`backward_diff`), `zoh`,
    /// `mixed` (`mamba`), `trapezoidal`.
    ///
    /// # Errors
    /// Another name.
    pub fn from_name(name: &str) -> Result<Self> {
        Ok(match name {
            "forward" | "euler" => Self::FORWARD_EULER,
            "bilinear" | "tustin" => Self::BILINEAR,
            "backward" | "backward_diff" => Self::BACKWARD_EULER,
            "zoh" => Self::ZeroOrderHold,
            "mixed" | "mamba" => Self::Mixed,
            "trapezoidal" => Self::ExponentialTrapezoidal { lambda: 0.5 },
            _ => {
                return Err(StateSpaceError::Name {
                    what: "discretisation",
                    found: name.to_owned(),
                    known: "forward, bilinear, backward, zoh, mixed, trapezoidal",
                });
            }
        })
    }

    /// The rule in words, for messages.
    pub fn name(self) -> String {
        match self {
            Self::FORWARD_EULER => "the forward Euler rule".into(),
            Self::BILINEAR => "the bilinear rule".into(),
            Self::BACKWARD_EULER => "the backward Euler rule".into(),
            Self::GeneralisedBilinear { alpha } => format!("the generalised bilinear rule with α = {alpha}"),
            Self::ZeroOrderHold => "the zero-order hold".into(),
            Self::Mixed => "the mixed rule".into(),
            Self::ExponentialTrapezoidal { lambda } => {
                format!("the exponential-trapezoidal rule with λ = {lambda}")
            }
        }
    }

    /// (1 − λ)Δ of the exponential-trapezoidal rule, and 0 of the others.
    pub fn shift(self, step: f64) -> f64 {
        match self {
            Self::ExponentialTrapezoidal { lambda } => (1.0 - lambda) * step,
            _ => 0.0,
        }
    }

    /// Refuses a step or a parameter that no rule is defined for.
    ///
    /// # Errors
    /// Δ that is not finite and positive; α or λ outside [0, 1].
    pub fn check(self, step: f64) -> Result<()> {
        require_positive("the step size Δ", || self.name(), step)?;
        let (what, share) = match self {
            Self::GeneralisedBilinear { alpha } => ("α", alpha),
            Self::ExponentialTrapezoidal { lambda } => ("λ", lambda),
            Self::ZeroOrderHold | Self::Mixed => return Ok(()),
        };
        if (0.0..=1.0).contains(&share) {
            return Ok(());
        }
        Err(StateSpaceError::Value {
            what,
            place: self.name(),
            expected: "a number from 0 to 1",
            found: share,
        })
    }

    /// The mode x′ = λx + u made discrete by this rule.
    ///
    /// | rule | ā | b̄ |
    /// |---|---|---|
    /// | generalised bilinear | (1 + (1 − α)Δλ)/(1 − αΔλ) | Δ/(1 − αΔλ) |
    /// | zero-order hold | e^{Δλ} | Δ φ₁(Δλ) |
    /// | mixed, exponential-trapezoidal | e^{Δλ} | Δ |
    ///
    /// # Errors
    /// As [`Discretisation::check`]. An unstable λ is no error here; it is one where a system is made discrete.
    pub fn mode(self, eigenvalue: Complex64, step: f64) -> Result<DiscreteMode> {
        self.check(step)?;
        let z = eigenvalue * step;
        let (transition, input) = match self {
            Self::GeneralisedBilinear { alpha } => {
                let denominator = 1.0 - alpha * z;
                ((1.0 + (1.0 - alpha) * z) / denominator, step / denominator)
            }
            Self::ZeroOrderHold => (z.exp(), step * phi1(z)),
            Self::Mixed | Self::ExponentialTrapezoidal { .. } => (z.exp(), Complex64::from(step)),
        };
        Ok(DiscreteMode {
            transition,
            input,
            shift: self.shift(step),
        })
    }
}
