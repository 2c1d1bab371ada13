//! What a token costs: the least that any program must compute and read for it.
//!
//! ```text
//! decode   bytes = every weight but an embedding that is not the head too + the state, read and written
//!          FLOPs = 2 per weight of a matrix + 6 per element of the state + the short convolution
//! prefill  FLOPs = those of decode without the head, which only the last token of a prompt needs
//! ```
//!
//! At batch size 1 decode waits for memory, so bytes / bandwidth bounds it from below; prefill computes, so
//! FLOPs / (peak FLOP/s) does. The state's six are: decay, outer product with Δ, sum into the state, and the read-out.

use serde::{Deserialize, Serialize};
use spillway_models::Model;

/// The least a token costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Costs {
    /// Bytes read and written for one decoded token.
    pub decode_bytes: u64,
    /// Multiplications and additions of one decoded token.
    pub decode_flops: u64,
    /// Multiplications and additions of one token of a prompt.
    pub prefill_flops: u64,
}

impl Costs {
    /// The costs of a model as it is loaded, without a mitigation.
    pub fn of(model: &Model) -> Self {
        let info = model.info();
        let embedding = (info.padded_vocab_size * info.model_dim) as u64;
        let unread = if info.tied {
            0
        } else {
            model.network().embedding_bytes()
        };
        Self {
            decode_bytes: info.weight_bytes - unread.min(info.weight_bytes) + 2 * info.state_bytes,
            decode_flops: info.flops_per_token,
            prefill_flops: info.flops_per_token - 2 * embedding,
        }
    }
}
