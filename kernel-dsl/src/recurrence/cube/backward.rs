//! The gradients of the chunked form.
//!
//! The states that chunks meet are computed again; then the gradient of the state is passed from the last chunk to the
//! first by the kernels that pass the state itself, and every chunk forms its own gradients:
//!
//! | pass | what |
//! |---|---|
//! | [`chunk_updates`](super::states::chunk_updates), [`pass_states`](super::states::pass_states) | h_in, and in reverse h̄_out |
//! | [`scores`] | W, and W̄ from gradients and values |
//! | [`read_values`] | the gradient of δ v |
//! | [`read_keys`] | the gradients of q and k, head by head |
//! | [`decay_gradients`] and the others of its module | the gradients of ln a, v, δ, u and D; sums over the heads of a group |
//!
//! Memory is that of the states at the boundaries of chunks, the scores, and q̄ and k̄ per head.

use cubecl::prelude::*;

use super::chunked::{Entering, Passes};
use super::gradients::{TermsLaunch, UNITS, constant_gradients, decay_gradients, sum_heads, value_gradients};
use super::operands::Variant;
use super::plan::Plan;
use super::read_keys::read_keys;
use super::read_values::read_values;
use super::scores::{Pairs, scores};
use super::staging::Side;
use crate::cube::partial::sum_partials;
use crate::cube::{Client, DType, DeviceBuffer, DeviceRows, Error, cubes};
use crate::decay::DecayScope;
use crate::decay::LogDecay;
use crate::recurrence::problem::{DeviceCotangents, DeviceGradients, DeviceInputs, Problem};
use crate::sequences::Sequences;

/// The gradients of the recurrence (see the module's source for their derivation).
///
/// # Shapes
/// `initial_state` `[batch, heads, key_dim, value_dim]` in f32, zeros if there is none.
///
/// # Errors
/// [`Error`] when a shape or a type is wrong, or when the device cannot run it.
pub fn backward(
    client: &Client,
    problem: &Problem,
    inputs: &DeviceInputs,
    plan: &Plan,
    initial_state: Option<&DeviceBuffer>,
    cotangents: &DeviceCotangents,
) -> Result<DeviceGradients, Error> {
    problem.validate_on_device(inputs, initial_state, Some(cotangents))?;

    let passes = Passes::new(client, problem, inputs, plan)?;
    let (entering, _) = passes.states(initial_state)?;
    let adjoint = passes.per_chunk(problem.head_state_len())?;
    passes.updates(Side::Begin, &cotangents.out, &adjoint, &entering.sums)?;
    let state = passes.pass(cotangents.state.as_ref(), &adjoint, &entering.sums, true)?;

    let token_weights = passes.scores()?;
    let backward = Backward {
        passes: &passes,
        token_weights: &token_weights,
        cotangent: &cotangents.out,
        entering: &entering,
        adjoint: &adjoint,
    };
    let stepped = backward.stepped_values()?;
    let (value, step_size) = backward.values(&stepped)?;
    let (weights, own, terms) = backward.scores()?;
    let query = backward.keys(Side::Begin, &weights)?;
    let key = backward.keys(Side::End, &weights)?;
    let (bonus, skip) = backward.constants(&own)?;
    Ok(DeviceGradients {
        log_decay: backward.log_decay(&query, &key, &terms)?,
        query: backward.sum_heads(&query.gradient, &own, true)?,
        key: backward.sum_heads(&key.gradient, &own, false)?,
        value,
        step_size,
        bonus,
        skip,
        state,
    })
}

/// What the passes of one backward call share.
struct Backward<'a> {
    passes: &'a Passes<'a>,
    /// How strongly the tokens of each chunk read each other.
    token_weights: &'a DeviceBuffer,
    cotangent: &'a DeviceRows,
    entering: &'a Entering,
    /// The gradient of the state after each chunk, `[chunks, heads, key_dim, value_dim]`.
    adjoint: &'a DeviceBuffer,
}

/// The gradient of q or k by heads, and its parts that matter for the decays.
struct KeyGradient {
    /// Gradient by q or k, `[rows, heads, key_dim]`, without the terms of a bonus.
    gradient: DeviceBuffer,
    state_terms: DeviceBuffer,
    pair_terms: DeviceBuffer,
}

