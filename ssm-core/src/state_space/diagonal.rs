//! Systems with a diagonal matrix, as S4D, DSS and S5 have them: O(N) a step, and kernels in closed form.

use super::discretisation::Discretisation;
use super::error::{Result, StateSpaceError, require_finite, require_length, require_states};
use super::phi::phi1;
use super::sampling_rate::band_limit;
use super::views::{DiscreteStateSpace, StateSpace, finite, require_times};
use num_complex::Complex64;

/// How far above 1 rounding may carry |ā| of a mode that does not decay.
const ROUNDING: f64 = 1e-12;

/// Which modes of a system its lists hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Modes {
    /// One of each conjugate pair: outputs are 2 Re Σ, as in S4, S4D, S5 and H3. Published code keeps the factor 2 for systems
    /// whose modes are real, too.
    #[default]
    ConjugatePairs,
    /// Every mode, in pairs or not: outputs are Re Σ, as in DSS, GSS and BiGS.
    All,
}

impl Modes {
    /// The real output of a sum over the modes.
    pub fn output(self, sum: Complex64) -> f64 {
        match self {
            Self::ConjugatePairs => 2.0 * sum.re,
            Self::All => sum.re,
        }
    }
}

/// x′_n = λ_n x_n + B_n u, y = 2 Re Σ C_n x_n + D u (without the 2 for [`Modes::All`]).
///
/// ```
/// use spillway_ssm_core::state_space::{Complex64, Diagonal, DiscreteStateSpace, Discretisation, Modes, StateSpace};
///
/// // One pair: K(t) = 2 e^{−t/2} cos 3t.
/// let one = vec![Complex64::new(1.0, 0.0)];
/// let system = Diagonal::new(vec![Complex64::new(-0.5, 3.0)], one.clone(), one, 0.0, Modes::ConjugatePairs)?;
/// let response = system.impulse_response(&[0.0, 1.0])?;
/// assert!((response[1] - 2.0 * (-0.5_f64).exp() * 3.0_f64.cos()).abs() < 1e-15);
/// let kernel = system.discretise(Discretisation::ZeroOrderHold, 0.01)?.kernel(100)?;
/// assert_eq!(kernel.len(), 100);
/// # Ok::<(), spillway_ssm_core::state_space::StateSpaceError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Diagonal {
    eigenvalues: Vec<Complex64>,
    input: Vec<Complex64>,
    output: Vec<Complex64>,
    skip: f64,
    modes: Modes,
}

/// x_n ← ā_n x_n + b̄_n u, y = 2 Re Σ C_n x_n + D̄ u (without the 2 for [`Modes::All`]).
#[derive(Clone, Debug, PartialEq)]
pub struct DiscreteDiagonal {
    transition: Vec<Complex64>,
    input: Vec<Complex64>,
    output: Vec<Complex64>,
    skip: f64,
    modes: Modes,
    shift: Vec<Complex64>,
}

impl Diagonal {
    /// λ, B and C of every mode, and D.
    ///
    /// # Errors
    /// No mode; lengths that differ; a number that is not finite.
    pub fn new(
        eigenvalues: Vec<Complex64>,
        input: Vec<Complex64>,
        output: Vec<Complex64>,
        skip: f64,
        modes: Modes,
    ) -> Result<Self> {
        require_states("a diagonal system", eigenvalues.len())?;
        require_length("B", input.len(), eigenvalues.len())?;
        require_length("C", output.len(), eigenvalues.len())?;
        require_complex("the eigenvalues", &eigenvalues)?;
        require_complex("B", &input)?;
        require_complex("C", &output)?;
        require_finite("D", [skip])?;
        Ok(Self {
            eigenvalues,
            input,
            output,
            skip,
            modes,
        })
    }

    /// λ of every mode.
    pub fn eigenvalues(&self) -> &[Complex64] {
        &self.eigenvalues
    }

    /// B of every mode.
    pub fn input(&self) -> &[Complex64] {
        &self.input
    }

    /// C of every mode.
    pub fn output(&self) -> &[Complex64] {
        &self.output
    }

    /// Which modes the system's lists hold.
    pub fn modes(&self) -> Modes {
        self.modes
    }

    /// The system with C = 0 for the modes that [`band_limit`] does not keep.
    ///
    /// # Errors
    /// As [`band_limit`].
    pub fn band_limited(mut self, training_step: f64, limit: f64) -> Result<Self> {
        let kept = band_limit(&self.eigenvalues, training_step, limit)?;
        for (output, kept) in self.output.iter_mut().zip(kept) {
            if !kept {
                *output = Complex64::ZERO;
            }
        }
        Ok(self)
    }

