//! The operands of a linear state space as kernels see them, and modes made discrete.

use cubecl::prelude::*;

use crate::cube::math::sin_cos;
use crate::cube::view::RowsView;
use crate::cube::{Client, DType, DeviceBuffer, Error, Limits, address_type, cubes};
use crate::linear_state_space::problem::{DeviceInputs, OPERATOR, Problem, Rule};
use crate::operands::ElementTypes;
use crate::shape::Role;

/// Units of a cube that has an independent value in each.
pub(super) const UNITS: usize = 64;

/// The choices that make another kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Variant {
    pub rule: Rule,
    /// Whether every token has a step size of its own.
    pub token_steps: bool,
    pub skip: bool,
    pub outputs: usize,
    /// Units of a cube, a mode or more each.
    pub units: usize,
    /// Modes of a unit.
    pub modes: usize,
    /// Tokens of a chunk.
    pub tokens: usize,
    /// Whether y = 2 Re(C x).
    pub pairs: bool,
}

impl Variant {
    /// The form that suits a device.
    pub(super) fn new(problem: &Problem, inputs: &DeviceInputs, limits: &Limits) -> Self {
        let wide = if problem.state_dim > 32 { 64 } else { 32 };
        let units = wide.min(limits.units).max(1);
        let modes = problem.state_dim.div_ceil(units).max(1);
        // A chunk has its states, as pairs, and what each unit adds to each token, in shared memory.
        let bytes =
            |tokens: usize| 8 * units * modes * (tokens + 1) + 8 * units * tokens * problem.outputs.max(1);
        let sizes = [16, 8, 4, 2];
        let tokens = sizes
            .into_iter()
            .find(|&tokens| bytes(tokens) <= limits.shared_memory)
            .unwrap_or(1);
        Self {
            rule: problem.rule,
            token_steps: inputs.token_step_size.is_some(),
            skip: inputs.skip.is_some(),
            outputs: problem.outputs,
            units,
            modes,
            tokens,
            pairs: problem.spectrum == crate::linear_state_space::Spectrum::ConjugatePairs,
        }
    }
}

/// Checks the problem and its inputs.
pub(super) fn validate(problem: &Problem, inputs: &DeviceInputs) -> Result<(), Error> {
    problem.validate_choices(inputs).map_err(Error::problem)?;
    let types = ElementTypes::all(inputs.input.dtype());
    inputs.expect(&OPERATOR.on_device(Role::Value, types), &inputs.extents(problem))
}

/// Values of the largest buffer that a kernel indexes.
pub(super) fn longest(inputs: &DeviceInputs, others: &[usize]) -> usize {
    let steps = inputs
        .token_step_size
        .as_ref()
        .map_or(0, |steps| steps.buffer().len());
    let own = [inputs.input.buffer().len(), steps, inputs.c.len()];
    own.into_iter().chain(others.iter().copied()).fold(0, usize::max)
}

/// The modes of every channel, `[channels, state_dim, 4]`: Ā − 1 and B̄ as pairs, or Λ and B where tokens have step sizes.
pub(super) fn modes(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    variant: Variant,
) -> Result<DeviceBuffer, Error> {
    let units = problem.channels * problem.state_dim;
    let modes = DeviceBuffer::empty(client, 4 * units, DType::F32)?;
    if units > 0 {
        modes_kernel::launch(
            client,
            cubes(client, units.div_ceil(UNITS))?,
            CubeDim::new_1d(UNITS as u32),
            address_type(client, modes.len())?,
            inputs.a.arg(),
            inputs.b.arg(),
            // Where there is none it is not read.
            inputs.step_size.as_ref().unwrap_or(&inputs.a).arg(),
            modes.arg(),
            problem.state_dim,
            problem.copies,
            units,
            variant,
        );
    }
    Ok(modes)
}

#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn modes_kernel(
    a: &[f32],
    b: &[f32],
    step_size: &[f32],
    modes: &mut [f32],
    state_dim: usize,
    copies: usize,
    units: usize,
    #[comptime] variant: Variant,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let channel = ABSOLUTE_POS / state_dim;
    let at = 2 * (channel % copies * state_dim + ABSOLUTE_POS % state_dim);
    let mode = if comptime!(variant.token_steps) {
        let mut rates = Array::<f32>::new(4usize);
        rates[0] = a[at];
        rates[1] = a[at + 1];
        rates[2] = b[at];
        rates[3] = b[at + 1];
        rates
    } else {
        let mut step = 1.0f32;
        if comptime!(variant.rule != Rule::Given) {
            step = step_size[channel];
        }
        discretise(step, a[at], a[at + 1], b[at], b[at + 1], variant.rule)
    };
    #[unroll]
    for i in 0..4 {
        modes[4 * ABSOLUTE_POS + i] = mode[i];
    }
}

