//! The gradients of the delta rule, block by block from the last.
//!
//! In a block (see [`block`](super::block) for its names), with G the derivative by S_n and dY that by Y:
//!
//! ```text
//! dW = qxᵀ dY + X̄ G          W solves W = ∓U + …, so dW is first taken through the transposed system; then dU = ∓dW
//! dV = dW (delta), or pkᵀ dU + qkᵀ dY + K̄ G (low rank)
//! dpx = dU Wᵀ   dqx = dY Wᵀ   dP̃ = dU S₀ᵀ   dQ̃ = dY S₀ᵀ   dX̄ = W Gᵀ      dpk, dqk, dK̄ likewise with V for W
//! dS₀ = d(n, 0)∘G + P̃ᵀ dU + Q̃ᵀ dY
//! ```
//!
//! The [`Decays`] take these back to q, p, x, k and ln a, each of whose terms is a product of factors at most 1 and
//! cotangents: no difference of sums over the whole block is formed. Last come the inputs that these were made of
//! ([`input_gradients`](super::input_gradients)).
//!
//! States are kept at the borders of chunks; those of the blocks inside are computed again.

use pulp::{Simd, WithSimd};

use super::block::{Block, substitute};
use super::by_head::ByHead;
use super::by_key::ByKey;
use super::input_gradients::{SharedGradients, WriteGates};
use super::lanes::dot;
use super::parts::{Decays, GateGradients, PartCotangents};
use super::{Head, SharedRows, check_chunk_size, for_each_part, rows_as_matrix};
use crate::decay::DecayScope;
use crate::delta_rule::problem::{Cotangents, DeltaRuleError, Gradients, Inputs, Problem};
use crate::matrix::{Destination, Matrix, MatrixMut, multiply};
use crate::simd::dispatch;

/// The gradients of ⟨`cotangents`, results⟩ by every input, where the results are output and final state.
///
/// # Shapes
/// `initial_state` `[batch, heads, key_dim, value_dim]`; gradients as [`Gradients`] says, 0 in rows that belong to no
/// sequence. Besides them it takes memory for one state per `chunk_size` tokens of the sequences that run at a time.
///
/// # Errors
/// [`DeltaRuleError`] when a shape is wrong or `chunk_size` is 0; then nothing has changed.
pub fn backward(
    problem: &Problem,
    inputs: &Inputs,
    chunk_size: usize,
    initial_state: &[f32],
    cotangents: &Cotangents,
    gradients: &mut Gradients,
) -> Result<(), DeltaRuleError> {
    problem.validate_backward(inputs, initial_state.len(), cotangents, gradients)?;
    check_chunk_size(chunk_size)?;
    let (shared, state) = SharedGradients::new(problem, gradients);
    // Heads of a group add to the same gradients: one thread takes them in order.
    let len = (problem.heads / problem.groups) * problem.head_state_len();
    if len == 0 {
        state.fill(0.0);
        return Ok(());
    }
    for_each_part(problem, state, len, |index, states| {
        let head_len = problem.head_state_len();
        for (i, g) in states.chunks_exact_mut(head_len).enumerate() {
            let index = index * (problem.heads / problem.groups) + i;
            let head = Head::at(problem, inputs, index);
            let state = index * head_len..(index + 1) * head_len;
            match cotangents.state {
                Some(cotangent) => g.copy_from_slice(&cotangent[state.clone()]),
                None => g.fill(0.0),
            }
            let initial = &initial_state[state];
            match problem.decay.scope() {
                DecayScope::None | DecayScope::Head => {
                    Sweep::<ByHead>::new(head, chunk_size, cotangents, shared).run(initial, g);
                }
                DecayScope::Key => {
                    Sweep::<ByKey>::new(head, chunk_size, cotangents, shared).run(initial, g);
                }
            }
        }
    });
    Ok(())
}

/// The backward pass of one head.
struct Sweep<'a, D> {
    head: Head<'a>,
    /// Tokens between states that are kept.
    chunk_size: usize,
    /// Tokens in a block.
    block_size: usize,
    out: Cotangents<'a>,
    gradients: SharedGradients<'a>,
    block: Block<D>,
    /// dW, then dU, `[n, value_dim]`.
    dw: Vec<f32>,
    parts: PartCotangents,
    gates: GateGradients,
}

