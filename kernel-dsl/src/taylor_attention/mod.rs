//! Linear attention whose kernel is a polynomial of q·k: Based, ReBased, and behind a prefix, prefix linear attention.
//!
//! ```text
//! y_t = Σ_{s ≤ t} w_ts v_s  ( / (Σ_{s ≤ t} w_ts + ε) ),        w_ts = c₀ + c₁ x + c₂ x²,   x = scale q_t·k_s
//! ```
//!
//! with the coefficients of [`Expansion`]: 1 + x + x²/2 for Based (Arora et al., 2402.18668), x² for ReBased (Aksenov et al.,
//! 2402.10644). The same through features, w_ts = φ(q_t)·φ(k_s) (see [`feature_map`](crate::feature_map)):
//!
//! ```text
//! S_t = S_{t−1} + φ(k_t) ṽ_tᵀ,    ỹ_t = S_tᵀ φ(q_t)              ṽ = [v, 1] where there is a denominator, else v
//! ```
//!
//! A prefix of keys k′ and values v′ is seen by every token, whichever of them comes first (prefix linear attention; Arora et al.,
//! 2407.05483): its sum is what the state begins with, behind whatever the caller has put there,
//!
//! ```text
//! S₀ ← S₀ + Σ_e φ(k′_e) ṽ′_eᵀ
//! ```
//!
//! and a γ below 1 makes the numerator forget, while the denominator goes on counting every token alike (one released Based):
//! `S_t = γ S_{t−1} + φ(k_t) v_tᵀ` in all columns but the denominator's.
//!
//! Within a chunk the weights come from q·k itself, and no feature is formed; across chunks the state is read and updated with
//! features of one chunk at a time. The state holds them in symmetric packing, D = 1 + K + K (K + 1)/2: `[batch, heads, D, V]`, or
//! `[batch, heads, D, V + 1]` where its last column is Σ φ(k), the denominator's sum.
//!
//! Backward. With ȳ of the output and d = Σ w + ε, the cotangent of ỹ is \[ȳ/d, −⟨ȳ, y⟩/d\]; then, for a chunk with the state S
//! before it and the cotangent S̄ of the state after it,
//!
//! ```text
//! W̄ = mask(Ȳ Ṽᵀ),   X̄ = W̄ ∘ (c₁ + 2 c₂ X)
//! Q̄ = scale X̄ K + φ′(Q)ᵀ(Ȳ Sᵀ),   K̄ = scale X̄ᵀ Q + φ′(K)ᵀ(Ṽ S̄ᵀ),   V̄ = Wᵀ Ȳ + φ(K) S̄,   S̄ ← S̄ + φ(Q)ᵀ Ȳ
//! ```
//!
//! With Γ_ts = γ^{t−s} beside W, the rows of Ȳ that meet S times γ^{t+1} and those of Ṽ that meet S̄ times γ^{last−s}, in all columns
//! but the denominator's. The prefix meets the cotangent of S₀ alone: k̄′ = φ′(k′)ᵀ(S̄ ṽ′), v̄′ = S̄ᵀ φ(k′). And ln γ gets
//! Σ_t Σ_{u ≥ t} (⟨ȳ_u, ỹ_u⟩ − ⟨v_u, v̄_u⟩), within a chunk, and after it ⟨S̄, S⟩ for each of its tokens.
//!
//! States are kept at the boundaries of chunks alone: memory O(T/chunk · D V) for the head at work.

#[cfg(feature = "cube")]
pub mod cube;
mod host;
mod problem;
pub mod reference;

pub use crate::feature_map::Expansion;
pub use host::{DEFAULT_CHUNK_SIZE, backward, chunked, sequential, step};
pub use problem::{
    AttentionError, Cotangents, GradientBuffers, Gradients, Inputs, Operands, OperandsAndState, Problem,
    Results,
};
#[cfg(feature = "cube")]
pub use problem::{DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs};
