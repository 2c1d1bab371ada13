//! The time-varying LegS system, c′ = (A c + B u)/t: all of the past [0, t] under one weight, whatever its length.
//!
//! Sample k divides A and B by k, and with τ = ln((k + 1)/k) in place of 1/k the zero-order hold is exact. No step size is needed: a
//! signal that is read at another rate has the same coefficients. Rows of A are r_n times a running sum, so that
//!
//! ```text
//! (A c)_n = −r_n Σ_{k<n} r_k c_k − (n + 1) c_n
//! (I − γA) x = y:   x_n = (y_n − γ r_n Σ_{k<n} r_k x_k)/(1 + γ(n + 1))
//! ```
//!
//! cost O(N), and so does a step of every bilinear rule. The hold solves c′ = A c + B u over τ, by the series
//!
//! ```text
//! c⁺ = c + Σ_{j≥1} w_j        w_1 = τ(A c + B u),  w_{j+1} = τ A w_j/(j + 1)
//! ```
//!
//! in ⌈τ‖A‖⌉ parts, so that no term is larger than the one before: about twenty products for a part, each O(N). ‖A‖ is about N²/√2, and
//! parts are few once about 8 N samples have been read. Before, the hold is what it means: it stretches the past and puts the held sample
//! at its end, with q = (k + 1)/k and φ_n(s) = r_n P_n(2s − 1),
//!
//! ```text
//! c⁺_n = 1/q Σ_j w_j φ_n(v_j/q) Σ_m φ_m(v_j) c_m + u ∫_{1/q}^1 φ_n(s) ds
//! ```
//!
//! over the N nodes of Gauss's quadrature on [0, 1], which is exact for these degrees and costs O(N²). Every step takes the cheaper of
//! the two, so that L samples cost O(N L + N³ log N).
//!
//! The forward Euler rule grows by Π (1 − N/k) while k < N, and leaves the range of f64 for N of about 32. Errors fall as
//! t ℓ/√N for signals with Lipschitz constant ℓ. Source: 2008.07669, appendices D and E.

use super::super::discretisation::Discretisation;
use super::super::error::{Result, StateSpaceError, require_finite, require_length, require_states};
use super::basis::{legendre, scaled_legendre};
use super::measure::root;
use super::orthonormal::OrthonormalPolynomials;

/// What the first sample does, and what later ones are divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LegsStart {
    /// The first sample is the constant that it is, c = (u₀, 0, …); sample t ≥ 1, counted from 0, has k = t.
    #[default]
    FirstSample,
    /// The first sample steps from c = 0; sample t has k = t + 1.
    Zero,
}

/// The LegS memory under one rule.
///
/// ```
/// use spillway_ssm_core::state_space::Discretisation;
/// use spillway_ssm_core::state_space::hippo::{LegsScan, basis::reconstruct_scaled};
///
/// let scan = LegsScan::new(4, Discretisation::ZeroOrderHold)?;
/// let mut memory = scan.begin();
/// let line: Vec<f64> = (1..=1000).map(|k| f64::from(k) / 1000.0).collect();
/// scan.read(&mut memory, &line)?;
/// let remembered = reconstruct_scaled(&memory.coefficients, &[0.25, 0.75])?;
/// assert!((remembered[0] - 0.25).abs() < 1e-3 && (remembered[1] - 0.75).abs() < 1e-3);
/// # Ok::<(), spillway_ssm_core::state_space::StateSpaceError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LegsScan {
    order: usize,
    rule: Discretisation,
    start: LegsStart,
    limit: u64,
    /// Nodes v_j and weights w_j of the hold on [0, 1], with φ_m(v_j).
    nodes: Vec<(f64, f64, Vec<f64>)>,
    /// ‖A‖, as the root of the sum of all squares.
    size: f64,
}

/// What a [`LegsScan`] carries from sample to sample.
#[derive(Clone, Debug, PartialEq)]
pub struct LegsMemory {
    /// c, the N coefficients of all samples so far.
    pub coefficients: Vec<f64>,
    /// How many samples the scan has read.
    pub samples: u64,
}

