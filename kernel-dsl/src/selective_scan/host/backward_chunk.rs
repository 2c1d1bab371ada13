//! The gradients of one chunk of tokens of one segment of channels.

use std::ops::Range;

use pulp::Simd;

use super::Segment;
use crate::math;
use crate::rows::Rows;
use crate::simd::{mul_add, mul_add_one};
use crate::vector::{Scratch, SharedRows, exp2_m1, load, store};

/// State values that are worked on at once: their adjoints and the sums of ∂A stay in registers.
const BLOCK: usize = 4;
/// What a vector of channels has per token: Δ, Δ u, ȳ, Σ λ B, Σ λ a h A and C·h.
const TOKEN: usize = 6;
const STEP: usize = 0;
const PRODUCT: usize = 1;
const BY_PRODUCT: usize = 3;
const BY_EXPONENT: usize = 4;
const READ_OUT: usize = 5;

type Tokens<S> = [<S as Simd>::f32s; TOKEN];
type Pair<S> = [<S as Simd>::f32s; 2];

/// What runs through all chunks of a segment, in vectors `[channels / lanes, state_dim]`.
pub(super) struct Sums<'a, S: Simd> {
    /// a_{t+1} λ_{t+1} of the chunk that follows.
    pub(super) adjoint: &'a mut [S::f32s],
    /// ∂A of this segment, summed over the chunks so far.
    pub(super) a: &'a mut [S::f32s],
}

/// Where segments leave their gradients. Those of b and c have the rows of each place in a group one after another.
pub(super) struct Sinks<'a> {
    pub(super) input: SharedRows<'a>,
    pub(super) step_size: SharedRows<'a>,
    pub(super) gate: Option<SharedRows<'a>>,
    pub(super) state: SharedRows<'a>,
    pub(super) b: SharedRows<'a>,
    pub(super) c: SharedRows<'a>,
    pub(super) a: SharedRows<'a>,
    pub(super) skip: SharedRows<'a>,
    pub(super) rows: usize,
}

/// A chunk's workspace. Rows of the segment are copied here and back, since a vector of channels at a time would fetch a line
/// of each row from far away.
pub(super) struct Chunk<'a> {
    segment: Segment<'a>,
    sinks: &'a Sinks<'a>,
    /// Channels of the segment, rounded up to whole vectors.
    width: usize,
    /// u, then ∂u; `[tokens, width]` as the next three.
    input: Vec<f32>,
    /// Step sizes Δ, then ∂Δ.
    step: Vec<f32>,
    /// Cotangent ȳ of y before the gate, ō SiLU(z).
    ungated: Vec<f32>,
    /// y before the gate.
    read_out: Vec<f32>,
    /// ∂D so far, `[width]`.
    skip: Vec<f32>,
    /// a_t − 1 and a_t h_{t-1} of some state values of a vector of channels, `[tokens, BLOCK, 2]`.
    states: Scratch,
    /// `[tokens, TOKEN]` of a vector of channels.
    tokens: Scratch,
    /// Lane-wise sums of ∂B and ∂C, `[tokens, state_dim, 2]`.
    group: Scratch,
}

/// A vector of channels in a chunk.
struct Vector<'a, S: Simd> {
    rows: Range<usize>,
    /// First channel, counted from the segment's.
    first: usize,
    /// A of the channels, `[state_dim]` as the next three.
    a: &'a [S::f32s],
    boundary: &'a [S::f32s],
    adjoint: &'a mut [S::f32s],
    a_sums: &'a mut [S::f32s],
}

impl<'a> Chunk<'a> {
    pub(super) fn new<S: Simd>(segment: &Segment<'a>, chunk_size: usize, sinks: &'a Sinks<'a>) -> Self {
        let width = segment.count.next_multiple_of(S::F32_LANES);
        let rows = || vec![0.0; chunk_size * width];
        Self {
            segment: *segment,
            sinks,
            width,
            input: rows(),
            step: rows(),
            ungated: rows(),
            read_out: rows(),
            skip: vec![0.0; width],
            states: Scratch::new::<S>(chunk_size * BLOCK * 2),
            tokens: Scratch::new::<S>(chunk_size * TOKEN),
            group: Scratch::new::<S>(chunk_size * segment.problem.state_dim * 2),
        }
    }

