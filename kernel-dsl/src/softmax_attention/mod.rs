//! Causal softmax attention over a cache of keys and values, with grouped heads and sliding windows.
//!
//! The tokens at hand are written behind those that the cache holds, and token t of a sequence that had L tokens reads
//!
//! ```text
//! y_t = Σ_j w_tj v_j / Σ_j w_tj,      w_tj = exp(scale q_t·k_j),      max(0, L + t − window) ≤ j ≤ L + t
//! ```
//!
//! Head h reads group h / (heads / groups) of keys and values (Ainslie et al., *GQA*, 2305.13245). `window` counts the keys
//! before the token's own; none reads all of them.
//!
//! The weights are never stored: keys come in blocks, and maximum m, sum l and weighted values o of what was seen so far go on
//! as m′ = max(m, s), l′ = l e^{m−m′} + Σ e^{s−m′}, o′ = o e^{m−m′} + Σ e^{s−m′} v (Milakov & Gimelshein, 1805.02867; Dao et al.,
//! *FlashAttention*, 2205.14135). Every sequence of a batch may hold another number of tokens.

mod host;
mod problem;
pub mod reference;

pub use host::softmax_attention;
pub use problem::{Inputs, Operands, Problem, SoftmaxError};