    /// The recurrence where every mode has a step of its own (untied steps).
    ///
    /// # Errors
    /// As [`StateSpace::discretise`], and a number of steps that is not that of the modes.
    pub fn discretise_untied(&self, rule: Discretisation, steps: &[f64]) -> Result<DiscreteDiagonal> {
        require_length("the step sizes", steps.len(), self.eigenvalues.len())?;
        let (mut transition, mut input, mut shift) = (Vec::new(), Vec::new(), Vec::new());
        for (n, ((&eigenvalue, &b), &step)) in self.eigenvalues.iter().zip(&self.input).zip(steps).enumerate()
        {
            let mode = rule.mode(eigenvalue, step)?;
            let magnitude = mode.transition.norm();
            if magnitude.is_nan() || magnitude > 1.0 + ROUNDING {
                return Err(StateSpaceError::Unstable {
                    mode: n,
                    rule: rule.name(),
                    step,
                    magnitude,
                });
            }
            transition.push(mode.transition);
            input.push(mode.input * b);
            if mode.shift != 0.0 {
                shift.push(b * mode.shift);
            }
        }
        let output = self.output.clone();
        let correction = self.modes.output(dot(&output, &shift));
        Ok(DiscreteDiagonal {
            transition,
            input,
            output,
            skip: self.skip - correction,
            modes: self.modes,
            shift,
        })
    }

    /// Σ over the modes of C_n B_n f(λ_n), at every time.
    fn respond_by(
        &self,
        what: &'static str,
        times: &[f64],
        factor: impl Fn(Complex64, f64) -> Complex64,
    ) -> Result<Vec<f64>> {
        require_times(times)?;
        let at = |(i, &t): (usize, &f64)| {
            let modes = self.eigenvalues.iter().zip(&self.input).zip(&self.output);
            let sum = modes.map(|((&z, b), c)| c * b * factor(z, t)).sum();
            finite(what, i, self.modes.output(sum))
        };
        times.iter().enumerate().map(at).collect()
    }
}

impl StateSpace for Diagonal {
    type Scalar = Complex64;
    type Discrete = DiscreteDiagonal;

    fn state_len(&self) -> usize {
        self.eigenvalues.len()
    }

    fn skip(&self) -> f64 {
        self.skip
    }

    fn impulse_response(&self, times: &[f64]) -> Result<Vec<f64>> {
        self.respond_by("the impulse response", times, |z, t| (z * t).exp())
    }

    fn step_response(&self, times: &[f64]) -> Result<Vec<f64>> {
        self.respond_by("the step response", times, |z, t| t * phi1(z * t))
    }

    fn discretise(&self, rule: Discretisation, step: f64) -> Result<DiscreteDiagonal> {
        rule.check(step)?;
        self.discretise_untied(rule, &vec![step; self.eigenvalues.len()])
    }
}

impl DiscreteDiagonal {
    /// ā of every mode.
    pub fn transition(&self) -> &[Complex64] {
        &self.transition
    }

    /// b̄ of every mode, B included.
    pub fn input(&self) -> &[Complex64] {
        &self.input
    }

    /// C of every mode.
    pub fn output(&self) -> &[Complex64] {
        &self.output
    }
}

impl DiscreteStateSpace for DiscreteDiagonal {
    type Scalar = Complex64;

    fn state_len(&self) -> usize {
        self.transition.len()
    }

    fn skip(&self) -> f64 {
        self.skip
    }

    fn shift(&self) -> &[Complex64] {
        &self.shift
    }

    fn advance(&self, state: &mut [Complex64], input: f64) {
        for ((x, a), b) in state.iter_mut().zip(&self.transition).zip(&self.input) {
            *x = a * *x + b * input;
        }
    }

    fn read(&self, state: &[Complex64]) -> f64 {
        self.modes.output(dot(&self.output, state))
    }

    /// The Vandermonde sum K̄_l = 2 Re Σ C_n b̄_n ā_n^l, each power on its own.
    fn kernel(&self, length: usize) -> Result<Vec<f64>> {
        let weights: Vec<Complex64> = self.output.iter().zip(&self.input).map(|(c, b)| c * b).collect();
        (0..length)
            .map(|l| {
                let powers = self.transition.iter().map(|a| a.powu(l as u32));
                let sum = weights.iter().zip(powers).map(|(w, p)| w * p).sum();
                finite("the kernel", l, self.modes.output(sum))
            })
            .collect()
    }
}

/// Σ a_n b_n, without conjugation.
pub(crate) fn dot(a: &[Complex64], b: &[Complex64]) -> Complex64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Refuses the first complex number that is not finite.
pub(crate) fn require_complex(what: &'static str, values: &[Complex64]) -> Result<()> {
    for (i, z) in values.iter().enumerate() {
        if !z.is_finite() {
            return Err(StateSpaceError::Value {
                what,
                place: format!("mode {i}"),
                expected: "a finite number",
                found: if z.re.is_finite() { z.im } else { z.re },
            });
        }
    }
    Ok(())
}
