//! Backward: a cube goes through the chunks of a channel of a sequence from the last to the first, with the states of each computed
//! again from the one before it.

use cubecl::prelude::*;

use super::discretise_backward::{pull_back, pull_back_kernel, sum_modes};
use super::forward::Walk;
use super::low_rank;
use super::operands::{System, UNITS, Variant, longest, sum_of_units, validate, zeros};
use crate::cube::partial::sum_partials;
use crate::cube::view::RowsView;
use crate::cube::{Client, DType, DeviceBuffer, DeviceRows, Error, address_type, cubes, token_buffer};
use crate::linear_state_space::problem::{
    DeviceCotangents, DeviceGradients, DeviceInputs, OPERATOR, Operands, Problem,
};
use crate::operands::ElementTypes;
use crate::shape::Role;

/// Gradients of the loss by all that [`forward`](super::forward) reads.
///
/// # Errors
/// [`Error`] when a shape, a type or a choice is wrong, or when the device cannot run it.
pub fn backward(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    cotangents: &DeviceCotangents,
) -> Result<DeviceGradients, Error> {
    validate(problem, inputs)?;
    let types = ElementTypes::all(inputs.input.dtype());
    cotangents.expect(
        &OPERATOR.on_device(Role::Cotangent, types),
        &cotangents.extents(problem),
    )?;
    if problem.rank > 0 {
        return low_rank::backward(client, problem, inputs, cotangents);
    }
    let walk = Walk::new(client, problem, inputs)?;
    let states = walk.table.count() * problem.channels * problem.state_dim * 2;
    let boundaries = DeviceBuffer::empty(client, states, DType::F32)?;
    walk.run(client, problem, inputs, None, Some(&boundaries))?;
    let sums = Sums::new(client, problem, inputs)?;
    sums.launch(client, problem, inputs, cotangents, &walk, &boundaries)?;
    sums.finish(client, problem, inputs, &walk)
}

/// What the sweep writes: gradients of tokens and states, and sums over the tokens of every sequence.
struct Sums {
    input: DeviceBuffer,
    steps: DeviceBuffer,
    state: DeviceBuffer,
    /// Derivatives by Ā and B̄, or by Λ and B where tokens have step sizes, as pairs, `[batch, channels, state_dim, 4]`.
    modes: DeviceBuffer,
    /// Derivatives by C, one for each sequence, as pairs, `[batch, outputs, channels, state_dim, 2]`.
    c: DeviceBuffer,
    /// Derivatives by D, one for each sequence, `[batch, outputs, channels]`.
    skip: DeviceBuffer,
}

impl Sums {
    fn new(client: &Client, problem: &Problem, inputs: &DeviceInputs) -> Result<Self, Error> {
        let Problem {
            batch,
            channels,
            outputs,
            state_dim,
            ..
        } = *problem;
        let tokens = |len| token_buffer(client, &problem.sequences, len, inputs.input.dtype());
        let values = |len| DeviceBuffer::empty(client, len, DType::F32);
        let elements = problem.rows() * channels;
        Ok(Self {
            input: tokens(elements)?,
            steps: tokens(if inputs.token_step_size.is_some() {
                elements
            } else {
                0
            })?,
            state: values(problem.state_len())?,
            modes: values(4 * batch * channels * state_dim)?,
            c: values(2 * batch * outputs * channels * state_dim)?,
            skip: values(batch * outputs * channels)?,
        })
    }

