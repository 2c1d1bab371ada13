//! Token by token: one pass over the state reads what it holds, a second updates it and reads it out.

use pulp::{Arch, Simd, WithSimd};

use super::gates::Gates;
use super::{Head, SharedRows, clear_padding, for_each_part};
use crate::delta_rule::problem::{DeltaRuleError, Inputs, Problem};
use crate::recurrence::host::lanes::{load, store};

/// Tokens that are taken through one block of columns before the next: those stay in the first cache meanwhile.
const TILE: usize = 16;

/// One token of every sequence: [`sequential`] as decoding calls it.
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
            state,
            out,
        };
        if head.is_low_rank() {
            Arch::new().dispatch(Form::<true>(tokens));
        } else {
            Arch::new().dispatch(Form::<false>(tokens));
        }
    });
    Ok(())
}

/// The tokens of one head.
struct Tokens<'a> {
    head: Head<'a>,
    gates: Gates,
    /// S `[key_dim, value_dim]`.
    state: &'a mut [f32],
    out: SharedRows<'a>,
}

/// [`Tokens`] to be run inside the widest instruction set.
struct Form<'a, const LOW_RANK: bool>(Tokens<'a>);

impl<const LOW_RANK: bool> WithSimd for Form<'_, LOW_RANK> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut tokens = self.0;
        let (value_dim, lanes) = (tokens.head.problem.value_dim, S::F32_LANES);
        for first in (0..tokens.head.time).step_by(TILE) {
            let tile = (first, TILE.min(tokens.head.time - first));
            tokens.gates.fill(tokens.head, tile);
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
        (column, width): (usize, usize),
    ) {
        let head = self.head;
        let key_dim = head.problem.key_dim;
        for i in 0..count {
            let t = first + i;
            let row = i * key_dim..(i + 1) * key_dim;
            let value = &head.value(t)[column..][..width];
            let p = &self.gates.p[row.clone()];
            let read =
                read_state::<S, N, R, PARTIAL>(simd, p, self.state, head.problem.value_dim, (column, width));
            let token = Update {
                query: &self.gates.q[row.clone()],
                a: &self.gates.a[row.clone()],
                x: &self.gates.x[row],
                key: head.key(t),
            };
            let mut values = [simd.splat_f32s(0.0); N];
            for (c, v) in values.iter_mut().enumerate() {
                *v = load::<S, PARTIAL>(simd, value, c);
            }
            let mut written = read;
            if !LOW_RANK {
                for (w, v) in written.iter_mut().zip(&values) {
                    *w = simd.sub_f32s(*v, *w);
                }
            }
            let sums = token.run::<S, LOW_RANK, N, R, PARTIAL>(
                simd,
                (&written, &values),
                self.state,
                head.problem.value_dim,
                (column, width),
            );
            // SAFETY: one call handles all tokens of this head and sequence, and the slice is let go before the next.
            let y = unsafe { self.out.part(head.row(t), head.value_column() + column, width) };
            for (c, sum) in sums.iter().enumerate() {
                store::<S, PARTIAL>(simd, y, c, *sum);
            }
        }
    }
}

/// Sᵀp over some columns.
#[inline(always)]
fn read_state<S: Simd, const N: usize, const R: usize, const PARTIAL: bool>(
    simd: S,
    p: &[f32],
    state: &[f32],
    value_dim: usize,
    (column, width): (usize, usize),
) -> [S::f32s; N] {
    let mut sums = [[simd.splat_f32s(0.0); N]; R];
    let add = |n: usize, sums: &mut [S::f32s; N]| {
        let (p, row) = (simd.splat_f32s(p[n]), &state[n * value_dim + column..][..width]);
        for (c, sum) in sums.iter_mut().enumerate() {
            *sum = simd.mul_add_f32s(p, load::<S, PARTIAL>(simd, row, c), *sum);
        }
    };
    let whole = p.len() - p.len() % R;
    for n in (0..whole).step_by(R) {
        for (i, sums) in sums.iter_mut().enumerate() {
            add(n + i, sums);
        }
    }
    for n in whole..p.len() {
        add(n, &mut sums[0]);
    }
    total(simd, sums)
}

/// The sum of `R` parts, always in the same order.
#[inline(always)]
fn total<S: Simd, const N: usize, const R: usize>(simd: S, parts: [[S::f32s; N]; R]) -> [S::f32s; N] {
    let mut sum = parts[0];
    for part in &parts[1..] {
        for (sum, x) in sum.iter_mut().zip(part) {
            *sum = simd.add_f32s(*sum, *x);
        }
    }
    sum
}

/// The vectors over keys with which one token updates and reads a state.
struct Update<'a> {
    a: &'a [f32],
    x: &'a [f32],
    key: &'a [f32],
    query: &'a [f32],
}

impl Update<'_> {
    /// S ← a∘S + x wᵀ (+ k vᵀ) over some columns; returns scale·Sᵀq.
    #[inline(always)]
    fn run<S: Simd, const LOW_RANK: bool, const N: usize, const R: usize, const PARTIAL: bool>(
        &self,
        simd: S,
        (written, values): (&[S::f32s; N], &[S::f32s; N]),
        state: &mut [f32],
        value_dim: usize,
        (column, width): (usize, usize),
    ) -> [S::f32s; N] {
        let mut sums = [[simd.splat_f32s(0.0); N]; R];
        let mut pass = |n: usize, sums: &mut [S::f32s; N]| {
            let row = &mut state[n * value_dim + column..][..width];
            let (a, x) = (simd.splat_f32s(self.a[n]), simd.splat_f32s(self.x[n]));
            let (k, q) = (simd.splat_f32s(self.key[n]), simd.splat_f32s(self.query[n]));
            for (c, sum) in sums.iter_mut().enumerate() {
                let decayed = simd.mul_f32s(a, load::<S, PARTIAL>(simd, row, c));
                let mut after = simd.mul_add_f32s(x, written[c], decayed);
                if LOW_RANK {
                    after = simd.mul_add_f32s(k, values[c], after);
                }
                store::<S, PARTIAL>(simd, row, c, after);
                *sum = simd.mul_add_f32s(q, after, *sum);
            }
        };
        let key_dim = self.a.len();
        let whole = key_dim - key_dim % R;
        for n in (0..whole).step_by(R) {
            for (i, sums) in sums.iter_mut().enumerate() {
                pass(n + i, sums);
            }
        }
        for n in whole..key_dim {
            pass(n, &mut sums[0]);
        }
        total(simd, sums)
    }
}
