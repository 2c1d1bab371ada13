//! What every system answers, whatever its parameterisation.

use super::discretisation::Discretisation;
use super::error::{Result, StateSpaceError, require_finite, require_length, require_positive};
use nalgebra::ComplexField;

/// What a response reads where a sample is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gap {
    /// No input: the state decays through the gap.
    #[default]
    Silence,
    /// The last sample that was there goes on; silence before the first.
    HoldLast,
}

/// What a recurrence at irregular samples carries from one to the next.
#[derive(Clone, Debug, PartialEq)]
pub struct SampledState<T> {
    /// The state x at the last sample.
    pub state: Vec<T>,
    /// The last input that the system read, for rules that look back at it and for [`Gap::HoldLast`].
    pub last_input: f64,
}

/// A continuous system x′ = A x + B u, y = C x + D u with one input and one output.
pub trait StateSpace: Sized {
    /// The numbers of a state: f64 where it is dense, complex where it is diagonalised.
    type Scalar: ComplexField<RealField = f64> + Copy;
    /// The system as a recurrence over samples.
    type Discrete: DiscreteStateSpace<Scalar = Self::Scalar>;

    /// How many numbers a state has.
    fn state_len(&self) -> usize;

    /// D of y = C x + D u.
    fn skip(&self) -> f64;

    /// K(t) = C e^{tA} B at times t ≥ 0; the jump D δ(t) is not in it.
    ///
    /// # Errors
    /// A time that is negative or not finite; a response that is not finite.
    fn impulse_response(&self, times: &[f64]) -> Result<Vec<f64>>;

    /// S(t) = ∫₀ᵗ K(s) ds, the answer to an input that is 0 before time 0 and 1 after it, without D.
    ///
    /// # Errors
    /// As [`StateSpace::impulse_response`].
    fn step_response(&self, times: &[f64]) -> Result<Vec<f64>>;

    /// The recurrence for samples that are Δ apart.
    ///
    /// # Errors
    /// Δ that is not finite and positive; a rule that the parameterisation does not have; a mode that grows.
    fn discretise(&self, rule: Discretisation, step: f64) -> Result<Self::Discrete>;

    /// The state 0, before the first sample.
    fn sampled_zero(&self) -> SampledState<Self::Scalar> {
        SampledState {
            state: vec![nalgebra::zero(); self.state_len()],
            last_input: 0.0,
        }
    }

    /// The continuous view of a sampled signal: y at any times, where u is `input[k]` in (`ends[k − 1]`, `ends[k]`], starts at
    /// time 0 and is 0 after the last end.
    ///
    /// ```text
    /// y(t) = Σ_k u_k (S(t − t_{k−1}) − S(t − t_k)) + D u(t)
    /// ```
    ///
    /// This is the convolution integral itself, with no recurrence in it; at the ends it is what the zero-order hold gives.
    /// It costs an evaluation of S for every pair of a sample and a time.
    ///
    /// # Errors
    /// `ends` that do not rise from 0; lengths that differ; numbers that are not finite.
    fn respond_held(&self, ends: &[f64], input: &[f64], at: &[f64]) -> Result<Vec<f64>> {
        require_length("the input", input.len(), ends.len())?;
        require_finite("the input", input.iter().copied())?;
        require_finite("the times", at.iter().copied())?;
        let mut start = 0.0;
        for (k, &end) in ends.iter().enumerate() {
            require_positive("the length of an interval", || format!("sample {k}"), end - start)?;
            start = end;
        }
        let mut output = Vec::with_capacity(at.len());
        for &time in at {
            // S(t − t_k) for the start of the signal and for every end before t; later ones are 0.
            let begun = ends.partition_point(|&end| end < time);
            let mut lags = vec![time.max(0.0)];
            lags.extend(ends[..begun].iter().map(|end| time - end));
            let mut steps = self.step_response(&lags)?;
            steps.push(0.0);
            let past: f64 = (0..=begun)
                .filter(|&k| k < ends.len() && time > 0.0)
                .map(|k| input[k] * (steps[k] - steps[k + 1]))
                .sum();
            let present = if time > 0.0 {
                input.get(begun).copied()
            } else {
                None
            };
            output.push(past + self.skip() * present.unwrap_or(0.0));
        }
        require_finite("the output", output.iter().copied())?;
        Ok(output)
    }