    fn launch(
        &self,
        client: &Client,
        problem: &Problem,
        inputs: &DeviceInputs,
        cotangents: &DeviceCotangents,
        walk: &Walk,
        boundaries: &DeviceBuffer,
    ) -> Result<(), Error> {
        let total = problem.batch * problem.channels;
        if total == 0 {
            return Ok(());
        }
        let seen = Seen {
            out: cotangents.out.is_some(),
            state: cotangents.state.is_some(),
        };
        let of_out = cotangents.out.as_ref().map_or(0, |out| out.buffer().len());
        let sizes = [
            of_out,
            boundaries.len(),
            self.modes.len(),
            self.c.len(),
            self.skip.len(),
        ];
        let out: &DeviceRows = cotangents.out.as_ref().unwrap_or(&inputs.input);
        sweep_kernel::launch(
            client,
            cubes(client, total)?,
            CubeDim::new_1d(walk.variant.units as u32),
            address_type(client, longest(inputs, &sizes))?,
            walk.system(problem, inputs),
            // What is absent is not read.
            out.view(),
            cotangents.state.as_ref().unwrap_or(&inputs.c).arg(),
            boundaries.arg(),
            TokensLaunch::new(self.input.arg(), self.steps.arg()),
            ConstantsLaunch::new(self.state.arg(), self.modes.arg(), self.c.arg(), self.skip.arg()),
            seen,
            walk.variant,
            inputs.input.dtype().elem(),
        );
        Ok(())
    }

    /// Adds up over sequences and copies, and goes from Ā and B̄ to Δ, Λ and B.
    fn finish(
        self,
        client: &Client,
        problem: &Problem,
        inputs: &DeviceInputs,
        walk: &Walk,
    ) -> Result<DeviceGradients, Error> {
        let Problem {
            batch,
            channels,
            outputs,
            state_dim,
            copies,
            ..
        } = *problem;
        let sum = |partial: &DeviceBuffer, parts: usize, size: usize| {
            let out = DeviceBuffer::empty(client, size, DType::F32)?;
            sum_partials(client, partial, &out, parts, size)?;
            Ok::<_, Error>(out)
        };
        let values = channels * state_dim;
        let by_modes = sum(&self.modes, batch, 4 * values)?;
        let pairs = || DeviceBuffer::empty(client, 2 * values, DType::F32);
        let (a, b) = (pairs()?, pairs()?);
        let step = DeviceBuffer::empty(client, values, DType::F32)?;
        if values > 0 {
            pull_back_kernel::launch(
                client,
                cubes(client, values.div_ceil(UNITS))?,
                CubeDim::new_1d(UNITS as u32),
                address_type(client, by_modes.len())?,
                by_modes.arg(),
                inputs.a.arg(),
                inputs.b.arg(),
                inputs.step_size.as_ref().unwrap_or(&inputs.a).arg(),
                a.arg(),
                b.arg(),
                step.arg(),
                state_dim,
                copies,
                values,
                walk.variant,
            );
        }
        let per_copy = channels / copies.max(1);
        let of_copies = |partial: &DeviceBuffer| sum(partial, per_copy, 2 * copies * state_dim);
        let step_size = match inputs.step_size {
            Some(_) => {
                let out = DeviceBuffer::empty(client, channels, DType::F32)?;
                sum_modes(client, &step, &out, state_dim)?;
                Some(out)
            }
            None => None,
        };
        Ok(Operands {
            input: self.input,
            token_step_size: inputs.token_step_size.as_ref().map(|_| self.steps),
            step_size,
            a: of_copies(&a)?,
            b: of_copies(&b)?,
            c: sum(&self.c, batch, 2 * outputs * values)?,
            low_rank: None,
            skip: match inputs.skip {
                Some(_) => Some(sum(&self.skip, batch, outputs * channels)?),
                None => None,
            },
            state: inputs.state.as_ref().map(|_| self.state),
        })
    }
}

/// Which cotangents there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Seen {
    out: bool,
    state: bool,
}

/// Gradients by what belongs to a token: u, and Δ where tokens have step sizes.
#[derive(CubeType, CubeLaunch)]
struct Tokens<F: Float> {
    input: Box<[F]>,
    steps: Box<[F]>,
}

/// Gradients that are summed over tokens.
#[derive(CubeType, CubeLaunch)]
struct Constants {
    state: Box<[f32]>,
    modes: Box<[f32]>,
    c: Box<[f32]>,
    skip: Box<[f32]>,
}

