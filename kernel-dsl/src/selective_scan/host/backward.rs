//! Gradients: states kept at chunk boundaries on the way forward, recomputed inside each chunk on the way back.

use pulp::{Simd, WithSimd};

use super::backward_chunk::{Chunk, Sinks, Sums};
use super::forward::{token, transpose_in, transpose_out};
use super::{Segment, Segments};
use crate::selective_scan::problem::{Cotangents, Gradients, Inputs, Problem, ScanError};
use crate::sequences::Sequences;
use crate::simd::dispatch;
use crate::vector::{Scratch, SharedRows};

/// Tokens in a chunk where a caller has no wish: what a chunk recomputes stays in the first cache.
pub const DEFAULT_CHUNK_SIZE: usize = 32;

/// The gradients of a loss by every input, from its cotangents by output and final state.
///
/// With λ_t the derivative by h_t, ȳ_t = ō_t SiLU(z_t) that by the output before the gate, and a_t = exp(Δ_t A):
///
/// ```text
/// λ_t  = C_t ȳ_t + a_{t+1} λ_{t+1}                      ∂C_t += ȳ_t h_t              (summed over the group's channels)
/// ∂B_t += λ_t Δ_t u_t                                    ∂u_t  = Δ_t Σ_n λ_t B_t + D ȳ_t
/// ∂Δ_t  = u_t Σ_n λ_t B_t + Σ_n λ_t a_t h_{t-1} A        ∂A   += λ_t a_t h_{t-1} Δ_t
/// ∂D   += ȳ_t u_t                                        ∂z_t  = ō_t y_t SiLU'(z_t)
/// ```
///
/// The recurrence of λ is the transpose of that of h, since h_{t+1} depends on h_t by a_{t+1} alone; the others follow from
/// h_t = a_t h_{t-1} + Δ_t u_t B_t by the product rule, with ∂a_t/∂Δ_t = a_t A and ∂a_t/∂A = a_t Δ_t. Only the products
/// a_t h_{t-1} appear, never a quotient by a decay. Each thread keeps one state per `chunk_size` tokens and what a chunk
/// recomputes; states of all tokens never exist.
///
/// # Shapes
/// `initial_state` `[batch, channels, state_dim]`; [`Gradients`] has the others. Rows of no sequence get 0.
///
/// # Errors
/// [`ScanError`] when a shape is wrong or `chunk_size` is 0; then no gradient has changed.
pub fn backward(
    problem: &Problem,
    inputs: &Inputs,
    chunk_size: usize,
    initial_state: &[f32],
    cotangents: &Cotangents,
    gradients: &mut Gradients,
) -> Result<(), ScanError> {
    problem.validate_backward(inputs, initial_state.len(), cotangents, gradients)?;
    if chunk_size == 0 {
        return Err(ScanError::EmptyChunk);
    }
    if matches!(inputs.sequences, Sequences::LeftPadded(_)) {
        clear_rows(gradients);
    }
    let Problem {
        batch,
        channels,
        state_dim,
        groups,
        ..
    } = *problem;
    let segments = Segments::new(problem, inputs);
    let (per_group, rows) = (segments.per_group, problem.rows(&inputs.sequences));
    // Sums that cross segments or sequences are left by each in a place of its own and added in order afterwards.
    let mut b_parts = vec![0.0; per_group * gradients.b.len()];
    let mut c_parts = vec![0.0; per_group * gradients.c.len()];
    let mut a_parts = vec![0.0; batch * channels * state_dim];
    let mut skip_parts = vec![0.0; batch * channels];
    let sinks = Sinks {
        input: SharedRows::new(gradients.input, channels),
        step_size: SharedRows::new(gradients.step_size, channels),
        gate: gradients
            .gate
            .as_deref_mut()
            .map(|gate| SharedRows::new(gate, channels)),
        state: SharedRows::new(gradients.state, channels * state_dim),
        b: SharedRows::new(&mut b_parts, groups * state_dim),
        c: SharedRows::new(&mut c_parts, groups * state_dim),
        a: SharedRows::new(&mut a_parts, channels * state_dim),
        skip: SharedRows::new(&mut skip_parts, channels),
        rows,
    };
    segments.for_each(|segment| {
        dispatch(SegmentBackward {
            segment,
            chunk_size,
            initial_state,
            cotangents,
            sinks: &sinks,
        });
    });
    sum_parts(&b_parts, gradients.b);
    sum_parts(&c_parts, gradients.c);
    sum_parts(&a_parts, gradients.a);
    if let Some(skip) = gradients.skip.as_deref_mut() {
        sum_parts(&skip_parts, skip);
    }
    Ok(())
}

