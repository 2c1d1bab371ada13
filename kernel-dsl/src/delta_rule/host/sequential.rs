//! Token by token: one pass over the state reads what it holds, a second updates it and reads it out.

use pulp::{Simd, WithSimd};

use super::gates::Gates;
use super::lanes::{add, fma, load, mul, splat, store, sub};
use super::{Head, SharedRows, clear_padding, for_each_part};
use crate::delta_rule::problem::{DeltaRuleError, Inputs, Problem};
use crate::simd::dispatch;

/// Tokens that are taken through one block of columns before the next: those stay in the first cache meanwhile.
const TILE: usize = 32;
/// Tokens from which a block of columns is copied out of a wider state first: rows a power of two apart fall on few lines
/// of the cache and drive each other out.
const WORTH_PACKING: usize = 8;

/// The delta rule over one token of every sequence: [`sequential`] as decoding calls it.
///
/// # Shapes
/// `state` `[batch, heads, key_dim, value_dim]`, read and updated; `out` `[rows, heads, value_dim]`.
///
/// # Errors
/// [`DeltaRuleError`] when a shape is wrong or a sequence has another number of tokens than 1.
pub fn step(
    problem: &Problem,
    inputs: &Inputs,
    state: &mut [f32],
    out: &mut [f32],
) -> Result<(), DeltaRuleError> {
    problem.validate(inputs, state.len(), out.len())?;
    for sequence in 0..problem.batch {
        let found = inputs.sequences.span(sequence, problem.time).len();
        if found != 1 {
            return Err(DeltaRuleError::NotOneToken { sequence, found });
        }
    }
    sequential(problem, inputs, state, out)
}

/// The delta rule token by token (see [the module](crate::delta_rule) for the formula).
///
/// # Shapes
/// `state` `[batch, heads, key_dim, value_dim]`, read and updated; `out` `[rows, heads, value_dim]`, 0 in rows that
/// belong to no sequence.
///
/// # Errors
/// [`DeltaRuleError`] when a shape is wrong; then neither `state` nor `out` has changed.
pub fn sequential(
    problem: &Problem,
    inputs: &Inputs,
    state: &mut [f32],
    out: &mut [f32],
) -> Result<(), DeltaRuleError> {
    problem.validate(inputs, state.len(), out.len())?;
    let len = problem.head_state_len();
    if len == 0 {
        out.fill(0.0);
        return Ok(());
    }
    let width = problem.heads * problem.value_dim;
    clear_padding(problem, &inputs.sequences, out, width);
    let out = SharedRows::new(out, width);
    for_each_part(problem, state, len, |index, state| {
        let head = Head::at(problem, inputs, index);
        let gates = Gates::new(TILE.min(head.time), problem.key_dim);
        let tokens = Tokens {
            head,
            gates,
            packed: Vec::new(),
            state,
            out,
        };
        if head.is_low_rank() {
            dispatch(Variant::<true>(tokens));
        } else {
            dispatch(Variant::<false>(tokens));
        }
    });
    Ok(())
}

/// The tokens of one head.
struct Tokens<'a> {
    head: Head<'a>,
    gates: Gates,
    /// Columns of S that are being worked on.
    packed: Vec<f32>,
    /// State S of the head, `[key_dim, value_dim]`, updated in place.
    state: &'a mut [f32],
    out: SharedRows<'a>,
}

/// [`Tokens`] to be run inside the widest instruction set.
struct Variant<'a, const LOW_RANK: bool>(Tokens<'a>);

impl<const LOW_RANK: bool> WithSimd for Variant<'_, LOW_RANK> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut tokens = self.0;
        let (value_dim, lanes) = (tokens.head.problem.value_dim, S::F32_LANES);
        for first in (0..tokens.head.time).step_by(TILE) {
            let tile = (first, TILE.min(tokens.head.time - first));
            tokens.gates.fill(simd, tokens.head, tile);
            let mut column = 0;
            while value_dim - column >= 4 * lanes {
                tokens.columns::<S, LOW_RANK, 4, 2, false>(simd, tile, (column, 4 * lanes));
                column += 4 * lanes;
            }
            while value_dim - column >= 2 * lanes {
                tokens.columns::<S, LOW_RANK, 2, 4, false>(simd, tile, (column, 2 * lanes));
                column += 2 * lanes;
            }
            while value_dim - column >= lanes {
                tokens.columns::<S, LOW_RANK, 1, 4, false>(simd, tile, (column, lanes));
                column += lanes;
            }
            if column < value_dim {
                tokens.columns::<S, LOW_RANK, 1, 4, true>(simd, tile, (column, value_dim - column));
            }
        }
    }
}