/// (Ā − 1, B̄) of a mode as pairs.
#[cube]
pub(super) fn discretise(
    step: f32,
    a_re: f32,
    a_im: f32,
    b_re: f32,
    b_im: f32,
    #[comptime] rule: Rule,
) -> Array<f32> {
    let mut mode = Array::<f32>::new(4usize);
    if comptime!(rule == Rule::Given) {
        mode[0] = a_re - 1.0f32;
        mode[1] = a_im;
        mode[2] = b_re;
        mode[3] = b_im;
    } else if comptime!(rule == Rule::Bilinear) {
        let re = 1.0f32 - 0.5f32 * step * a_re;
        let im = 0.5f32 * step * a_im;
        let scale = step / (re * re + im * im);
        let inverse_re = scale * re;
        let inverse_im = scale * im;
        mode[0] = inverse_re * a_re - inverse_im * a_im;
        mode[1] = inverse_re * a_im + inverse_im * a_re;
        mode[2] = inverse_re * b_re - inverse_im * b_im;
        mode[3] = inverse_re * b_im + inverse_im * b_re;
    } else {
        let change = exp_m1(step * a_re, step * a_im);
        mode[0] = change[0];
        mode[1] = change[1];
        // B̄ = B c with c = Δ, or (e^z − 1) / Λ.
        let mut c_re = step;
        let mut c_im = 0.0f32;
        if comptime!(rule == Rule::ZeroOrderHold) {
            let square = a_re * a_re + a_im * a_im;
            if square > 0.0f32 {
                c_re = (change[0] * a_re + change[1] * a_im) / square;
                c_im = (change[1] * a_re - change[0] * a_im) / square;
            }
        }
        mode[2] = c_re * b_re - c_im * b_im;
        mode[3] = c_re * b_im + c_im * b_re;
    }
    mode
}

/// e^z − 1 as a pair, as the host computes it: with h half of the phase, whole turns taken off, and 2 sin h sin h for 1 − cos.
#[cube]
#[allow(clippy::approx_constant)]
fn exp_m1(re: f32, im: f32) -> Array<f32> {
    let turns = im * 0.159_154_94f32;
    let half = (turns - (turns + 0.5f32).floor()) * 3.141_592_7f32;
    let waves = sin_cos(half);
    let sin = waves[0];
    let cos = waves[1];
    let growth = re.exp();
    // e^re − 1, by its series where that has no digits left.
    let mut less = growth - 1.0f32;
    if re.abs() < 0.3f32 {
        let e6 = re * 1.984_127e-4f32 + 1.388_888_9e-3f32;
        let e5 = re * e6 + 8.333_333e-3f32;
        let e4 = re * e5 + 4.166_666_7e-2f32;
        let e3 = re * e4 + 1.666_666_7e-1f32;
        let e2 = re * e3 + 0.5f32;
        let e1 = re * e2 + 1.0f32;
        less = re * e1;
    }
    let mut change = Array::<f32>::new(2usize);
    change[0] = less - 2.0f32 * growth * sin * sin;
    change[1] = 2.0f32 * growth * sin * cos;
    change
}

/// What a cube reads: one channel of one sequence.
#[derive(CubeType, CubeLaunch)]
pub(super) struct System<F: Float> {
    pub input: RowsView<F>,
    pub step_size: RowsView<F>,
    /// Ā − 1 and B̄ as pairs, or Λ and B where tokens have step sizes, `[channels, state_dim, 4]`.
    pub modes: Box<[f32]>,
    /// C as pairs, `[outputs, channels, state_dim, 2]`.
    pub c: Box<[f32]>,
    pub skip: Box<[f32]>,
    /// First row, row after the last and sequence of every chunk.
    pub chunks: Box<[u32]>,
    /// First chunk and chunk after the last of every sequence.
    pub sequences: Box<[u32]>,
    pub channels: usize,
    pub state_dim: usize,
    /// Sequences times channels: cubes that have work.
    pub cubes: usize,
}

#[cube]
impl<F: Float> System<F> {
    /// The mode `i` of this unit, if there is one.
    pub fn mode(&self, i: usize, #[comptime] variant: Variant) -> usize {
        UNIT_POS as usize + i * comptime!(variant.units)
    }

    /// Whether the unit has a mode `i`.
    pub fn has(&self, i: usize, #[comptime] variant: Variant) -> bool {
        self.mode(i, variant) < self.state_dim
    }

    /// The modes of this unit in registers, four values each; zeros beyond the last.
    pub fn load_modes(&self, channel: usize, #[comptime] variant: Variant) -> Array<f32> {
        let mut values = Array::<f32>::new(comptime!(4 * variant.modes));
        #[unroll]
        for i in 0..comptime!(variant.modes) {
            let at = 4 * (channel * self.state_dim + self.mode(i, variant));
            #[unroll]
            for k in 0..4 {
                values[4 * i + k] = 0.0f32;
                if self.has(i, variant) {
                    values[4 * i + k] = self.modes[at + k];
                }
            }
        }
        values
    }

