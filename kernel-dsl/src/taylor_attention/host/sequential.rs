//! Token by token: for decoding, and for sequences shorter than a chunk.

use super::prefix::read_prefix;
use super::{DEFAULT_CHUNK_SIZE, Head, over_heads, scatter};
use crate::feature_map::expand_rows;
use crate::simd::{dispatch, mul_add_one};
use crate::taylor_attention::{AttentionError, Inputs, Problem};
use pulp::{Simd, WithSimd};

/// Taylor attention over one token of every sequence.
///
/// # Shapes
/// As for [`sequential`], with `time = 1`.
///
/// # Errors
/// As for [`sequential`]; [`AttentionError::NotOneToken`] for other lengths.
pub fn step(
    problem: &Problem,
    inputs: &Inputs,
    state: &mut [f32],
    out: &mut [f32],
) -> Result<(), AttentionError> {
    if problem.time != 1 {
        return Err(AttentionError::NotOneToken { found: problem.time });
    }
    sequential(problem, inputs, state, out)
}

/// Taylor attention token by token, behind its prefix (see [`taylor_attention`](crate::taylor_attention) for the formula).
///
/// # Shapes
/// `state` as [`Problem::state_len`] says, read and left after the last token; `out` `[rows, heads, value_dim]`. Rows of padding
/// come out as 0.
///
/// # Errors
/// [`AttentionError`] when a shape does not fit; nothing is written then.
pub fn sequential(
    problem: &Problem,
    inputs: &Inputs,
    state: &mut [f32],
    out: &mut [f32],
) -> Result<(), AttentionError> {
    problem.validate(inputs, state.len(), out.len())?;
    let heads = Head::all(problem, inputs);
    let states = state.chunks_exact_mut(problem.head_state_len()).collect();
    let values = over_heads(problem, heads.clone(), states, |head, state: &mut [f32]| {
        let mut out = vec![0.0; head.rows.len() * problem.value_dim];
        let mut features = vec![0.0; problem.features()];
        let mut of_query = vec![0.0; problem.features()];
        let map = problem.feature_map();
        let decay = head.log_decay().map_or(1.0, f32::exp);
        read_prefix(&head, DEFAULT_CHUNK_SIZE, state);
        for (row, out) in head.rows.clone().zip(out.chunks_exact_mut(problem.value_dim)) {
            expand_rows(&map, |_| head.key(row), 1, &mut features);
            expand_rows(&map, |_| head.query(row), 1, &mut of_query);
            dispatch(Token {
                problem,
                key: head.key(row),
                query: head.query(row),
                of_key: &features,
                of_query: &of_query,
                value: head.value(row),
                decay,
                state: &mut *state,
                out,
            });
        }
        out
    });
    let values: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
    scatter(&heads, &values, problem.value_dim, out);
    Ok(())
}

/// S ← γ S + φ(k) ṽᵀ and y, in one pass over the state.
///
/// The token's own weight is taken from q·k rather than from its features: where it nearly vanishes, and no other token is
/// there to outweigh it, the difference of features would leave it no digits.
struct Token<'a> {
    problem: &'a Problem,
    key: &'a [f32],
    query: &'a [f32],
    of_key: &'a [f32],
    of_query: &'a [f32],
    value: &'a [f32],
    /// γ of the head; 1 where nothing decays.
    decay: f32,
    state: &'a mut [f32],
    out: &'a mut [f32],
}

impl WithSimd for Token<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let value_dim = self.problem.value_dim;
        let weight = self.own_weight();
        let mut denominator = weight;
        for (out, &v) in self.out.iter_mut().zip(self.value) {
            *out = weight * v;
        }
        let rows = self.state.chunks_exact_mut(self.problem.columns());
        for ((state, &k), &q) in rows.zip(self.of_key).zip(self.of_query) {
            let (state, sum) = state.split_at_mut(value_dim);
            for ((state, &v), out) in state.iter_mut().zip(self.value).zip(self.out.iter_mut()) {
                let kept = self.decay * *state;
                *out = mul_add_one(simd, q, kept, *out);
                *state = mul_add_one(simd, k, v, kept);
            }
            if let [sum] = sum {
                denominator = mul_add_one(simd, q, *sum, denominator);
                *sum += k;
            }
        }
        if let Some(eps) = self.problem.normalizer {
            let gain = 1.0 / (denominator + eps);
            self.out.iter_mut().for_each(|y| *y *= gain);
        }
    }
}

impl Token<'_> {
    #[inline(always)]
    fn own_weight(&self) -> f32 {
        let product: f32 = self.query.iter().zip(self.key).map(|(q, k)| q * k).sum();
        let [c0, c1, c2] = self.problem.expansion.coefficients().map(|c| c as f32);
        let x = self.problem.scale * product;
        (c2 * x + c1) * x + c0
    }
}
