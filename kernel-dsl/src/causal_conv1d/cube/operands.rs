//! The convolution's operands as kernels see them.

use cubecl::prelude::*;

use super::UNITS;
use crate::causal_conv1d::problem::{Activation, DeviceInputs, Problem};
use crate::cube::DeviceBuffer;

/// The choices that make another kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Variant {
    pub width: usize,
    pub silu: bool,
    pub bias: bool,
    /// Whether there is a state before the first token, or zeros.
    pub state: bool,
    /// Whether the final state has a cotangent.
    pub state_cotangent: bool,
}

impl Variant {
    pub(super) fn new(problem: &Problem, inputs: &DeviceInputs, state: bool, state_cotangent: bool) -> Self {
        Self {
            width: problem.width,
            silu: problem.activation == Activation::Silu,
            bias: inputs.bias.is_some(),
            state,
            state_cotangent,
        }
    }
}

/// What a unit reads besides the inputs.
#[derive(CubeType, CubeLaunch)]
pub(super) struct Constants {
    /// Taps of every channel, `[channels, width]`; the last meets the current token.
    pub weight: Box<[f32]>,
    /// Bias of every channel, `[channels]`; not read where there is none.
    pub bias: Box<[f32]>,
    /// State before the first token, `[batch, channels, width − 1]`; not read where there is none.
    pub state: Box<[f32]>,
    pub channels: usize,
}

impl DeviceInputs<'_> {
    /// Where an operand is absent the weight is bound, which the kernel does not read.
    pub(super) fn constants(&self, problem: &Problem, state: Option<&DeviceBuffer>) -> ConstantsLaunch {
        ConstantsLaunch::new(
            self.weight.arg(),
            self.bias.as_ref().unwrap_or(&self.weight).arg(),
            state.unwrap_or(&self.weight).arg(),
            problem.channels,
        )
    }
}

/// The channel and the chunk of a unit.
#[derive(CubeType)]
pub(super) struct Place {
    pub channel: usize,
    pub sequence: usize,
    /// First row of the chunk, and the row after its last.
    pub first: usize,
    pub stop: usize,
    /// First row of the sequence, and the row after its last.
    pub start: usize,
    pub end: usize,
}

#[cube]
pub(super) fn place(chunks: &[u32], spans: &[u32], channels: usize) -> Place {
    let tiles = channels.div_ceil(UNITS);
    let chunk = CUBE_POS / tiles;
    let sequence = chunks[3 * chunk + 2] as usize;
    Place {
        channel: CUBE_POS % tiles * UNITS + UNIT_POS as usize,
        sequence,
        first: chunks[3 * chunk] as usize,
        stop: chunks[3 * chunk + 1] as usize,
        start: spans[2 * sequence] as usize,
        end: spans[2 * sequence + 1] as usize,
    }
}