impl Tokens<'_> {
    /// Takes all tokens of a tile through the columns `column .. column + width` of the state, which are `N` vectors, or
    /// part of one. `R` rows of the state are summed apart, so that no addition waits for the one before.
    #[inline(always)]
    fn columns<S: Simd, const LOW_RANK: bool, const N: usize, const R: usize, const PARTIAL: bool>(
        &mut self,
        simd: S,
        (first, count): (usize, usize),
        columns: (usize, usize),
    ) {
        let head = self.head;
        let Problem {
            key_dim, value_dim, ..
        } = *head.problem;
        let (column, width) = columns;
        let packs = width < value_dim && count >= WORTH_PACKING;
        if packs {
            self.packed.resize(key_dim * width, 0.0);
            let rows = self.state.chunks_exact(value_dim);
            for (packed, row) in self.packed.chunks_exact_mut(width).zip(rows) {
                packed.copy_from_slice(&row[column..][..width]);
            }
        }
        let (state, stride, offset) = if packs {
            (&mut self.packed[..], width, 0)
        } else {
            (&mut *self.state, value_dim, column)
        };
        for i in 0..count {
            let t = first + i;
            let row = i * key_dim..(i + 1) * key_dim;
            let mut token = Token::<S, N, PARTIAL> {
                simd,
                state,
                stride,
                offset,
                width,
                q: &self.gates.q[row.clone()],
                a: &self.gates.a[row.clone()],
                p: &self.gates.p[row.clone()],
                x: &self.gates.x[row],
                k: head.key(t),
            };
            let value = load::<S, N, PARTIAL>(simd, &head.value(t)[column..][..width]);
            let read = token.read::<R>();
            let written = if LOW_RANK { read } else { sub(simd, value, read) };
            let sum = token.update::<LOW_RANK, R>(written, value);
            // SAFETY: one call handles all tokens of this head and sequence, and the slice is let go before the next.
            let y = unsafe { self.out.part(head.row(t), head.value_column() + column, width) };
            store::<S, N, PARTIAL>(simd, y, sum);
        }
        if packs {
            let rows = self.state.chunks_exact_mut(value_dim);
            for (packed, row) in self.packed.chunks_exact(width).zip(rows) {
                row[column..][..width].copy_from_slice(packed);
            }
        }
    }
}

/// One token's pass over some columns of a state.
struct Token<'a, S, const N: usize, const PARTIAL: bool> {
    simd: S,
    state: &'a mut [f32],
    /// Distance between the rows of `state`.
    stride: usize,
    /// Where the columns begin in a row.
    offset: usize,
    /// Number of these columns.
    width: usize,
    q: &'a [f32],
    a: &'a [f32],
    p: &'a [f32],
    x: &'a [f32],
    k: &'a [f32],
}

impl<S: Simd, const N: usize, const PARTIAL: bool> Token<'_, S, N, PARTIAL> {
    /// These columns of row `n` of the state.
    #[inline(always)]
    fn row(&mut self, n: usize) -> &mut [f32] {
        &mut self.state[n * self.stride + self.offset..][..self.width]
    }

    /// Sᵀp in these columns: what the state holds under p.
    #[inline(always)]
    fn read<const R: usize>(&mut self) -> [S::f32s; N] {
        let mut sums = [splat::<S, N>(self.simd, 0.0); R];
        let whole = self.p.len() - self.p.len() % R;
        for n in (0..whole).step_by(R) {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = self.read_row(n + i, *sum);
            }
        }
        for n in whole..self.p.len() {
            sums[0] = self.read_row(n, sums[0]);
        }
        total(self.simd, sums)
    }

    #[inline(always)]
    fn read_row(&mut self, n: usize, sum: [S::f32s; N]) -> [S::f32s; N] {
        let simd = self.simd;
        let p = splat(simd, self.p[n]);
        let row = load::<S, N, PARTIAL>(simd, self.row(n));
        fma(simd, p, row, sum)
    }

    /// S ← a∘S + x wᵀ (+ k vᵀ); returns scale·Sᵀq.
    #[inline(always)]
    fn update<const LOW_RANK: bool, const R: usize>(
        &mut self,
        written: [S::f32s; N],
        value: [S::f32s; N],
    ) -> [S::f32s; N] {
        let mut sums = [splat::<S, N>(self.simd, 0.0); R];
        let whole = self.p.len() - self.p.len() % R;
        for n in (0..whole).step_by(R) {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = self.update_row::<LOW_RANK>(n + i, written, value, *sum);
            }
        }
        for n in whole..self.p.len() {
            sums[0] = self.update_row::<LOW_RANK>(n, written, value, sums[0]);
        }
        total(self.simd, sums)
    }

    #[inline(always)]
    fn update_row<const LOW_RANK: bool>(
        &mut self,
        n: usize,
        written: [S::f32s; N],
        value: [S::f32s; N],
        sum: [S::f32s; N],
    ) -> [S::f32s; N] {
        let simd = self.simd;
        let (q, a) = (splat(simd, self.q[n]), splat(simd, self.a[n]));
        let (x, k) = (splat(simd, self.x[n]), splat(simd, self.k[n]));
        let row = self.row(n);
        let mut after = mul(simd, a, load::<S, N, PARTIAL>(simd, row));
        after = fma(simd, x, written, after);
        if LOW_RANK {
            after = fma(simd, k, value, after);
        }
        store::<S, N, PARTIAL>(simd, row, after);
        fma(simd, q, after, sum)
    }
}

/// The sum of `R` parts, always in the same order.
#[inline(always)]
fn total<S: Simd, const N: usize, const R: usize>(simd: S, parts: [[S::f32s; N]; R]) -> [S::f32s; N] {
    let mut sum = parts[0];
    for part in &parts[1..] {
        sum = add(simd, sum, *part);
    }
    sum
}