    /// w C of this unit as pairs, `[outputs, modes]`.
    pub fn load_c(&self, channel: usize, #[comptime] variant: Variant) -> Array<f32> {
        let mut values = Array::<f32>::new(comptime!(max_one(2 * variant.modes * variant.outputs)));
        let weight = comptime!(if variant.pairs { 2.0f32 } else { 1.0f32 });
        #[unroll]
        for o in 0..comptime!(variant.outputs) {
            #[unroll]
            for i in 0..comptime!(variant.modes) {
                let at = 2 * ((o * self.channels + channel) * self.state_dim + self.mode(i, variant));
                #[unroll]
                for k in 0..2 {
                    let to = 2 * (o * comptime!(variant.modes) + i) + k;
                    values[to] = 0.0f32;
                    if self.has(i, variant) {
                        values[to] = weight * self.c[at + k];
                    }
                }
            }
        }
        values
    }

    /// Ā − 1 and B̄ of this unit at a token.
    pub fn at_token(
        &self,
        rates: &Array<f32>,
        row: usize,
        channel: usize,
        #[comptime] variant: Variant,
    ) -> Array<f32> {
        let mut values = Array::<f32>::new(comptime!(4 * variant.modes));
        #[unroll]
        for i in 0..comptime!(variant.modes) {
            if comptime!(variant.token_steps) {
                let step = self.step_size.at(row, channel);
                let mode = discretise(
                    step,
                    rates[4 * i],
                    rates[4 * i + 1],
                    rates[4 * i + 2],
                    rates[4 * i + 3],
                    variant.rule,
                );
                #[unroll]
                for k in 0..4 {
                    values[4 * i + k] = mode[k];
                }
            } else {
                #[unroll]
                for k in 0..4 {
                    values[4 * i + k] = rates[4 * i + k];
                }
            }
        }
        values
    }

    /// Takes the state over one token: x ← x + (Ā − 1) x + B̄ u.
    pub fn advance(&self, modes: &Array<f32>, u: f32, x: &mut Array<f32>, #[comptime] variant: Variant) {
        #[unroll]
        for i in 0..comptime!(variant.modes) {
            let re = x[2 * i];
            let im = x[2 * i + 1];
            x[2 * i] = re + (modes[4 * i] * re - modes[4 * i + 1] * im + modes[4 * i + 2] * u);
            x[2 * i + 1] = im + (modes[4 * i] * im + modes[4 * i + 1] * re + modes[4 * i + 3] * u);
        }
    }

    /// Pairs of this unit's modes in a buffer `[_, state_dim, 2]`; zeros beyond the last.
    pub fn load(&self, values: &[f32], index: usize, #[comptime] variant: Variant) -> Array<f32> {
        let mut x = Array::<f32>::new(comptime!(2 * variant.modes));
        #[unroll]
        for i in 0..comptime!(variant.modes) {
            let at = 2 * (index * self.state_dim + self.mode(i, variant));
            x[2 * i] = 0.0f32;
            x[2 * i + 1] = 0.0f32;
            if self.has(i, variant) {
                x[2 * i] = values[at];
                x[2 * i + 1] = values[at + 1];
            }
        }
        x
    }

    /// Writes the pairs of this unit's modes to a buffer `[_, state_dim, 2]`.
    pub fn store(&self, values: &mut [f32], index: usize, x: &Array<f32>, #[comptime] variant: Variant) {
        #[unroll]
        for i in 0..comptime!(variant.modes) {
            if self.has(i, variant) {
                let at = 2 * (index * self.state_dim + self.mode(i, variant));
                values[at] = x[2 * i];
                values[at + 1] = x[2 * i + 1];
            }
        }
    }
}

/// An array has a value at least.
pub(super) fn max_one(len: usize) -> usize {
    len.max(1)
}

/// Zeros in the registers of a unit.
#[cube]
pub(super) fn zeros(#[comptime] len: usize) -> Array<f32> {
    let mut values = Array::<f32>::new(comptime!(max_one(len)));
    #[unroll]
    for i in 0..comptime!(max_one(len)) {
        values[i] = 0.0f32;
    }
    values
}

/// Σ over the units of a cube of the values at `first` of shared memory, in the order of the units.
#[cube]
pub(super) fn sum_of_units(shared: &Shared<[f32]>, first: usize, #[comptime] variant: Variant) -> f32 {
    let mut sum = 0.0f32;
    for unit in 0..comptime!(variant.units) {
        sum += shared[first + unit];
    }
    sum
}
