//! Chunks of tokens for decays that differ from key to key.
//!
//! Here the decay cannot be taken out of q_i·k_j, and splitting exp(S_i − S_j) into exp(S_i)·exp(−S_j) overflows f32 as
//! soon as a key has decayed by e⁻⁸⁸. So tokens are taken in short blocks, inside of which every decay is a product of
//! a_t ≤ 1 over the tokens between j and i: formed one factor at a time, never divided, right even for a = 0.
//!
//! ```text
//! y_i = scale·( Σ_{j≤i} (q_i · k_j ∘ Π_{j<t≤i} a_t) δ_j v_j  +  (q_i ∘ Π_{t≤i} a_t) h₀ ) + D∘v_i
//! h_n = (Π_t a_t) ∘ h₀ + Σ_j (k_j ∘ Π_{t>j} a_t) (δ_j v_j)ᵀ
//! ```

use pulp::{Simd, WithSimd};

use super::lanes::{dot_of_three, load, store};
use super::{Head, SharedOutput, finish_read_out};
use crate::math;
use crate::matrix::{Destination, Matrix, MatrixMut, multiply};
use crate::recurrence::problem::{Problem, ReadOut};
use crate::simd::{dispatch, mul_add, mul_add_one};

/// Tokens in a block: the state is passed over once per block, and pairs of tokens cost half of this per token.
pub(super) const BLOCK: usize = 16;

/// Buffers for one block of one head.
pub(super) struct PerKeyChunk {
    /// Tokens in a block.
    block: usize,
    /// Decays a_t of the block's tokens, `[n, key_dim]`.
    decay: Vec<f32>,
    /// Σ ln a_t over the block, `[key_dim]`.
    log_decay_sum: Vec<f32>,
    /// Queries against the entering state, `[n, key_dim]`.
    queries: Vec<f32>,
    /// δ_j k_j decayed to the end of the block, `[n, key_dim]`.
    keys: Vec<f32>,
    /// Weights of the values in each read-out, `[n, n]`, zero above the diagonal.
    weights: Vec<f32>,
}

impl PerKeyChunk {
    pub(super) fn new(problem: &Problem, chunk_size: usize) -> Self {
        let block = BLOCK.min(chunk_size).min(problem.time.max(1));
        let key_dim = problem.key_dim;
        Self {
            block,
            decay: vec![0.0; block * key_dim],
            log_decay_sum: vec![0.0; key_dim],
            queries: vec![0.0; block * key_dim],
            keys: vec![0.0; block * key_dim],
            weights: vec![0.0; block * block],
        }
    }

    /// All tokens of one head; without `out`, only the state is computed.
    pub(super) fn run(&mut self, head: Head, state: &mut [f32], out: Option<SharedOutput>) {
        for start in (0..head.time).step_by(self.block) {
            let tokens = (start, self.block.min(head.time - start));
            self.one_block(head, tokens, state, out);
        }
    }

    /// Runs one block of one head: `tokens` is its first token and its length n.
    fn one_block(
        &mut self,
        head: Head,
        tokens: (usize, usize),
        state: &mut [f32],
        out: Option<SharedOutput>,
    ) {
        let (start, n) = tokens;
        let Problem {
            key_dim, value_dim, ..
        } = *head.problem;
        dispatch(DecayedPairs {
            head,
            tokens,
            buffers: self,
            reads: out.is_some(),
        });
        if let Some(out) = out {
            // SAFETY: this head of this sequence belongs to one span, which one thread takes through its blocks, and the
            // matrix is the only access while it lives.
            let y = || unsafe { out.matrix(&head, start, n) };
            let queries = Matrix::new(&self.queries, n, key_dim, key_dim);
            let h = Matrix::new(state, key_dim, value_dim, value_dim);
            multiply(&mut y(), Destination::Overwrite, queries, h);
            dispatch(AddSkip { head, tokens, out });
            let weights = Matrix::new(&self.weights, n, n, n);
            multiply(&mut y(), Destination::Scale(1.0), weights, head.values(start, n));
        }
        dispatch(DecayState {
            state,
            log_decay_sum: &self.log_decay_sum,
        });
        let keys = Matrix::new(&self.keys, n, key_dim, key_dim);
        let mut h = MatrixMut::new(state, key_dim, value_dim, value_dim);
        multiply(
            &mut h,
            Destination::Scale(1.0),
            keys.transposed(),
            head.values(start, n),
        );
    }
}

