//! What a Vandermonde kernel is made of, and every way that can be wrong.

use thiserror::Error;

use super::Discretization;
use super::discretization::Mode;
use crate::complex::{self, Complex64, power};
use crate::operands::operator;
use crate::shape::{Role, ShapeError, all_fit};

/// Which modes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ModeSet {
    /// One of each conjugate pair; kernels are 2 Re Σ over the stored modes.
    ConjugatePairs,
    /// All modes; kernels are Re Σ over them.
    All,
}

/// What has a step Δ of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Steps {
    /// Every channel, for all its modes.
    PerChannel,
    /// Every mode of every channel.
    PerMode,
}

/// Sizes and choices of Vandermonde kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// H, the number of independent systems.
    pub channels: usize,
    /// N, stored modes of a channel.
    pub modes: usize,
    /// How many copies of A and B there are; channel h has copy h mod `copies`.
    pub copies: usize,
    /// Rows of C for each channel, each with a kernel of its own.
    pub readouts: usize,
    /// Initial states and signals; 0 where only the kernel is wanted.
    pub batch: usize,
    /// L, the number of positions.
    pub length: usize,
    /// How a mode becomes discrete.
    pub discretization: Discretization,
    /// Which modes are stored.
    pub mode_set: ModeSet,
    /// What has a step of its own.
    pub steps: Steps,
}

operator! {
    "Vandermonde kernel", Problem as problem;
    /// What Vandermonde kernels are made of. Complex numbers are two values, real and imaginary part.
    // Rows are gates: a device whose tokens are halves holds them in a type of their own, f32.
    inputs<R, V> {
        /// Δ > 0, `[channels]` or `[channels, modes]`.
        step: Values[problem.step_count()],
        /// λ, complex `[copies, modes]`.
        a: Values[2 * problem.copies * problem.modes],
        /// B, complex `[copies, modes]`.
        b: Values[2 * problem.copies * problem.modes],
        /// C, complex `[readouts, channels, modes]`.
        c: Values[2 * problem.readouts * problem.channels * problem.modes],
        /// Initial states, complex `[batch, channels, modes]`.
        state: Values[problem.state_len()],
        /// Inputs, `[batch · channels, length]`.
        signal: Gates[problem.batch * problem.channels, problem.length],
    }
    /// Kernels, responses to initial states, and the states after the signals.
    outputs<R, V> {
        /// K, `[readouts · channels, length]`.
        kernel: Gates[problem.readouts * problem.channels, problem.length],
        /// S, `[batch · readouts · channels, length]`.
        state_kernel: Gates[problem.batch * problem.readouts * problem.channels, problem.length],
        /// x_L, complex `[batch, channels, modes]`.
        next_state: Values[problem.state_len()],
    }
}

/// Why a Vandermonde kernel cannot be computed.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum VandermondeError {
    /// Sizes whose product no buffer can have.
    #[error("a Vandermonde kernel of these sizes fits no memory: {0:?}")]
    Size(Problem),
    /// Channels without a copy of A and B.
    #[error("{channels} channels need at least one copy of A and B, found none")]
    NoCopy {
        /// Number of channels, each of which needs a copy.
        channels: usize,
    },
    /// A form that depends on the length, asked for states.
    #[error("the softmax form depends on the length and has no states: it needs batch 0, found {batch}")]
    SoftmaxState {
        /// Number of states and signals asked for, `batch` of the problem.
        batch: usize,
    },
    /// A step that is not positive.
    #[error("step {index} must be positive and finite, found {step}")]
    Step {
        /// Index of the step in `[channels]` or `[channels, modes]`.
        index: usize,
        /// Step Δ that was given.
        step: f32,
    },
    /// A mode without a finite discrete form, such as Δλ = 2 under the bilinear rule.
    #[error("mode {mode} of channel {channel}, λ = {re} + {im}i, has no finite discrete form")]
    NotFinite {
        /// Index of the channel.
        channel: usize,
        /// Index of the mode in its channel.
        mode: usize,
        /// Real part of the rate λ.
        re: f64,
        /// Imaginary part of the rate λ.
        im: f64,
    },
    /// A mode that grows beyond what an f32 holds.
    #[error(
        "mode {mode} of channel {channel} is unstable: |ā| = {modulus} leaves f32 within {length} positions"
    )]
    Unstable {
        /// Index of the channel.
        channel: usize,
        /// Index of the mode in its channel.
        mode: usize,
        /// Magnitude |ā| of the discrete mode.
        modulus: f64,
        /// Number of positions, L.
        length: usize,
    },
    /// An operand has another shape than the problem says.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

impl Problem {
    pub(super) fn step_count(&self) -> usize {
        match self.steps {
            Steps::PerChannel => self.channels,
            Steps::PerMode => self.channels * self.modes,
        }
    }