    /// Adds the gradients of the tokens `rows`, whose first finds the states `boundary`.
    #[inline(always)]
    pub(super) fn run<S: Simd>(
        &mut self,
        simd: S,
        rows: Range<usize>,
        cotangent: &Rows,
        (a, boundary): (&[S::f32s], &[S::f32s]),
        sums: Sums<S>,
    ) {
        let n = self.segment.problem.state_dim;
        self.load_rows(simd, rows.clone(), cotangent);
        self.group.vectors::<S>().fill(simd.splat_f32s(0.0));
        for v in 0..self.width / S::F32_LANES {
            let of_vector = v * n..(v + 1) * n;
            let vector = Vector {
                rows: rows.clone(),
                first: v * S::F32_LANES,
                a: &a[of_vector.clone()],
                boundary: &boundary[of_vector.clone()],
                adjoint: &mut sums.adjoint[of_vector.clone()],
                a_sums: &mut sums.a[of_vector],
            };
            self.vector::<S>(simd, vector);
        }
        self.store_group(simd, rows.clone());
        self.store_gate(simd, rows.clone(), cotangent);
        self.store_rows(rows);
    }

    /// Copies u and Δ; ȳ ← ō SiLU(z); ∂D += ȳ u.
    #[inline(always)]
    fn load_rows<S: Simd>(&mut self, simd: S, rows: Range<usize>, cotangent: &Rows) {
        let (segment, width, count) = (self.segment, self.width, self.segment.count);
        for (t, row) in rows.enumerate() {
            let at = t * width..t * width + count;
            let input = &mut self.input[at.clone()];
            input.copy_from_slice(segment.input(row));
            self.step[at.clone()].copy_from_slice(segment.step_size(row));
            let ungated = &mut self.ungated[at];
            ungated.copy_from_slice(&cotangent.row(row)[segment.channels()]);
            if let Some(gate) = segment.gate(row) {
                for (y, z) in ungated.iter_mut().zip(gate) {
                    *y *= math::silu(simd, *z);
                }
            }
            for ((sum, y), u) in self.skip.iter_mut().zip(ungated).zip(input) {
                *sum = mul_add_one(simd, *y, *u, *sum);
            }
        }
    }

    /// The gradients of one vector of channels: ∂u = Δ Σ λ B + D ȳ and ∂Δ = u Σ λ B + Σ λ a h A replace u and Δ.
    #[inline(always)]
    fn vector<S: Simd>(&mut self, simd: S, mut vector: Vector<S>) {
        let (segment, width, first) = (self.segment, self.width, vector.first);
        let (n, count) = (segment.problem.state_dim, vector.rows.len());
        let (tokens, _) = self.tokens.vectors::<S>().as_chunks_mut::<TOKEN>();
        let tokens = &mut tokens[..count];
        let (states, _) = self.states.vectors::<S>().as_chunks_mut::<2>();
        let (group, _) = self.group.vectors::<S>().as_chunks_mut::<2>();
        for (t, token) in tokens.iter_mut().enumerate() {
            let at = t * width + first;
            let (step, input) = (
                load::<S, false>(simd, &self.step[at..]),
                load::<S, false>(simd, &self.input[at..]),
            );
            let ungated = load::<S, false>(simd, &self.ungated[at..]);
            let zero = simd.splat_f32s(0.0);
            *token = [step, simd.mul_f32s(step, input), ungated, zero, zero, zero];
        }
        let whole = n / BLOCK * BLOCK;
        for at in (0..whole).step_by(BLOCK) {
            recompute::<S, BLOCK>(simd, &segment, &vector, at, (tokens, states));
            block::<S, BLOCK>(simd, &segment, &mut vector, at, (tokens, states), group);
        }
        for at in whole..n {
            recompute::<S, 1>(simd, &segment, &vector, at, (tokens, states));
            block::<S, 1>(simd, &segment, &mut vector, at, (tokens, states), group);
        }
        let skip = match segment.skip() {
            Some(skip) if first + S::F32_LANES <= skip.len() => load::<S, false>(simd, &skip[first..]),
            Some(skip) => load::<S, true>(simd, &skip[first..]),
            None => simd.splat_f32s(0.0),
        };
        for (t, token) in tokens.iter().enumerate() {
            let at = t * width + first;
            let [step, _, ungated, by_product, by_exponent, read_out] = *token;
            let input = load::<S, false>(simd, &self.input[at..]);
            let by_input = mul_add(simd, step, by_product, simd.mul_f32s(skip, ungated));
            store::<S, false>(
                simd,
                &mut self.read_out[at..],
                mul_add(simd, skip, input, read_out),
            );
            store::<S, false>(simd, &mut self.input[at..], by_input);
            store::<S, false>(
                simd,
                &mut self.step[at..],
                mul_add(simd, input, by_product, by_exponent),
            );
        }
    }