/// Rows of no sequence are never visited.
fn clear_rows(gradients: &mut Gradients) {
    gradients.input.fill(0.0);
    gradients.step_size.fill(0.0);
    if let Some(gate) = gradients.gate.as_deref_mut() {
        gate.fill(0.0);
    }
}

/// sum ← Σ parts, in the order in which they lie.
fn sum_parts(parts: &[f32], sum: &mut [f32]) {
    sum.fill(0.0);
    if sum.is_empty() {
        return;
    }
    for part in parts.chunks_exact(sum.len()) {
        for (sum, x) in sum.iter_mut().zip(part) {
            *sum += x;
        }
    }
}

/// The gradients of one segment.
struct SegmentBackward<'a> {
    segment: Segment<'a>,
    chunk_size: usize,
    initial_state: &'a [f32],
    cotangents: &'a Cotangents<'a>,
    sinks: &'a Sinks<'a>,
}

impl WithSimd for SegmentBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            segment,
            cotangents,
            sinks,
            ..
        } = self;
        let (n, span) = (segment.problem.state_dim, segment.span());
        let of_state = {
            let start = segment.sequence * segment.problem.channels * n;
            start + segment.state_values().start..start + segment.state_values().end
        };
        let vectors = segment.count.div_ceil(S::F32_LANES);
        let values = vectors * n;
        let chunk_size = self.chunk_size.min(span.len()).max(1);
        let chunks = span.len().div_ceil(chunk_size);
        let mut scratch = Scratch::new::<S>(values * (chunks + 4));
        let (a, rest) = scratch.vectors::<S>().split_at_mut(values);
        let (adjoint, rest) = rest.split_at_mut(values);
        let (a_sums, boundaries) = rest.split_at_mut(values);
        transpose_in::<S>(segment.a(), n, a);
        transpose_in::<S>(&self.initial_state[of_state.clone()], n, boundaries);
        keep_boundaries(simd, &segment, chunk_size, a, boundaries);
        if let Some(state) = cotangents.state {
            transpose_in::<S>(&state[of_state], n, adjoint);
        }
        let mut chunk = Chunk::new::<S>(&segment, chunk_size, sinks);
        for index in (0..chunks).rev() {
            let first = span.start + index * chunk_size;
            let rows = first..span.end.min(first + chunk_size);
            let boundary = &boundaries[index * values..(index + 1) * values];
            let sums = Sums::<S> { adjoint, a: a_sums };
            chunk.run(simd, rows, &cotangents.out, (a, boundary), sums);
        }
        chunk.store_skip();
        // SAFETY: one call handles this segment, and no two segments share channels of a sequence.
        let (state, a) = unsafe {
            (
                sinks.state.part(segment.sequence, segment.state_values()),
                sinks.a.part(segment.sequence, segment.state_values()),
            )
        };
        transpose_out::<S>(adjoint, n, state);
        transpose_out::<S>(a_sums, n, a);
    }
}

/// Fills `boundaries[i]` with the states before chunk i, from those before the first; the last chunk needs no run.
#[inline(always)]
fn keep_boundaries<S: Simd>(
    simd: S,
    segment: &Segment,
    chunk_size: usize,
    a: &[S::f32s],
    boundaries: &mut [S::f32s],
) {
    let (span, values) = (segment.span(), a.len());
    for index in 1..span.len().div_ceil(chunk_size) {
        let (before, after) = boundaries.split_at_mut(index * values);
        let h = &mut after[..values];
        h.copy_from_slice(&before[(index - 1) * values..]);
        let first = span.start + (index - 1) * chunk_size;
        for row in first..first + chunk_size {
            token::<S, false>(simd, segment, row, (a, h), &mut []);
        }
    }
}