/// y += D∘v for the tokens of a block.
struct AddSkip<'a> {
    head: Head<'a>,
    tokens: (usize, usize),
    out: SharedOutput<'a>,
}

impl WithSimd for AddSkip<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            head,
            tokens: (start, n),
            out,
        } = self;
        let skip = head.skip();
        for t in start..start + n {
            // SAFETY: one thread takes this head of this sequence through its blocks, and no matrix over its outputs
            // is alive now.
            let y = unsafe { out.row(&head, t) };
            finish_read_out(simd, y, 1.0, skip, 0.0, head.value(t));
        }
    }
}

/// h ← a∘h, with ln a `[key_dim]`.
///
/// The sum of logs in two parts rather than the product of the rounded decays: with constant decays those err in the same
/// direction at every token, and a state outlives thousands.
pub(super) struct DecayState<'a> {
    pub(super) state: &'a mut [f32],
    pub(super) log_decay_sum: &'a [f32],
}

impl WithSimd for DecayState<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let value_dim = self.state.len() / self.log_decay_sum.len();
        for (row, sum) in self.state.chunks_exact_mut(value_dim).zip(self.log_decay_sum) {
            let (decay, rest) = math::exp_in_two_parts(simd, *sum);
            for x in row {
                *x = mul_add_one(simd, decay, *x, rest * *x);
            }
        }
    }
}

/// Fills all buffers of a block.
struct DecayedPairs<'a> {
    head: Head<'a>,
    tokens: (usize, usize),
    buffers: &'a mut PerKeyChunk,
    reads: bool,
}

impl WithSimd for DecayedPairs<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            head,
            tokens: (start, n),
            buffers,
            reads,
        } = self;
        let PerKeyChunk {
            decay,
            log_decay_sum,
            queries,
            keys,
            weights,
            ..
        } = buffers;
        let key_dim = head.problem.key_dim;
        let scale = head.inputs.scale;
        let bonus = head.problem.read_out == ReadOut::Bonus;
        if start == 0 || !head.decay_is_constant() {
            for (i, decay) in decay.chunks_exact_mut(key_dim).take(n).enumerate() {
                let log_decay = head.log_decay(start + i);
                decay
                    .iter_mut()
                    .zip(log_decay)
                    .for_each(|(a, g)| *a = math::exp(simd, *g));
            }
        }
        let mut products = Products {
            head,
            tokens: (start, n),
            decay,
            log_decay_sum,
            queries,
        };
        let lanes = S::F32_LANES;
        let whole = key_dim - key_dim % lanes;
        for column in (0..whole).step_by(lanes) {
            products.columns::<S, false>(simd, column, lanes);
        }
        if whole < key_dim {
            products.columns::<S, true>(simd, whole, key_dim - whole);
        }
        weights[..n * n].fill(0.0);
        let mut pairs = Pairs {
            head,
            tokens: (start, n),
            decay,
            keys,
            weights,
            reads,
        };
        let mut column = 0;
        // As many keys at a time as 512-bit vectors take by four: every sum over lanes costs more than the products before it.
        if lanes < 16 {
            while key_dim - column >= 8 * lanes {
                pairs.columns::<S, 8, false>(simd, column, 8 * lanes);
                column += 8 * lanes;
            }
        }
        while key_dim - column >= 4 * lanes {
            pairs.columns::<S, 4, false>(simd, column, 4 * lanes);
            column += 4 * lanes;
        }
        while key_dim - column >= lanes {
            pairs.columns::<S, 1, false>(simd, column, lanes);
            column += lanes;
        }
        if column < key_dim {
            pairs.columns::<S, 1, true>(simd, column, key_dim - column);
        }
        if bonus && reads {
            for j in 0..n {
                let t = start + j;
                let present = dot_of_three(simd, head.query(t), head.bonus(), head.key(t));
                weights[j * n + j] = scale * head.step_size(t) * present;
            }
        }
    }
}

/// Σ ln a_t over a block, and its queries against the entering state.
struct Products<'a> {
    head: Head<'a>,
    tokens: (usize, usize),
    decay: &'a [f32],
    log_decay_sum: &'a mut [f32],
    queries: &'a mut [f32],
}