    /// Writes ∂u and ∂Δ of some rows to the gradients.
    #[inline(always)]
    fn store_rows(&self, rows: Range<usize>) {
        for (t, row) in rows.enumerate() {
            let at = t * self.width..t * self.width + self.segment.count;
            // SAFETY: one call handles all rows of this segment, and no two segments share channels of a sequence.
            let (of_input, of_step) = unsafe {
                (
                    self.sinks.input.part(row, self.segment.channels()),
                    self.sinks.step_size.part(row, self.segment.channels()),
                )
            };
            of_input.copy_from_slice(&self.input[at.clone()]);
            of_step.copy_from_slice(&self.step[at]);
        }
    }

    /// ∂B and ∂C of this segment's place in its group.
    #[inline(always)]
    fn store_group<S: Simd>(&mut self, simd: S, rows: Range<usize>) {
        let (segment, n) = (self.segment, self.segment.problem.state_dim);
        let group = self.group.vectors::<S>();
        for (t, row) in rows.enumerate() {
            let row = segment.place * self.sinks.rows + row;
            // SAFETY: no two segments share place, group and sequence.
            let (b, c) = unsafe {
                (
                    self.sinks.b.part(row, segment.group_values()),
                    self.sinks.c.part(row, segment.group_values()),
                )
            };
            let sums = group[t * n * 2..(t + 1) * n * 2].chunks_exact(2);
            for ((b, c), sums) in b.iter_mut().zip(c).zip(sums) {
                *b = simd.reduce_sum_f32s(sums[0]);
                *c = simd.reduce_sum_f32s(sums[1]);
            }
        }
    }

    /// ∂z = ō y SiLU'(z), with SiLU'(z) = σ(z) (1 + z (1 − σ(z))).
    #[inline(always)]
    fn store_gate<S: Simd>(&self, simd: S, rows: Range<usize>, cotangent: &Rows) {
        let (Some(sink), segment) = (self.sinks.gate, self.segment) else {
            return;
        };
        for (row, read_out) in rows.zip(self.read_out.chunks_exact(self.width)) {
            let Some(gate) = segment.gate(row) else { return };
            // SAFETY: one call handles all rows of this segment, and no two segments share channels of a sequence.
            let of_gate = unsafe { sink.part(row, segment.channels()) };
            let cotangent = &cotangent.row(row)[segment.channels()];
            for (((of_gate, z), y), out) in of_gate.iter_mut().zip(gate).zip(read_out).zip(cotangent) {
                let sigmoid = math::sigmoid(simd, *z);
                *of_gate = out * y * sigmoid * mul_add_one(simd, *z, 1.0 - sigmoid, 1.0);
            }
        }
    }