impl LegsScan {
    /// N coefficients under a generalised bilinear rule or the zero-order hold.
    ///
    /// # Errors
    /// N = 0; another rule; α outside [0, 1].
    pub fn new(order: usize, rule: Discretisation) -> Result<Self> {
        rule.check(1.0)?;
        require_states("the time-varying LegS system", order)?;
        let nodes = match rule {
            Discretisation::GeneralisedBilinear { .. } => Vec::new(),
            Discretisation::ZeroOrderHold => OrthonormalPolynomials::legendre(order, 1.0)?
                .quadrature()
                .into_iter()
                .map(|(v, w)| (v, w, scaled_legendre(order, 2.0 * v - 1.0)))
                .collect(),
            _ => {
                return Err(StateSpaceError::Rule {
                    rule: rule.name(),
                    system: "the time-varying LegS system",
                    instead: "use a bilinear rule or the zero-order hold",
                });
            }
        };
        Ok(Self {
            order,
            rule,
            start: LegsStart::default(),
            limit: u64::MAX,
            nodes,
            size: size(order),
        })
    }

    /// With another rule for the first sample.
    #[must_use]
    pub fn with_start(mut self, start: LegsStart) -> Self {
        self.start = start;
        self
    }

    /// With k held at `limit`: older samples are forgotten from there on.
    ///
    /// # Errors
    /// A limit of 0.
    pub fn with_limit(mut self, limit: u64) -> Result<Self> {
        if limit == 0 {
            return Err(StateSpaceError::Value {
                what: "the limit of k",
                place: "the time-varying LegS system".into(),
                expected: "at least 1",
                found: 0.0,
            });
        }
        self.limit = limit;
        Ok(self)
    }

    /// The memory of nothing.
    pub fn begin(&self) -> LegsMemory {
        LegsMemory {
            coefficients: vec![0.0; self.order],
            samples: 0,
        }
    }

    /// Reads samples into the memory, and gives the coefficients after each of them.
    ///
    /// # Errors
    /// Coefficients of another length; a sample or a coefficient that is not finite.
    pub fn read(&self, memory: &mut LegsMemory, input: &[f64]) -> Result<Vec<Vec<f64>>> {
        require_length("the coefficients", memory.coefficients.len(), self.order)?;
        require_finite("the input", input.iter().copied())?;
        let mut all = Vec::with_capacity(input.len());
        for (i, &u) in input.iter().enumerate() {
            self.step(memory, u);
            if !memory.coefficients.iter().all(|c| c.is_finite()) {
                return Err(StateSpaceError::Overflow {
                    what: "the LegS memory",
                    step: i,
                });
            }
            all.push(memory.coefficients.clone());
        }
        Ok(all)
    }

    fn step(&self, memory: &mut LegsMemory, input: f64) {
        let time = memory.samples;
        memory.samples += 1;
        let k = match self.start {
            LegsStart::FirstSample if time == 0 => {
                memory.coefficients.fill(0.0);
                memory.coefficients[0] = input;
                return;
            }
            LegsStart::FirstSample => time,
            LegsStart::Zero => time + 1,
        };
        let k = k.min(self.limit) as f64;
        if let Discretisation::GeneralisedBilinear { alpha } = self.rule {
            bilinear_step(&mut memory.coefficients, input, alpha, 1.0 / k);
            return;
        }
        let time = (1.0 / k).ln_1p();
        let parts = (time * self.size).ceil().max(1.0);
        // A part is about twenty products of 6N operations, the quadrature 9N² of them.
        match parts * 12.0 <= self.order as f64 {
            true => held_by_series(&mut memory.coefficients, input, time, parts as usize),
            false => {
                memory.coefficients = self.held_by_quadrature(&memory.coefficients, input, (k + 1.0) / k)
            }
        }
    }

