//! What a kernel of a diagonal and low-rank system is made of, and every way that can be wrong.

use thiserror::Error;

use crate::operands::operator;
use crate::shape::{Role, ShapeError, all_fit};

/// Sizes of the kernels of diagonal and low-rank systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// H, the number of independent systems.
    pub channels: usize,
    /// N, stored modes of a channel, one of each conjugate pair.
    pub modes: usize,
    /// r, columns of P; 0 leaves a diagonal system.
    pub rank: usize,
    /// How many copies of A, B and P there are; channel h has copy h mod `copies`.
    pub copies: usize,
    /// Rows of C̃ for each channel, each with a kernel of its own.
    pub readouts: usize,
    /// Initial states; 0 where only the kernel is wanted.
    pub batch: usize,
    /// M, the length that C̃ stands for.
    pub nodes: usize,
    /// L ≤ M, positions that are wanted.
    pub length: usize,
}

operator! {
    "Cauchy kernel", Problem as problem;
    /// What kernels of diagonal and low-rank systems are made of. Complex numbers are two values, real and imaginary part.
    // Rows are gates: a device whose tokens are halves holds them in a type of their own, f32.
    inputs<R, V> {
        /// Δ > 0, `[channels]`.
        step: Values[problem.channels],
        /// λ, complex `[copies, modes]`.
        a: Values[problem.copy_len()],
        /// B, complex `[copies, modes]`.
        b: Values[problem.copy_len()],
        /// P, complex `[rank, copies, modes]`.
        p: Values[problem.rank * problem.copy_len()],
        /// C̃, complex `[readouts · channels, modes]`.
        c: Gates[problem.readouts * problem.channels, 2 * problem.modes],
        /// Initial states, complex `[batch · channels, modes]`.
        state: Gates[problem.batch * problem.channels, 2 * problem.modes],
    }
    /// Kernels, and responses to initial states.
    outputs<R> {
        /// K, `[readouts · channels, length]`.
        kernel: Gates[problem.readouts * problem.channels, problem.length],
        /// S, `[batch · readouts · channels, length]`.
        state_kernel: Gates[problem.batch * problem.readouts * problem.channels, problem.length],
    }
}

/// Why a kernel of a diagonal and low-rank system cannot be computed.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum CauchyError {
    /// Sizes whose product no buffer can have.
    #[error("a Cauchy kernel of these sizes fits no memory: {0:?}")]
    Size(Problem),
    /// Channels without a copy of A, B and P.
    #[error("{channels} channels need at least one copy of A, B and P, found none")]
    NoCopy {
        /// Number of channels, each of which needs a copy.
        channels: usize,
    },
    /// More positions than the truncated readout stands for.
    #[error("C̃ stands for {nodes} positions; {length} need it extended first (see `truncation::extend`)")]
    Length {
        /// Number of positions wanted, L.
        length: usize,
        /// Positions that C̃ stands for.
        nodes: usize,
    },
    /// A step that is not positive.
    #[error("step {index} must be positive and finite, found {step}")]
    Step {
        /// Index of the step, which is that of its channel.
        index: usize,
        /// Step Δ that was given.
        step: f32,
    },
    /// A rate that does not decay, asked for where only decaying ones are safe.
    #[error("rate {index} must be finite with a negative real part, found {re} + {im}i")]
    Rate {
        /// Index of the rate in `[copies, modes]`.
        index: usize,
        /// Real part of the rate λ.
        re: f32,
        /// Imaginary part of the rate λ.
        im: f32,
    },
    /// A generating function without a finite value, because |ā| = 1 at a node or an input is not finite.
    #[error(
        "the generating function of channel {channel} is not finite at node {node} of {nodes}: a mode does not decay"
    )]
    Singular {
        /// Index of the channel.
        channel: usize,
        /// Index j of the node ω = e^{−2πij/M}.
        node: usize,
        /// Number of nodes, M.
        nodes: usize,
    },
    /// A system whose discrete form, or whose readout, has no finite value.
    #[error("the {what} of channel {channel} has no finite value")]
    NotFinite {
        /// Which part has no finite value, as a phrase: `discrete form` or `readout`.
        what: &'static str,
        /// Index of the channel.
        channel: usize,
    },
    /// The Fourier transform refused its buffers.
    #[error("the Fourier transform of {nodes} nodes failed: {reason}")]
    Transform {
        /// Number of nodes, M.
        nodes: usize,
        /// Reason that the Fourier transform gave.
        reason: String,
    },
    /// An operand has another shape than the problem says.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