#[cube(launch, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn sweep_kernel<F: Float>(
    system: &System<F>,
    cotangent: &RowsView<F>,
    state_cotangent: &[f32],
    boundaries: &[f32],
    tokens: &mut Tokens<F>,
    sums: &mut Constants,
    #[comptime] seen: Seen,
    #[comptime] variant: Variant,
    #[define(F)] _dtype: ElemType,
) {
    if CUBE_POS >= system.cubes {
        terminate!();
    }
    let sequence = CUBE_POS / system.channels;
    let channel = CUBE_POS % system.channels;
    let unit = UNIT_POS as usize;
    let rates = system.load_modes(channel, variant);
    let c = system.load_c(channel, variant);
    let mut adjoint = if comptime!(seen.state) {
        system.load(state_cotangent, CUBE_POS, variant)
    } else {
        zeros(comptime!(2 * variant.modes))
    };
    let mut by_modes = zeros(comptime!(4 * variant.modes));
    let mut by_c = zeros(comptime!(2 * variant.modes * variant.outputs));
    let mut by_skip = zeros(comptime!(variant.outputs));
    // The states before and after each token, of which a unit touches its own only; and what each unit adds to each token.
    let mut trail = Shared::<[f32]>::new_slice(comptime!(
        2 * variant.modes * (variant.tokens + 1) * variant.units
    ));
    let mut of_units = Shared::<[f32]>::new_slice(comptime!(2 * variant.tokens * variant.units));
    let first = system.sequences[2 * sequence] as usize;
    let after = system.sequences[2 * sequence + 1] as usize;
    for later in first..after {
        let chunk = after + first - 1 - later;
        let start = system.chunks[3 * chunk] as usize;
        let end = system.chunks[3 * chunk + 1] as usize;
        let mut x = system.load(boundaries, chunk * system.channels + channel, variant);
        keep(&mut trail, &x, 0usize, variant);
        for row in start..end {
            let modes = system.at_token(&rates, row, channel, variant);
            system.advance(&modes, system.input.at(row, channel), &mut x, variant);
            keep(&mut trail, &x, row - start + 1, variant);
        }
        for later in start..end {
            let row = end + start - 1 - later;
            let token = row - start;
            if comptime!(seen.out) {
                read_back::<F>(
                    system,
                    cotangent,
                    row,
                    channel,
                    &c,
                    &trail,
                    &mut adjoint,
                    &mut by_c,
                    start,
                    variant,
                );
            }
            let u = system.input.at(row, channel);
            let modes = system.at_token(&rates, row, channel, variant);
            let mut by_input = 0.0f32;
            let mut by_step = 0.0f32;
            #[unroll]
            for i in 0..comptime!(variant.modes) {
                let re = adjoint[2 * i];
                let im = adjoint[2 * i + 1];
                let at = (token * comptime!(2 * variant.modes) + 2 * i) * comptime!(variant.units) + unit;
                let before_re = trail[at];
                let before_im = trail[at + comptime!(variant.units)];
                by_input += modes[4 * i + 2] * re + modes[4 * i + 3] * im;
                let change_re = re * before_re + im * before_im;
                let change_im = im * before_re - re * before_im;
                if comptime!(variant.token_steps) {
                    let step = system.step_size.at(row, channel);
                    let mut mode = Array::<f32>::new(4usize);
                    let mut rate = Array::<f32>::new(4usize);
                    let mut by = Array::<f32>::new(4usize);
                    #[unroll]
                    for k in 0..4 {
                        mode[k] = modes[4 * i + k];
                        rate[k] = rates[4 * i + k];
                    }
                    by[0] = change_re;
                    by[1] = change_im;
                    by[2] = re * u;
                    by[3] = im * u;
                    let found = pull_back(step, &rate, &mode, &by, variant.rule);
                    #[unroll]
                    for k in 0..4 {
                        by_modes[4 * i + k] += found[k];
                    }
                    by_step += found[4];
                } else {
                    by_modes[4 * i] += change_re;
                    by_modes[4 * i + 1] += change_im;
                    by_modes[4 * i + 2] += re * u;
                    by_modes[4 * i + 3] += im * u;
                }
                adjoint[2 * i] = re + (modes[4 * i] * re + modes[4 * i + 1] * im);
                adjoint[2 * i + 1] = im + (modes[4 * i] * im - modes[4 * i + 1] * re);
            }
            of_units[token * comptime!(variant.units) + unit] = by_input;
            of_units[(comptime!(variant.tokens) + token) * comptime!(variant.units) + unit] = by_step;
        }
        sync_cube();
        let mut token = unit;
        while token < end - start {
            let row = start + token;
            let mut by_input = sum_of_units(&of_units, token * comptime!(variant.units), variant);
            if comptime!(seen.out && variant.skip) {
                #[unroll]
                for o in 0..comptime!(variant.outputs) {
                    let column = o * system.channels + channel;
                    let y = cotangent.at(row, column);
                    by_input += system.skip[column] * y;
                }
            }
            tokens.input[row * system.channels + channel] = F::cast_from(by_input);
            if comptime!(variant.token_steps) {
                let at = (comptime!(variant.tokens) + token) * comptime!(variant.units);
                tokens.steps[row * system.channels + channel] =
                    F::cast_from(sum_of_units(&of_units, at, variant));
            }
            token += comptime!(variant.units);
        }
        // A branch of the kernel inside of one of its making.
        #[allow(clippy::collapsible_if)]
        if comptime!(seen.out && variant.skip) {
            if unit == 0 {
                for row in start..end {
                    #[unroll]
                    for o in 0..comptime!(variant.outputs) {
                        by_skip[o] +=
                            cotangent.at(row, o * system.channels + channel) * system.input.at(row, channel);
                    }
                }
            }
        }
        sync_cube();
    }
    system.store(&mut sums.state, CUBE_POS, &adjoint, variant);
    let weight = comptime!(if variant.pairs { 2.0f32 } else { 1.0f32 });
    #[unroll]
    for i in 0..comptime!(variant.modes) {
        if system.has(i, variant) {
            let at = 4 * (CUBE_POS * system.state_dim + system.mode(i, variant));
            #[unroll]
            for k in 0..4 {
                sums.modes[at + k] = by_modes[4 * i + k];
            }
            #[unroll]
            for o in 0..comptime!(variant.outputs) {
                let row = (sequence * comptime!(variant.outputs) + o) * system.channels + channel;
                let at = 2 * (row * system.state_dim + system.mode(i, variant));
                sums.c[at] = weight * by_c[2 * (o * comptime!(variant.modes) + i)];
                sums.c[at + 1] = weight * by_c[2 * (o * comptime!(variant.modes) + i) + 1];
            }
        }
    }
    if unit == 0 {
        #[unroll]
        for o in 0..comptime!(variant.outputs) {
            sums.skip[(sequence * comptime!(variant.outputs) + o) * system.channels + channel] = by_skip[o];
        }
    }
}