    /// The hold: the past stretched by q, and u from 1/q on.
    fn held_by_quadrature(&self, coefficients: &[f64], input: f64, stretch: f64) -> Vec<f64> {
        let x = 2.0 / stretch - 1.0;
        let ends = legendre(self.order + 1, x);
        // ∫ P_n = (P_{n+1} − P_{n−1})/(2n + 1), with P_{−1} = 1; at the upper end the two are equal.
        let held = |n: usize| {
            let before = if n == 0 { 1.0 } else { ends[n - 1] };
            (before - ends[n + 1]) / (2.0 * root(n))
        };
        let mut next: Vec<f64> = (0..self.order).map(|n| input * held(n)).collect();
        for (v, w, values) in &self.nodes {
            let past: f64 = values.iter().zip(coefficients).map(|(p, c)| p * c).sum();
            let stretched = scaled_legendre(self.order, 2.0 * v / stretch - 1.0);
            for (c, p) in next.iter_mut().zip(stretched) {
                *c += w / stretch * past * p;
            }
        }
        next
    }
}

/// The hold as a series, over `time` in equal parts.
fn held_by_series(c: &mut [f64], input: f64, time: f64, parts: usize) {
    let tau = time / parts as f64;
    let mut term = vec![0.0; c.len()];
    for _ in 0..parts {
        term.copy_from_slice(c);
        multiply(&mut term, tau);
        for (n, w) in term.iter_mut().enumerate() {
            *w += tau * root(n) * input;
        }
        // Terms fall at least as 1/j!.
        for j in 2..=30 {
            for (c, w) in c.iter_mut().zip(&term) {
                *c += w;
            }
            let largest = |values: &[f64]| values.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
            if largest(&term) <= f64::EPSILON / 8.0 * largest(c) {
                break;
            }
            multiply(&mut term, tau / f64::from(j));
        }
    }
}

/// w ← γ A w with A of LegS, in one pass.
fn multiply(w: &mut [f64], gamma: f64) {
    let mut sum = 0.0;
    for (n, value) in w.iter_mut().enumerate() {
        let r = root(n);
        let product = -(r * sum + (n + 1) as f64 * *value);
        sum += r * *value;
        *value = gamma * product;
    }
}

/// The root of the sum of the squares of A: a row has (n + 1)² and (2n + 1) Σ_{k<n} (2k + 1) = (2n + 1) n².
fn size(order: usize) -> f64 {
    let rows = (0..order).map(|n| n as f64);
    let squares = rows.map(|n| (n + 1.0) * (n + 1.0) + (2.0 * n + 1.0) * n * n);
    squares.sum::<f64>().sqrt()
}

/// c ← (I − αγA)⁻¹ ((I + (1 − α)γA) c + γB u) with A and B of LegS, in one pass.
fn bilinear_step(c: &mut [f64], input: f64, alpha: f64, gamma: f64) {
    let forward = (1.0 - alpha) * gamma;
    let backward = alpha * gamma;
    // Σ r_k c_k and Σ r_k x_k over k < n.
    let (mut old, mut new) = (0.0, 0.0);
    for (n, value) in c.iter_mut().enumerate() {
        let r = root(n);
        let own = (n + 1) as f64;
        let right = *value - forward * (r * old + own * *value) + gamma * r * input;
        old += r * *value;
        *value = (right - backward * r * new) / (1.0 + backward * own);
        new += r * *value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hold_is_the_same_by_series_and_by_quadrature() {
        for (order, k) in [
            (1, 3.0),
            (4, 1.0),
            (16, 5.0),
            (64, 40.0),
            (64, 500.0),
            (128, 5e3),
            (128, 1e6),
        ] {
            let scan = LegsScan::new(order, Discretisation::ZeroOrderHold).expect("a rule of LegS");
            let before: Vec<f64> = (0..order)
                .map(|n| (1.7 * n as f64).sin() / (1.0 + n as f64))
                .collect();
            let by_quadrature = scan.held_by_quadrature(&before, 0.3, (k + 1.0) / k);
            let mut by_series = before;
            let time = (1.0 / k).ln_1p();
            let parts = (time * scan.size).ceil().max(1.0) as usize;
            held_by_series(&mut by_series, 0.3, time, parts);
            for (a, b) in by_series.iter().zip(&by_quadrature) {
                assert!((a - b).abs() < 1e-12, "N = {order}, k = {k}: {a} and {b}");
            }
        }
    }
}