impl<'a, D: Decays> Sweep<'a, D> {
    fn new(head: Head<'a>, chunk_size: usize, out: &Cotangents<'a>, gradients: SharedGradients<'a>) -> Self {
        let Problem {
            key_dim, value_dim, ..
        } = *head.problem;
        let chunk_size = chunk_size.min(head.time.max(1));
        let size = D::block_size(chunk_size);
        let vectors = || vec![0.0; size * key_dim];
        let products = || vec![0.0; size * size];
        Self {
            head,
            chunk_size,
            block_size: size,
            out: *out,
            gradients,
            block: Block::new(size, key_dim, value_dim, true),
            dw: vec![0.0; size * value_dim],
            parts: PartCotangents {
                read_p: vectors(),
                read_q: vectors(),
                end_x: vectors(),
                end_k: vectors(),
                px: products(),
                qx: products(),
                pk: products(),
                qk: products(),
                decay: vec![0.0; key_dim],
            },
            gates: GateGradients {
                q: vectors(),
                p: vectors(),
                x: vectors(),
                k: vectors(),
                log_decay: vectors(),
            },
        }
    }

    /// Takes `g` from the derivative by the final state to that by the initial one.
    fn run(mut self, initial: &[f32], g: &mut [f32]) {
        let len = initial.len();
        let (time, chunk_size, block_size) = (self.head.time, self.chunk_size, self.block_size);
        let chunks = time.div_ceil(chunk_size);
        let mut borders = vec![0.0; chunks * len];
        let mut state = initial.to_vec();
        for (chunk, border) in borders.chunks_exact_mut(len).enumerate() {
            border.copy_from_slice(&state);
            if chunk + 1 < chunks {
                let tokens = (chunk * chunk_size, chunk_size);
                for block in blocks(tokens, block_size) {
                    self.forward(block, &mut state);
                }
            }
        }
        let mut states = vec![0.0; chunk_size.div_ceil(block_size) * len];
        for (chunk, border) in borders.chunks_exact(len).enumerate().rev() {
            let first = chunk * chunk_size;
            let tokens = (first, chunk_size.min(time - first));
            state.copy_from_slice(border);
            let count = blocks(tokens, block_size).count();
            for (i, block) in blocks(tokens, block_size).enumerate() {
                states[i * len..][..len].copy_from_slice(&state);
                if i + 1 < count {
                    self.forward(block, &mut state);
                }
            }
            for (i, block) in blocks(tokens, block_size).enumerate().rev() {
                self.block_backward(block, &states[i * len..][..len], g);
            }
        }
    }

    fn forward(&mut self, tokens: (usize, usize), state: &mut [f32]) {
        self.block.solve(self.head, tokens, state, false);
        self.block.advance(self.head, tokens, state);
    }

    /// Adds the gradients of one block, which `state` enters; `g` goes from its end to its beginning.
    fn block_backward(&mut self, tokens: (usize, usize), state: &[f32], g: &mut [f32]) {
        self.block.solve(self.head, tokens, state, true);
        self.solve_transposed(tokens, g);
        self.part_cotangents(tokens, state, g);
        self.state_cotangent(tokens, g);
        D::backward(
            &mut self.block.decays,
            self.head,
            tokens,
            &self.block.parts,
            &mut self.parts,
            &mut self.gates,
        );
        dispatch(WriteGates {
            head: self.head,
            tokens,
            parts: &self.block.parts,
            gates: &self.gates,
            gradients: self.gradients,
        });
    }