impl Backward<'_> {
    /// Memory for `per_row` values of each row; zeros where some rows belong to no sequence.
    fn per_row(&self, per_row: usize, dtype: DType) -> Result<DeviceBuffer, Error> {
        let Passes {
            client,
            problem,
            inputs,
            ..
        } = self.passes;
        let len = problem.rows(&inputs.sequences) * per_row;
        match inputs.sequences {
            Sequences::LeftPadded(_) => DeviceBuffer::zeros(client, len, dtype),
            Sequences::Equal | Sequences::Packed(_) => DeviceBuffer::empty(client, len, dtype),
        }
    }

    /// The gradient of δ v, `[rows, heads, value_dim]`.
    fn stepped_values(&self) -> Result<DeviceBuffer, Error> {
        let passes = self.passes;
        let Problem { heads, value_dim, .. } = *passes.problem;
        let out = self.per_row(heads * value_dim, DType::F32)?;
        let weights = self.token_weights;
        let total = passes.total(value_dim.div_ceil(passes.plan.chunk_size()));
        let [tokens, gates, operands] = passes.types();
        // SAFETY: the shapes were validated, and the kernel stays inside of them.
        unsafe {
            read_values::launch_unchecked(
                passes.client,
                cubes(passes.client, total)?,
                passes.cube_dim(),
                passes.address(&[weights, self.adjoint, &out, self.cotangent.buffer()])?,
                passes.keys(&passes.inputs.key),
                passes.values(self.cotangent),
                passes.inputs.gates(),
                passes.inputs.constants(passes.problem),
                passes.inputs.sizes(passes.problem),
                passes.table.chunks(),
                weights.arg(),
                self.adjoint.arg(),
                out.arg(),
                1.0,
                total,
                Side::End,
                passes.variant.of_decays(),
                passes.plan.tiling(),
                [tokens, gates, operands, DType::F32.elem()],
            );
        }
        Ok(out)
    }

    /// The gradients of v and δ.
    fn values(&self, stepped: &DeviceBuffer) -> Result<(DeviceBuffer, Option<DeviceBuffer>), Error> {
        let passes = self.passes;
        let Problem { heads, value_dim, .. } = *passes.problem;
        let value = self.per_row(heads * value_dim, passes.inputs.query.dtype())?;
        let has_step = passes.inputs.step_size.is_some();
        let gate_type = passes.inputs.gate_type();
        let step_size = match has_step {
            true => self.per_row(heads, gate_type)?,
            // Nothing is written there.
            false => DeviceBuffer::empty(passes.client, 0, gate_type)?,
        };
        let (total, [tokens, gates, _]) = (passes.total(1), passes.types());
        // SAFETY: the shapes were validated, and the kernel stays inside of them.
        unsafe {
            value_gradients::launch_unchecked(
                passes.client,
                cubes(passes.client, total)?,
                CubeDim::new_1d(UNITS as u32),
                passes.address(&[stepped, self.cotangent.buffer()])?,
                passes.inputs.tokens(),
                self.cotangent.view(),
                passes.inputs.gates(),
                passes.inputs.constants(passes.problem),
                passes.inputs.sizes(passes.problem),
                passes.table.chunks(),
                stepped.arg(),
                value.arg(),
                step_size.arg(),
                total,
                Variant {
                    bonus: false,
                    ..passes.variant.without_decays()
                },
                [tokens, gates],
            );
        }
        Ok((value, has_step.then_some(step_size)))
    }

    /// The scores of gradients and values, and, with a bonus, those of each token with itself, `[rows, heads]`,
    /// and, with one decay per head, the terms of pairs of tokens.
    fn scores(&self) -> Result<(DeviceBuffer, DeviceBuffer, DeviceBuffer), Error> {
        let passes = self.passes;
        let size = passes.plan.chunk_size();
        let (total, out) = (passes.total(1), passes.per_chunk(size * size)?);
        let own = match passes.variant.bonus {
            true => self.per_row(passes.problem.heads, DType::F32)?,
            false => DeviceBuffer::empty(passes.client, 0, DType::F32)?,
        };
        let terms = passes.per_chunk(match passes.variant.decay {
            DecayScope::Head => size * size,
            DecayScope::None | DecayScope::Key => 0,
        })?;
        // Decays per key are not in these scores.
        let variant = match passes.variant.decay {
            DecayScope::Key => passes.variant.without_decays(),
            DecayScope::None | DecayScope::Head => passes.variant,
        };
        // SAFETY: the shapes were validated, and the kernel stays inside of them.
        unsafe {
            scores::launch_unchecked(
                passes.client,
                cubes(passes.client, total)?,
                passes.cube_dim(),
                passes.address(&[&out, self.cotangent.buffer()])?,
                passes.values(self.cotangent),
                passes.values(&passes.inputs.value),
                passes.inputs.gates(),
                passes.inputs.constants(passes.problem),
                passes.inputs.sizes(passes.problem),
                passes.table.chunks(),
                self.token_weights.arg(),
                out.arg(),
                own.arg(),
                terms.arg(),
                total,
                Pairs::Gradients,
                Variant {
                    skip: false,
                    ..variant
                },
                passes.plan.tiling(),
                passes.types(),
            );
        }
        Ok((out, own, terms))
    }

    /// Terms of the decays that a head has at one token.
    fn terms_per_head(&self) -> usize {
        let key_dim = self.passes.problem.key_dim;
        match self.passes.variant.decay {
            DecayScope::None => 0,
            DecayScope::Head => key_dim.div_ceil(self.passes.plan.chunk_size()),
            DecayScope::Key => key_dim,
        }
    }

    /// The gradients of q or k, head by head and without the terms of a bonus.
    fn keys(&self, side: Side, weights: &DeviceBuffer) -> Result<KeyGradient, Error> {
        let passes = self.passes;
        let Problem { heads, key_dim, .. } = *passes.problem;
        let out = KeyGradient {
            gradient: self.per_row(heads * key_dim, DType::F32)?,
            state_terms: self.per_row(heads * self.terms_per_head(), DType::F32)?,
            pair_terms: self.per_row(heads * self.terms_per_head(), DType::F32)?,
        };
        let inputs = passes.inputs;
        let (values, [own, other], states, scale) = match side {
            Side::Begin => (
                self.cotangent,
                [&inputs.query, &inputs.key],
                &self.entering.states,
                inputs.scale,
            ),
            Side::End => (&inputs.value, [&inputs.key, &inputs.query], self.adjoint, 1.0),
        };
        let variant = match side {
            Side::Begin => passes.variant.of_reads(),
            Side::End => Variant {
                skip: false,
                ..passes.variant
            },
        };
        let total = passes.total(key_dim.div_ceil(passes.plan.chunk_size()));
        // SAFETY: the shapes were validated, and the kernel stays inside of them.
        unsafe {
            read_keys::launch_unchecked(
                passes.client,
                cubes(passes.client, total)?,
                passes.cube_dim(),
                passes.address(&[weights, states, &out.gradient, values.buffer()])?,
                passes.values(values),
                passes.keys(other),
                passes.keys(own),
                inputs.gates(),
                inputs.sizes(passes.problem),
                passes.table.chunks(),
                weights.arg(),
                states.arg(),
                out.gradient.arg(),
                out.state_terms.arg(),
                out.pair_terms.arg(),
                scale,
                total,
                side,
                variant,
                passes.plan.tiling(),
                passes.types(),
            );
        }
        Ok(out)
    }

    /// The gradient of the log decays.
    fn log_decay(
        &self,
        query: &KeyGradient,
        key: &KeyGradient,
        pairs: &DeviceBuffer,
    ) -> Result<LogDecay<DeviceBuffer, DeviceBuffer>, Error> {
        let passes = self.passes;
        let Problem {
            heads,
            key_dim,
            decay,
            ..
        } = *passes.problem;
        let per_head = decay.values_per_head(key_dim);
        let (is_constant, out, constant) = match &passes.inputs.log_decay {
            LogDecay::None => return Ok(LogDecay::None),
            LogDecay::Constant(values) => {
                let unused = DeviceBuffer::empty(passes.client, 0, values.dtype())?;
                (true, unused, passes.per_chunk(per_head)?)
            }
            LogDecay::Token(rows) => {
                let unused = DeviceBuffer::empty(passes.client, 0, DType::F32)?;
                (false, self.per_row(heads * per_head, rows.dtype())?, unused)
            }
        };
        let total = passes.total(1);
        // SAFETY: the shapes were validated, and the kernel stays inside of them.
        unsafe {
            decay_gradients::launch_unchecked(
                passes.client,
                cubes(passes.client, total)?,
                CubeDim::new_1d(UNITS as u32),
                passes.address(&[&query.gradient, self.adjoint])?,
                passes.inputs.sizes(passes.problem),
                passes.table.chunks(),
                TermsLaunch::new(
                    query.state_terms.arg(),
                    query.pair_terms.arg(),
                    key.state_terms.arg(),
                    key.pair_terms.arg(),
                    self.terms_per_head(),
                ),
                pairs.arg(),
                self.entering.states.arg(),
                self.adjoint.arg(),
                self.entering.sums.arg(),
                out.arg(),
                constant.arg(),
                total,
                is_constant,
                passes.variant.of_reads(),
                passes.plan.chunk_size(),
                passes.inputs.gate_type().elem(),
            );
        }
        if !is_constant {
            return Ok(LogDecay::Token(out));
        }
        self.sum_chunks(&constant, heads * per_head)
            .map(LogDecay::Constant)
    }

    /// Sums `[chunks, size]` over the chunks.
    fn sum_chunks(&self, partial: &DeviceBuffer, size: usize) -> Result<DeviceBuffer, Error> {
        let sums = DeviceBuffer::empty(self.passes.client, size, DType::F32)?;
        sum_partials(
            self.passes.client,
            partial,
            &sums,
            self.passes.table.count(),
            size,
        )?;
        Ok(sums)
    }

    /// Sums a gradient over the heads of each group, and adds the terms of a bonus.
    fn sum_heads(
        &self,
        per_head: &DeviceBuffer,
        own: &DeviceBuffer,
        of_query: bool,
    ) -> Result<DeviceBuffer, Error> {
        let passes = self.passes;
        let Problem { groups, key_dim, .. } = *passes.problem;
        let dtype = passes.inputs.query.dtype();
        let out = self.per_row(groups * key_dim, dtype)?;
        let total = passes.table.count() * groups;
        // SAFETY: the shapes were validated, and the kernel stays inside of them.
        unsafe {
            sum_heads::launch_unchecked(
                passes.client,
                cubes(passes.client, total)?,
                CubeDim::new_1d(UNITS as u32),
                passes.address(&[per_head])?,
                passes.inputs.tokens(),
                passes.inputs.constants(passes.problem),
                passes.inputs.sizes(passes.problem),
                passes.table.chunks(),
                per_head.arg(),
                own.arg(),
                out.arg(),
                total,
                of_query,
                passes.variant.of_reads().without_decays(),
                dtype.elem(),
            );
        }
        Ok(out)
    }

    /// The gradients of bonus and skip.
    fn constants(&self, own: &DeviceBuffer) -> Result<(Option<DeviceBuffer>, Option<DeviceBuffer>), Error> {
        let passes = self.passes;
        let Problem {
            heads,
            key_dim,
            value_dim,
            ..
        } = *passes.problem;
        if !passes.variant.bonus && !passes.variant.skip {
            return Ok((None, None));
        }
        let bonus = passes.per_chunk(if passes.variant.bonus { key_dim } else { 0 })?;
        let skip = passes.per_chunk(if passes.variant.skip { value_dim } else { 0 })?;
        let total = passes.total(1);
        // SAFETY: the shapes were validated, and the kernel stays inside of them.
        unsafe {
            constant_gradients::launch_unchecked(
                passes.client,
                cubes(passes.client, total)?,
                CubeDim::new_1d(UNITS as u32),
                passes.address(&[&bonus, &skip, self.cotangent.buffer()])?,
                passes.inputs.tokens(),
                self.cotangent.view(),
                passes.inputs.sizes(passes.problem),
                passes.table.chunks(),
                own.arg(),
                bonus.arg(),
                skip.arg(),
                total,
                Variant {
                    step_size: false,
                    ..passes.variant.without_decays()
                },
                passes.inputs.query.dtype().elem(),
            );
        }
        let bonus = match passes.variant.bonus {
            true => Some(self.sum_chunks(&bonus, heads * key_dim)?),
            false => None,
        };
        let skip = match &passes.inputs.skip {
            None => None,
            Some(given) => {
                let per_value = self.sum_chunks(&skip, heads * value_dim)?;
                // A skip of as many values as heads is one per head, whatever the number of values.
                if given.len() == heads && value_dim != 1 {
                    let per_head = DeviceBuffer::empty(passes.client, heads, DType::F32)?;
                    sum_partials(passes.client, &per_value, &per_head, value_dim, 1)?;
                    Some(per_head)
                } else {
                    Some(per_value)
                }
            }
        };
        Ok((bonus, skip))
    }
}
