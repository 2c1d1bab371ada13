//! Systems with any real matrix: the parameterisation that needs no structure, and costs N² a step.

use super::discretisation::Discretisation;
use super::error::{Result, StateSpaceError, require_finite, require_length, require_states};
use super::views::{DiscreteStateSpace, StateSpace, finite, require_times};
use nalgebra::{DMatrix, DVector};

/// x′ = A x + B u, y = C x + D u, with A real of N × N.
///
/// ```
/// use spillway_ssm_core::state_space::{Dense, DiscreteStateSpace, Discretisation, StateSpace};
///
/// // A spring: position and speed.
/// let spring = Dense::from_rows(&[0.0, 1.0, -4.0, -0.2], &[0.0, 1.0], &[1.0, 0.0], 0.0)?;
/// let discrete = spring.discretise(Discretisation::ZeroOrderHold, 0.1)?;
/// let input = [1.0, 0.5, -0.5, 0.0];
/// let mut state = discrete.zero_state();
/// let recurrent = discrete.respond(&mut state, &input)?;
/// let convolved = discrete.convolve(&discrete.zero_state(), &input)?;
/// let held = spring.respond_held(&[0.1, 0.2, 0.3, 0.4], &input, &[0.1, 0.2, 0.3, 0.4])?;
/// for k in 0..4 {
///     assert!((recurrent[k] - convolved[k]).abs() < 1e-14);
///     assert!((recurrent[k] - held[k]).abs() < 1e-14);
/// }
/// # Ok::<(), spillway_ssm_core::state_space::StateSpaceError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Dense {
    a: DMatrix<f64>,
    b: DVector<f64>,
    c: DVector<f64>,
    d: f64,
}

/// x_k = Ā x_{k−1} + B̄ u_k, y_k = C x_k + D̄ u_k, with Ā real of N × N.
#[derive(Clone, Debug, PartialEq)]
pub struct DiscreteDense {
    a: DMatrix<f64>,
    b: DVector<f64>,
    c: DVector<f64>,
    d: f64,
    shift: Vec<f64>,
}

impl Dense {
    /// A of N × N, B and C of N, D.
    ///
    /// # Errors
    /// N = 0; sizes that differ; a number that is not finite.
    pub fn new(a: DMatrix<f64>, b: DVector<f64>, c: DVector<f64>, d: f64) -> Result<Self> {
        require_states("a dense system", b.len())?;
        require_length("the columns of A", a.ncols(), a.nrows())?;
        require_length("B", b.len(), a.nrows())?;
        require_length("C", c.len(), a.nrows())?;
        require_finite("A", a.iter().copied())?;
        require_finite("B", b.iter().copied())?;
        require_finite("C", c.iter().copied())?;
        require_finite("D", [d])?;
        Ok(Self { a, b, c, d })
    }

    /// As [`Dense::new`], with A row by row in one slice.
    ///
    /// # Errors
    /// As [`Dense::new`].
    pub fn from_rows(a: &[f64], b: &[f64], c: &[f64], d: f64) -> Result<Self> {
        require_length("A", a.len(), b.len() * b.len())?;
        Self::new(
            DMatrix::from_row_slice(b.len(), b.len(), a),
            DVector::from_column_slice(b),
            DVector::from_column_slice(c),
            d,
        )
    }

    /// The state matrix A, N × N.
    pub fn a(&self) -> &DMatrix<f64> {
        &self.a
    }

    /// The input vector B, N numbers.
    pub fn b(&self) -> &DVector<f64> {
        &self.b
    }

    /// The output vector C, N numbers.
    pub fn c(&self) -> &DVector<f64> {
        &self.c
    }

    /// e^{tA} B: the state at time t ≥ 0 after an impulse at time 0. Under a HiPPO measure, the weight that each coefficient gives to a
    /// sample of age t.
    ///
    /// # Errors
    /// A time that is negative or not finite; a state that is not finite.
    pub fn state_after_impulse(&self, time: f64) -> Result<Vec<f64>> {
        require_times(&[time])?;
        let state = (&self.a * time).exp() * &self.b;
        state
            .iter()
            .map(|&x| finite("the state after an impulse", 0, x))
            .collect()
    }

    /// e^{tA}, and ∫₀ᵗ e^{sA} B ds = t φ₁(tA) B, from one exponential of the matrix A with B beside it, so that A may be singular.
    fn flow(&self, time: f64) -> (DMatrix<f64>, DVector<f64>) {
        let n = self.state_len();
        let mut joined = DMatrix::zeros(n + 1, n + 1);
        joined.view_mut((0, 0), (n, n)).copy_from(&(&self.a * time));
        joined.view_mut((0, n), (n, 1)).copy_from(&(&self.b * time));
        let exponential = joined.exp();
        (
            exponential.view((0, 0), (n, n)).into_owned(),
            exponential.view((0, n), (n, 1)).column(0).into_owned(),
        )
    }