impl Problem {
    /// Values of one row of all copies.
    fn copy_len(&self) -> usize {
        2 * self.copies * self.modes
    }

    /// Where a mode of a channel lies in A and in B, and with `rank` in P.
    pub(super) fn copy_index(&self, channel: usize, mode: usize) -> usize {
        channel % self.copies * self.modes + mode
    }

    /// Where a mode of a column of P lies.
    pub(super) fn low_rank_index(&self, column: usize, channel: usize, mode: usize) -> usize {
        column * self.copies * self.modes + self.copy_index(channel, mode)
    }

    /// Nodes that are computed; the others are their conjugates.
    pub(super) fn half(&self) -> usize {
        match self.nodes {
            0 => 0,
            nodes => nodes / 2 + 1,
        }
    }

    /// Columns that stand in the place of B: itself, and one for each initial state.
    pub(super) fn columns(&self) -> usize {
        1 + self.batch
    }

    pub(super) fn validate(&self) -> Result<(), CauchyError> {
        let Self {
            channels,
            modes,
            rank,
            copies,
            readouts,
            batch,
            nodes,
            length,
        } = *self;
        let sizes = [
            channels.max(copies),
            readouts.saturating_add(rank),
            batch.saturating_add(rank).saturating_add(1),
            modes.max(nodes),
            2 * size_of::<f64>(),
        ];
        if !all_fit(&sizes) {
            return Err(CauchyError::Size(*self));
        }
        if channels > 0 && copies == 0 {
            return Err(CauchyError::NoCopy { channels });
        }
        match length > nodes {
            true => Err(CauchyError::Length { length, nodes }),
            false => Ok(()),
        }
    }

    /// Whether kernels of these steps Δ and rates λ can be computed, as far as that depends on neither shapes nor readouts: with any
    /// finite P, where every λ is finite and has a real part below 0.
    ///
    /// # Errors
    /// [`CauchyError`] for sizes, steps, and a rate that is not finite or does not decay.
    pub fn check(&self, step: &[f32], a: &[f32]) -> Result<(), CauchyError> {
        self.validate()?;
        OPERATOR.values("step", self.channels, step.len())?;
        OPERATOR.values("a", self.copy_len(), a.len())?;
        expect_steps(step)?;
        let mut rates = a.chunks_exact(2).enumerate();
        match rates.find(|(_, rate)| !(rate[0] < 0.0 && rate[0].is_finite() && rate[1].is_finite())) {
            Some((index, rate)) => {
                let (re, im) = (rate[0], rate[1]);
                Err(CauchyError::Rate { index, re, im })
            }
            None => Ok(()),
        }
    }

    pub(super) fn validate_inputs(&self, inputs: &Inputs) -> Result<(), CauchyError> {
        self.validate()?;
        inputs.expect(&OPERATOR.in_role(Role::Value), &inputs.extents(self))?;
        expect_steps(inputs.step)
    }

    pub(super) fn validate_forward(&self, inputs: &Inputs, outputs: &Outputs) -> Result<(), CauchyError> {
        self.validate_inputs(inputs)?;
        Ok(outputs.expect(&OPERATOR.in_role(Role::Value), &outputs.extents(self))?)
    }

    pub(super) fn validate_backward(
        &self,
        inputs: &Inputs,
        cotangents: &Cotangents,
        gradients: &Gradients,
    ) -> Result<(), CauchyError> {
        self.validate_inputs(inputs)?;
        cotangents.expect(&OPERATOR.in_role(Role::Cotangent), &cotangents.extents(self))?;
        Ok(gradients.expect(&OPERATOR.in_role(Role::Gradient), &inputs.extents(self))?)
    }
}

fn expect_steps(steps: &[f32]) -> Result<(), CauchyError> {
    let mut steps = steps.iter().enumerate();
    match steps.find(|(_, step)| !(**step > 0.0 && step.is_finite())) {
        Some((index, &step)) => Err(CauchyError::Step { index, step }),
        None => Ok(()),
    }
}