/// Keeps the state after so many tokens of a chunk.
#[cube]
fn keep(trail: &mut Shared<[f32]>, x: &Array<f32>, token: usize, #[comptime] variant: Variant) {
    #[unroll]
    for k in 0..comptime!(2 * variant.modes) {
        trail[(token * comptime!(2 * variant.modes) + k) * comptime!(variant.units) + UNIT_POS as usize] =
            x[k];
    }
}

/// x̄_t += w C̄ ȳ_t, and ȳ_t conj(x_t) to the sums of C.
#[cube]
#[allow(clippy::too_many_arguments)]
fn read_back<F: Float>(
    system: &System<F>,
    cotangent: &RowsView<F>,
    row: usize,
    channel: usize,
    c: &Array<f32>,
    trail: &Shared<[f32]>,
    adjoint: &mut Array<f32>,
    by_c: &mut Array<f32>,
    start: usize,
    #[comptime] variant: Variant,
) {
    #[unroll]
    for o in 0..comptime!(variant.outputs) {
        let y = cotangent.at(row, o * system.channels + channel);
        #[unroll]
        for i in 0..comptime!(variant.modes) {
            let place = ((row - start + 1) * comptime!(2 * variant.modes) + 2 * i) * comptime!(variant.units);
            let after_re = trail[place + UNIT_POS as usize];
            let after_im = trail[place + comptime!(variant.units) + UNIT_POS as usize];
            let at = 2 * (o * comptime!(variant.modes) + i);
            adjoint[2 * i] += c[at] * y;
            adjoint[2 * i + 1] -= c[at + 1] * y;
            by_c[at] += y * after_re;
            by_c[at + 1] -= y * after_im;
        }
    }
}