impl Products<'_> {
    /// Log decay sums and queries of one vector of keys from `column` on, or of `width` keys as part of one. Vectors by hand: over so many slices the
    /// compiler does not.
    #[inline(always)]
    fn columns<S: Simd, const PARTIAL: bool>(&mut self, simd: S, column: usize, width: usize) {
        let (head, (start, n)) = (self.head, self.tokens);
        let key_dim = head.problem.key_dim;
        let bonus = head.problem.read_out == ReadOut::Bonus;
        let scale = simd.splat_f32s(head.inputs.scale);
        let (mut sum, mut product) = (simd.splat_f32s(0.0), simd.splat_f32s(1.0));
        for i in 0..n {
            let at = i * key_dim + column;
            let log_decay = load::<S, PARTIAL>(simd, &head.log_decay(start + i)[column..][..width], 0);
            let decay = load::<S, PARTIAL>(simd, &self.decay[at..][..width], 0);
            let query = load::<S, PARTIAL>(simd, &head.query(start + i)[column..][..width], 0);
            let after = simd.mul_f32s(product, decay);
            let read = simd.mul_f32s(simd.mul_f32s(scale, query), if bonus { product } else { after });
            store::<S, PARTIAL>(simd, &mut self.queries[at..][..width], 0, read);
            sum = simd.add_f32s(sum, log_decay);
            product = after;
        }
        store::<S, PARTIAL>(simd, &mut self.log_decay_sum[column..][..width], 0, sum);
    }
}

/// The decayed keys of a block and their products with the queries.
struct Pairs<'a> {
    head: Head<'a>,
    tokens: (usize, usize),
    decay: &'a [f32],
    keys: &'a mut [f32],
    weights: &'a mut [f32],
    reads: bool,
}

impl Pairs<'_> {
    /// Adds the products over `width` keys from `column` on, which are `N` vectors, or part of one.
    #[inline(always)]
    fn columns<S: Simd, const N: usize, const PARTIAL: bool>(
        &mut self,
        simd: S,
        column: usize,
        width: usize,
    ) {
        let (head, (start, n)) = (self.head, self.tokens);
        let key_dim = head.problem.key_dim;
        let bonus = head.problem.read_out == ReadOut::Bonus;
        for j in 0..n {
            let step = simd.splat_f32s(head.step_size(start + j));
            let key = &head.key(start + j)[column..][..width];
            let mut decayed = [step; N];
            for (c, decayed) in decayed.iter_mut().enumerate() {
                *decayed = simd.mul_f32s(*decayed, load::<S, PARTIAL>(simd, key, c));
            }
            if self.reads && !bonus {
                self.add_product::<S, N, PARTIAL>(simd, (j, j), &decayed, (column, width));
            }
            for i in j + 1..n {
                // With a bonus, token i reads the state before its own decay.
                if self.reads && bonus {
                    self.add_product::<S, N, PARTIAL>(simd, (i, j), &decayed, (column, width));
                }
                let decay = &self.decay[i * key_dim + column..][..width];
                for (c, decayed) in decayed.iter_mut().enumerate() {
                    *decayed = simd.mul_f32s(*decayed, load::<S, PARTIAL>(simd, decay, c));
                }
                if self.reads && !bonus {
                    self.add_product::<S, N, PARTIAL>(simd, (i, j), &decayed, (column, width));
                }
            }
            let keys = &mut self.keys[j * key_dim + column..][..width];
            for (c, decayed) in decayed.iter().enumerate() {
                store::<S, PARTIAL>(simd, keys, c, *decayed);
            }
        }
    }

    /// Adds scale · q_i · `decayed` to the weight of value j in read-out i.
    #[inline(always)]
    fn add_product<S: Simd, const N: usize, const PARTIAL: bool>(
        &mut self,
        simd: S,
        (i, j): (usize, usize),
        decayed: &[S::f32s; N],
        (column, width): (usize, usize),
    ) {
        let (start, n) = self.tokens;
        let query = &self.head.query(start + i)[column..][..width];
        let mut sum = simd.mul_f32s(load::<S, PARTIAL>(simd, query, 0), decayed[0]);
        for (c, &decayed) in decayed.iter().enumerate().skip(1) {
            sum = mul_add(simd, load::<S, PARTIAL>(simd, query, c), decayed, sum);
        }
        self.weights[i * n + j] += self.head.inputs.scale * simd.reduce_sum_f32s(sum);
    }
}
