//! What a block is made of before its triangular system is solved: the decayed vectors and products that [`block`](super::block)
//! names, the derivatives by them and by the gates, and what a kind of decay has to say about both.

use super::Head;
use super::gates::Gates;

/// How decays enter the vectors and products of a block.
pub(super) trait Decays {
    /// Buffers for blocks of at most `capacity` tokens.
    fn new(capacity: usize, key_dim: usize) -> Self;

    /// Tokens in a block when chunks have `chunk_size`.
    fn block_size(chunk_size: usize) -> usize;

    /// Fills all of `parts`; without `reads`, nothing that only Y needs.
    fn fill(&mut self, head: Head, tokens: (usize, usize), parts: &mut Parts, reads: bool);

    /// The derivatives by the gates of a block that was filled with `reads`, from those by its `parts`, which are left in no
    /// particular state.
    fn backward(
        &mut self,
        head: Head,
        tokens: (usize, usize),
        parts: &Parts,
        cotangents: &mut PartCotangents,
        gradients: &mut GateGradients,
    );
}

/// The decayed vectors and products of a block. Vectors are `[n, key_dim]`, products `[n, n]` and 0 where not defined.
pub(super) struct Parts {
    pub(super) gates: Gates,
    /// Vectors P̃_i = p_i∘d(i−1, 0), which read S₀ into U.
    pub(super) read_p: Vec<f32>,
    /// Vectors Q̃_i = q̂_i∘d(i, 0), which read S₀ into Y.
    pub(super) read_q: Vec<f32>,
    /// Vectors X̄_j = x_j∘d(n, j), which write W into S_n.
    pub(super) end_x: Vec<f32>,
    /// Vectors K̄_j = k_j∘d(n, j), which write V into S_n: low rank only.
    pub(super) end_k: Vec<f32>,
    pub(super) px: Vec<f32>,
    pub(super) qx: Vec<f32>,
    pub(super) pk: Vec<f32>,
    pub(super) qk: Vec<f32>,
    /// d(n, 0) in two parts, `[key_dim]`: rounding each to one f32 would let long memories drift.
    pub(super) decay: Vec<f32>,
    pub(super) decay_rest: Vec<f32>,
}

/// Derivatives by the parts of a block, each in the shape of the part.
pub(super) struct PartCotangents {
    pub(super) read_p: Vec<f32>,
    pub(super) read_q: Vec<f32>,
    pub(super) end_x: Vec<f32>,
    pub(super) end_k: Vec<f32>,
    pub(super) px: Vec<f32>,
    pub(super) qx: Vec<f32>,
    pub(super) pk: Vec<f32>,
    pub(super) qk: Vec<f32>,
    /// Derivative by d(n, 0), `[key_dim]`.
    pub(super) decay: Vec<f32>,
}

/// Derivatives by what a block was made of, `[n, key_dim]`.
pub(super) struct GateGradients {
    /// Derivative by the scaled query q̂ = scale·q.
    pub(super) q: Vec<f32>,
    pub(super) p: Vec<f32>,
    pub(super) x: Vec<f32>,
    /// Derivative by k where it is inserted beside x: low rank only.
    pub(super) k: Vec<f32>,
    /// Derivative by ln a, not counting delta's p = a∘k: `[n, key_dim]`, or `[n]` for decays per head.
    pub(super) log_decay: Vec<f32>,
}