    /// ∂D of this segment and sequence.
    pub(super) fn store_skip(&self) {
        // SAFETY: one call handles this segment, and no two segments share channels of a sequence.
        let skip = unsafe {
            self.sinks
                .skip
                .part(self.segment.sequence, self.segment.channels())
        };
        skip.copy_from_slice(&self.skip[..self.segment.count]);
    }
}

/// Runs `W` state values from `at` on forward through a chunk, keeping a_t − 1 and a_t h_{t-1}, and adds to C·h.
#[inline(always)]
fn recompute<S: Simd, const W: usize>(
    simd: S,
    segment: &Segment,
    vector: &Vector<S>,
    at: usize,
    (tokens, states): (&mut [Tokens<S>], &mut [Pair<S>]),
) {
    let log2_e = simd.splat_f32s(std::f32::consts::LOG2_E);
    let mut h = vector.boundary[at..at + W].as_chunks::<W>().0[0];
    let a = vector.a[at..at + W].as_chunks::<W>().0[0];
    let (states, _) = states.as_chunks_mut::<W>();
    for ((row, token), states) in vector.rows.clone().zip(tokens).zip(states) {
        let (b, c) = (&segment.b(row)[at..at + W], &segment.c(row)[at..at + W]);
        let exponent = simd.mul_f32s(token[STEP], log2_e);
        let mut read_out = token[READ_OUT];
        for i in 0..W {
            let change = exp2_m1(simd, simd.mul_f32s(exponent, a[i]));
            let decayed = mul_add(simd, change, h[i], h[i]);
            h[i] = mul_add(simd, token[PRODUCT], simd.splat_f32s(b[i]), decayed);
            read_out = mul_add(simd, h[i], simd.splat_f32s(c[i]), read_out);
            states[i] = [change, decayed];
        }
        token[READ_OUT] = read_out;
    }
}

/// The contributions of `W` state values from `at` on, from the last token of the chunk to the first.
#[inline(always)]
fn block<S: Simd, const W: usize>(
    simd: S,
    segment: &Segment,
    vector: &mut Vector<S>,
    at: usize,
    (tokens, states): (&mut [Tokens<S>], &[Pair<S>]),
    group: &mut [Pair<S>],
) {
    let n = segment.problem.state_dim;
    let mut adjoint = vector.adjoint[at..at + W].as_chunks::<W>().0[0];
    let mut a_sums = vector.a_sums[at..at + W].as_chunks::<W>().0[0];
    let a = vector.a[at..at + W].as_chunks::<W>().0[0];
    let (states, _) = states.as_chunks::<W>();
    for t in (0..vector.rows.len()).rev() {
        let row = vector.rows.start + t;
        let (b, c) = (&segment.b(row)[at..at + W], &segment.c(row)[at..at + W]);
        let [step, product, ungated, mut by_product, mut by_exponent, _] = tokens[t];
        let group = &mut group[t * n + at..][..W];
        for i in 0..W {
            let (b, c) = (simd.splat_f32s(b[i]), simd.splat_f32s(c[i]));
            let [change, decayed] = states[t][i];
            let h = mul_add(simd, product, b, decayed);
            let lambda = mul_add(simd, ungated, c, adjoint[i]);
            group[i][0] = mul_add(simd, lambda, product, group[i][0]);
            group[i][1] = mul_add(simd, ungated, h, group[i][1]);
            by_product = mul_add(simd, lambda, b, by_product);
            let exponent = simd.mul_f32s(lambda, decayed);
            by_exponent = mul_add(simd, exponent, a[i], by_exponent);
            a_sums[i] = mul_add(simd, exponent, step, a_sums[i]);
            adjoint[i] = mul_add(simd, lambda, change, lambda);
        }
        tokens[t][BY_PRODUCT] = by_product;
        tokens[t][BY_EXPONENT] = by_exponent;
    }
    vector.adjoint[at..at + W].copy_from_slice(&adjoint);
    vector.a_sums[at..at + W].copy_from_slice(&a_sums);
}