    /// The rule (I − αΔA)⁻¹ on I + (1 − α)ΔA and on ΔB.
    fn bilinear(&self, alpha: f64, step: f64) -> Result<(DMatrix<f64>, DVector<f64>)> {
        let identity = DMatrix::identity(self.state_len(), self.state_len());
        let solver = (&identity - &self.a * (alpha * step)).lu();
        let singular = || StateSpaceError::Singular {
            what: "I − αΔA",
            place: format!("Δ = {step}"),
            instead: "choose another step size, or the zero-order hold",
        };
        let a = solver
            .solve(&(identity + &self.a * ((1.0 - alpha) * step)))
            .ok_or_else(singular)?;
        let b = solver.solve(&(&self.b * step)).ok_or_else(singular)?;
        Ok((a, b))
    }
}

impl StateSpace for Dense {
    type Scalar = f64;
    type Discrete = DiscreteDense;

    fn state_len(&self) -> usize {
        self.b.len()
    }

    fn skip(&self) -> f64 {
        self.d
    }

    fn impulse_response(&self, times: &[f64]) -> Result<Vec<f64>> {
        require_times(times)?;
        let at = |(i, &t): (usize, &f64)| {
            let state = self.state_after_impulse(t)?;
            finite("the impulse response", i, self.c.dot(&DVector::from_vec(state)))
        };
        times.iter().enumerate().map(at).collect()
    }

    fn step_response(&self, times: &[f64]) -> Result<Vec<f64>> {
        require_times(times)?;
        let at = |(i, &t): (usize, &f64)| finite("the step response", i, self.c.dot(&self.flow(t).1));
        times.iter().enumerate().map(at).collect()
    }

    /// A dense matrix is not searched for modes that grow: the eigenvalues of HiPPO matrices cannot be trusted. What grows past
    /// the range of f64 is an error where it does.
    fn discretise(&self, rule: Discretisation, step: f64) -> Result<DiscreteDense> {
        rule.check(step)?;
        let (a, b) = match rule {
            Discretisation::GeneralisedBilinear { alpha } => self.bilinear(alpha, step)?,
            Discretisation::ZeroOrderHold => self.flow(step),
            Discretisation::Mixed | Discretisation::ExponentialTrapezoidal { .. } => {
                ((&self.a * step).exp(), &self.b * step)
            }
        };
        require_finite("Ā", a.iter().copied())?;
        require_finite("B̄", b.iter().copied())?;
        let by = rule.shift(step);
        let shift = if by == 0.0 {
            Vec::new()
        } else {
            self.b.iter().map(|b| b * by).collect()
        };
        Ok(DiscreteDense {
            a,
            b,
            c: self.c.clone(),
            d: self.d - by * self.c.dot(&self.b),
            shift,
        })
    }
}

impl DiscreteDense {
    /// The discrete state matrix Ā, N × N.
    pub fn a(&self) -> &DMatrix<f64> {
        &self.a
    }

    /// The discrete input vector B̄, N numbers.
    pub fn b(&self) -> &DVector<f64> {
        &self.b
    }

    /// The output vector C, N numbers.
    pub fn c(&self) -> &DVector<f64> {
        &self.c
    }

    /// Ā^`exponent`, N × N, by repeated squaring.
    pub fn transition_power(&self, exponent: usize) -> DMatrix<f64> {
        let mut power = DMatrix::identity(self.b.len(), self.b.len());
        let (mut square, mut left) = (self.a.clone(), exponent);
        while left > 0 {
            if left % 2 == 1 {
                power = &power * &square;
            }
            left /= 2;
            if left > 0 {
                square = &square * &square;
            }
        }
        power
    }
}

impl DiscreteStateSpace for DiscreteDense {
    type Scalar = f64;

    fn state_len(&self) -> usize {
        self.b.len()
    }

    fn skip(&self) -> f64 {
        self.d
    }

    fn shift(&self) -> &[f64] {
        &self.shift
    }

    fn advance(&self, state: &mut [f64], input: f64) {
        let next = &self.a * DVector::from_column_slice(state) + &self.b * input;
        state.copy_from_slice(next.as_slice());
    }

    fn read(&self, state: &[f64]) -> f64 {
        self.c.iter().zip(state).map(|(c, x)| c * x).sum()
    }

    /// Through the rows C Ā^l, while the recurrence goes through the columns Ā^l B̄.
    fn kernel(&self, length: usize) -> Result<Vec<f64>> {
        let transposed = self.a.transpose();
        let mut row = self.c.clone();
        let mut kernel = Vec::with_capacity(length);
        for l in 0..length {
            kernel.push(finite("the kernel", l, row.dot(&self.b))?);
            row = &transposed * row;
        }
        Ok(kernel)
    }
}