    /// The recurrent view with a step of its own for every sample: irregular sampling, and samples that are missing (`None`).
    ///
    /// The state goes in and out, so that a signal may come in pieces of any length. After an error it is of no use.
    ///
    /// # Errors
    /// As [`StateSpace::discretise`]; lengths that differ; a state of another length; samples that are not finite.
    fn respond_sampled(
        &self,
        rule: Discretisation,
        steps: &[f64],
        samples: &[Option<f64>],
        gap: Gap,
        carried: &mut SampledState<Self::Scalar>,
    ) -> Result<Vec<f64>> {
        require_length("the samples", samples.len(), steps.len())?;
        require_length("the state", carried.state.len(), self.state_len())?;
        require_finite("the samples", samples.iter().flatten().copied())?;
        let mut output = Vec::with_capacity(samples.len());
        let mut current: Option<(f64, Self::Discrete)> = None;
        for (k, (&step, &sample)) in steps.iter().zip(samples).enumerate() {
            require_positive("the step size Δ", || format!("sample {k}"), step)?;
            let discrete = match current.take() {
                Some((known, discrete)) if known == step => discrete,
                _ => self.discretise(rule, step)?,
            };
            let input = match (sample, gap) {
                (Some(value), _) => value,
                (None, Gap::Silence) => 0.0,
                (None, Gap::HoldLast) => carried.last_input,
            };
            output.push(discrete.step_unshifted(&mut carried.state, carried.last_input, input, k)?);
            carried.last_input = input;
            current = Some((step, discrete));
        }
        Ok(output)
    }
}

/// A recurrence x_k = Ā x_{k−1} + B̄ u_k, y_k = C x_k + D̄ u_k.
pub trait DiscreteStateSpace {
    /// The numbers of a state.
    type Scalar: ComplexField<RealField = f64> + Copy;

    /// How many numbers a state has.
    fn state_len(&self) -> usize;

    /// D̄: what an input adds to the output of its own step beside C B̄.
    fn skip(&self) -> f64;

    /// (1 − λ)ΔB under the exponential-trapezoidal rule, whose recurrence runs on z = x + shift · u; empty for the others.
    fn shift(&self) -> &[Self::Scalar];

    /// x ← Ā x + B̄ u.
    fn advance(&self, state: &mut [Self::Scalar], input: f64);

    /// C x, the output of a state x without that of the input.
    fn read(&self, state: &[Self::Scalar]) -> f64;

    /// The convolutional view: K̄_l = C Ā^l B̄ for l from 0 to `length` − 1, without D̄. Any length.
    ///
    /// # Errors
    /// A tap that is not finite.
    fn kernel(&self, length: usize) -> Result<Vec<f64>>;

    /// The state x = 0, before any input.
    fn zero_state(&self) -> Vec<Self::Scalar> {
        vec![nalgebra::zero(); self.state_len()]
    }

    /// What a state adds to the outputs that follow: C Ā^{l+1} x.
    ///
    /// # Errors
    /// A state of another length; a number that is not finite.
    fn state_kernel(&self, state: &[Self::Scalar], length: usize) -> Result<Vec<f64>> {
        require_length("the state", state.len(), self.state_len())?;
        let mut state = state.to_vec();
        (0..length)
            .map(|l| {
                self.advance(&mut state, 0.0);
                finite("the response to a state", l, self.read(&state))
            })
            .collect()
    }

    /// The recurrent view: outputs of any number of inputs from any state, which is left as it is after the last of them
    /// (and of no use after an error).
    ///
    /// # Errors
    /// A state of another length; an input or an output that is not finite.
    fn respond(&self, state: &mut [Self::Scalar], input: &[f64]) -> Result<Vec<f64>> {
        require_length("the state", state.len(), self.state_len())?;
        require_finite("the input", input.iter().copied())?;
        let step = |(k, &u): (usize, &f64)| {
            self.advance(state, u);
            finite("the output", k, self.read(state) + self.skip() * u)
        };
        input.iter().enumerate().map(step).collect()
    }