    /// Cotangent dY of the outputs of a block's tokens, `[n, value_dim]`.
    fn out_cotangent(&self, (first, n): (usize, usize)) -> Matrix<'a> {
        let rows = (self.head.row(first), n);
        rows_as_matrix(
            &self.out.out,
            rows,
            self.head.value_column(),
            self.head.problem.value_dim,
        )
    }

    /// dW through the transposed system; writes dV and leaves dU in `dw`.
    fn solve_transposed(&mut self, tokens: (usize, usize), g: &[f32]) {
        let (head, n) = (self.head, tokens.1);
        let Problem {
            key_dim, value_dim, ..
        } = *head.problem;
        let dy = self.out_cotangent(tokens);
        let parts = &self.block.parts;
        let products = |values| Matrix::new(values, n, n, n);
        let g = Matrix::new(g, key_dim, value_dim, value_dim);
        {
            let mut dw = MatrixMut::new(&mut self.dw, n, value_dim, value_dim);
            let end_x = Matrix::new(&parts.end_x, n, key_dim, key_dim);
            multiply(
                &mut dw,
                Destination::Overwrite,
                products(&parts.qx).transposed(),
                dy,
            );
            multiply(&mut dw, Destination::Scale(1.0), end_x, g);
        }
        dispatch(SubstituteTransposed {
            head,
            tokens,
            px: &parts.px,
            dw: &mut self.dw,
            value: self.gradients.value,
        });
        if head.is_low_rank() {
            let rows = (head.row(tokens.0), n);
            // SAFETY: one thread takes this head of this sequence through its blocks, and this is its only access now.
            let mut dv = unsafe { self.gradients.value.matrix(rows, head.value_column(), value_dim) };
            let du = Matrix::new(&self.dw, n, value_dim, value_dim);
            let end_k = Matrix::new(&parts.end_k, n, key_dim, key_dim);
            multiply(
                &mut dv,
                Destination::Overwrite,
                products(&parts.pk).transposed(),
                du,
            );
            multiply(
                &mut dv,
                Destination::Scale(1.0),
                products(&parts.qk).transposed(),
                dy,
            );
            multiply(&mut dv, Destination::Scale(1.0), end_k, g);
        }
    }

    /// The derivatives by all parts.
    fn part_cotangents(&mut self, tokens: (usize, usize), state: &[f32], g: &[f32]) {
        let (head, n) = (self.head, tokens.1);
        let Problem {
            key_dim, value_dim, ..
        } = *head.problem;
        let dy = self.out_cotangent(tokens);
        let rows = |values| Matrix::new(values, n, value_dim, value_dim);
        let (du, w) = (rows(&self.dw), rows(&self.block.w));
        let states = |values| Matrix::new(values, key_dim, value_dim, value_dim);
        let product = |into: &mut [f32], cols: usize, a: Matrix, b: Matrix| {
            multiply(
                &mut MatrixMut::new(into, n, cols, cols),
                Destination::Overwrite,
                a,
                b.transposed(),
            );
        };
        let parts = &mut self.parts;
        product(&mut parts.px, n, du, w);
        product(&mut parts.qx, n, dy, w);
        product(&mut parts.read_p, key_dim, du, states(state));
        product(&mut parts.read_q, key_dim, dy, states(state));
        product(&mut parts.end_x, key_dim, w, states(g));
        if head.is_low_rank() {
            let v = head.values(tokens);
            product(&mut parts.pk, n, du, v);
            product(&mut parts.qk, n, dy, v);
            product(&mut parts.end_k, key_dim, v, states(g));
        }
        dispatch(RowDots {
            a: state,
            b: g,
            into: &mut parts.decay,
        });
    }

    /// Replaces G, the derivative by S_n, by dS₀, the derivative by the state that enters the block.
    fn state_cotangent(&mut self, tokens: (usize, usize), g: &mut [f32]) {
        let (n, parts) = (tokens.1, &self.block.parts);
        let Problem {
            key_dim, value_dim, ..
        } = *self.head.problem;
        dispatch(super::block::DecayState { state: g, parts });
        let mut g = MatrixMut::new(g, key_dim, value_dim, value_dim);
        let vectors = |values| Matrix::new(values, n, key_dim, key_dim).transposed();
        let du = Matrix::new(&self.dw, n, value_dim, value_dim);
        multiply(&mut g, Destination::Scale(1.0), vectors(&parts.read_p), du);
        let dy = self.out_cotangent(tokens);
        multiply(&mut g, Destination::Scale(1.0), vectors(&parts.read_q), dy);
    }
}

/// The blocks of a segment of tokens, each as its first token and its length.
fn blocks(
    (first, count): (usize, usize),
    size: usize,
) -> impl DoubleEndedIterator<Item = (usize, usize)> + ExactSizeIterator {
    (0..count.div_ceil(size)).map(move |i| (first + i * size, size.min(count - i * size)))
}

/// Solves the transposed system; for delta, also writes dV = dW and negates dW to dU.
struct SubstituteTransposed<'a> {
    head: Head<'a>,
    tokens: (usize, usize),
    px: &'a [f32],
    dw: &'a mut [f32],
    value: SharedRows<'a>,
}

impl WithSimd for SubstituteTransposed<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            head,
            tokens: (first, n),
            px,
            dw,
            value,
        } = self;
        let value_dim = head.problem.value_dim;
        if head.is_low_rank() {
            return substitute::<S, true>(simd, px, 1.0, dw, (n, value_dim));
        }
        substitute::<S, true>(simd, px, -1.0, dw, (n, value_dim));
        for (i, dw) in dw.chunks_exact_mut(value_dim).take(n).enumerate() {
            // SAFETY: one thread takes this head of this sequence through its blocks, one row at a time.
            let dv = unsafe { value.part(head.row(first + i), head.value_column(), value_dim) };
            dv.copy_from_slice(dw);
            for x in dw {
                *x = -*x;
            }
        }
    }
}

/// The sums of A∘B over each row.
struct RowDots<'a> {
    a: &'a [f32],
    b: &'a [f32],
    into: &'a mut [f32],
}

impl WithSimd for RowDots<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let width = self.a.len() / self.into.len();
        let rows = self.a.chunks_exact(width).zip(self.b.chunks_exact(width));
        for (sum, (a, b)) in self.into.iter_mut().zip(rows) {
            *sum = dot(simd, a, b);
        }
    }
}