    /// Values of all states.
    pub(super) fn state_len(&self) -> usize {
        2 * self.batch * self.channels * self.modes
    }

    /// Index of the step Δ that a mode of a channel has.
    pub(super) fn step_index(&self, channel: usize, mode: usize) -> usize {
        match self.steps {
            Steps::PerChannel => channel,
            Steps::PerMode => channel * self.modes + mode,
        }
    }

    /// Where a mode of a channel lies in A and in B.
    pub(super) fn copy_index(&self, channel: usize, mode: usize) -> usize {
        channel % self.copies * self.modes + mode
    }

    /// The factor of the real part.
    pub(super) fn factor(&self) -> f64 {
        match self.mode_set {
            ModeSet::ConjugatePairs => 2.0,
            ModeSet::All => 1.0,
        }
    }

    pub(super) fn validate(&self) -> Result<(), VandermondeError> {
        let Self {
            channels,
            modes,
            copies,
            readouts,
            batch,
            length,
            ..
        } = *self;
        let widest = modes.max(length);
        if !all_fit(&[
            channels.max(copies),
            readouts,
            batch,
            widest,
            2 * size_of::<f64>(),
        ]) {
            return Err(VandermondeError::Size(*self));
        }
        if channels > 0 && copies == 0 {
            return Err(VandermondeError::NoCopy { channels });
        }
        match self.discretization == Discretization::Softmax && batch > 0 {
            true => Err(VandermondeError::SoftmaxState { batch }),
            false => Ok(()),
        }
    }

    /// Whether a kernel of these steps Δ and rates λ can be computed: all that depends on values and not on shapes.
    ///
    /// # Errors
    /// As [`kernel`](super::kernel).
    pub fn check(&self, step: &[f32], a: &[f32]) -> Result<(), VandermondeError> {
        self.validate()?;
        OPERATOR.values("step", self.step_count(), step.len())?;
        OPERATOR.values("a", 2 * self.copies * self.modes, a.len())?;
        expect_steps(step)?;
        (0..self.channels).try_for_each(|channel| modes_of(self, step, a, channel).map(drop))
    }

    fn validate_inputs(&self, inputs: &Inputs) -> Result<(), VandermondeError> {
        self.validate()?;
        inputs.expect(&OPERATOR.in_role(Role::Value), &inputs.extents(self))?;
        expect_steps(inputs.step)
    }

    pub(super) fn validate_forward(
        &self,
        inputs: &Inputs,
        outputs: &Outputs,
    ) -> Result<(), VandermondeError> {
        self.validate_inputs(inputs)?;
        Ok(outputs.expect(&OPERATOR.in_role(Role::Value), &outputs.extents(self))?)
    }

    pub(super) fn validate_backward(
        &self,
        inputs: &Inputs,
        cotangents: &Cotangents,
        gradients: &Gradients,
    ) -> Result<(), VandermondeError> {
        self.validate_inputs(inputs)?;
        cotangents.expect(&OPERATOR.in_role(Role::Cotangent), &cotangents.extents(self))?;
        Ok(gradients.expect(&OPERATOR.in_role(Role::Gradient), &inputs.extents(self))?)
    }
}

fn expect_steps(steps: &[f32]) -> Result<(), VandermondeError> {
    let mut steps = steps.iter().enumerate();
    match steps.find(|(_, step)| !(**step > 0.0 && step.is_finite())) {
        Some((index, &step)) => Err(VandermondeError::Step { index, step }),
        None => Ok(()),
    }
}

/// The modes of a channel of these steps and rates; checks that they are finite and stay so.
pub(super) fn modes_of(
    problem: &Problem,
    step: &[f32],
    a: &[f32],
    channel: usize,
) -> Result<Vec<Mode>, VandermondeError> {
    (0..problem.modes)
        .map(|mode| mode_of(problem, step, a, (channel, mode)))
        .collect()
}

fn mode_of(
    problem: &Problem,
    step: &[f32],
    a: &[f32],
    (channel, mode): (usize, usize),
) -> Result<Mode, VandermondeError> {
    let length = problem.length;
    let rate = complex::at(a, problem.copy_index(channel, mode));
    let step = f64::from(step[problem.step_index(channel, mode)]);
    let found = Mode::new(problem.discretization, step, rate, length);
    if !(found.root.is_finite() && found.gain.is_finite()) {
        let (re, im) = (rate.re, rate.im);
        return Err(VandermondeError::NotFinite {
            channel,
            mode,
            re,
            im,
        });
    }
    let modulus = found.root.norm();
    if modulus > 1.0 && power(Complex64::from(modulus), length).re > f64::from(f32::MAX) {
        return Err(VandermondeError::Unstable {
            channel,
            mode,
            modulus,
            length,
        });
    }
    Ok(found)
}