    /// The states x_k after each input, one after the other.
    ///
    /// # Errors
    /// As [`DiscreteStateSpace::respond`].
    fn states(&self, state: &mut [Self::Scalar], input: &[f64]) -> Result<Vec<Vec<Self::Scalar>>> {
        require_length("the state", state.len(), self.state_len())?;
        require_finite("the input", input.iter().copied())?;
        let mut all = Vec::with_capacity(input.len());
        for (k, &u) in input.iter().enumerate() {
            self.advance(state, u);
            if !state.iter().all(|x| x.is_finite()) {
                return Err(StateSpaceError::Overflow {
                    what: "the state",
                    step: k,
                });
            }
            all.push(state.to_vec());
        }
        Ok(all)
    }

    /// The convolutional view of an input after a state: Σ_l K̄_l u_{k−l} + C Ā^{k+1} x + D̄ u_k, as a plain double sum.
    ///
    /// # Errors
    /// As [`DiscreteStateSpace::respond`].
    fn convolve(&self, state: &[Self::Scalar], input: &[f64]) -> Result<Vec<f64>> {
        require_finite("the input", input.iter().copied())?;
        let kernel = self.kernel(input.len())?;
        let mut output = self.state_kernel(state, input.len())?;
        for (k, y) in output.iter_mut().enumerate() {
            let sum: f64 = (0..=k).map(|l| kernel[l] * input[k - l]).sum();
            *y = finite("the output", k, *y + sum + self.skip() * input[k])?;
        }
        Ok(output)
    }

    /// One step on the state x where the recurrence runs on z = x + shift · u: for steps of different Δ, between which x is what
    /// stays the same.
    ///
    /// # Errors
    /// An output that is not finite.
    fn step_unshifted(
        &self,
        state: &mut [Self::Scalar],
        last_input: f64,
        input: f64,
        place: usize,
    ) -> Result<f64> {
        for (x, &shift) in state.iter_mut().zip(self.shift()) {
            *x += shift.scale(last_input);
        }
        self.advance(state, input);
        let output = self.read(state) + self.skip() * input;
        for (x, &shift) in state.iter_mut().zip(self.shift()) {
            *x -= shift.scale(input);
        }
        finite("the output", place, output)
    }
}

/// Steps and values of the samples that are there: the time of a gap goes to the sample after it, so that a hold bridges it.
///
/// The third number is the time after the last sample that is there.
///
/// # Errors
/// Lengths that differ; a step that is not finite and positive; a sample that is not finite.
pub fn bridge_gaps(steps: &[f64], samples: &[Option<f64>]) -> Result<(Vec<f64>, Vec<f64>, f64)> {
    require_length("the samples", samples.len(), steps.len())?;
    require_finite("the samples", samples.iter().flatten().copied())?;
    let (mut long, mut values, mut waited) = (Vec::new(), Vec::new(), 0.0);
    for (k, (&step, sample)) in steps.iter().zip(samples).enumerate() {
        require_positive("the step size Δ", || format!("sample {k}"), step)?;
        waited += step;
        if let Some(value) = sample {
            long.push(std::mem::take(&mut waited));
            values.push(*value);
        }
    }
    Ok((long, values, waited))
}

/// The number, if it is one.
pub(crate) fn finite(what: &'static str, step: usize, value: f64) -> Result<f64> {
    if value.is_finite() {
        Ok(value)
    } else {
        Err(StateSpaceError::Overflow { what, step })
    }
}

/// Refuses times before 0.
pub(crate) fn require_times(times: &[f64]) -> Result<()> {
    for (i, &found) in times.iter().enumerate() {
        if !(found.is_finite() && found >= 0.0) {
            return Err(StateSpaceError::Value {
                what: "the time",
                place: format!("index {i}"),
                expected: "a finite number that is not negative",
                found,
            });
        }
    }
    Ok(())
}
