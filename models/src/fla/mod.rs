//! The layouts of flash-linear-attention (`fla-hub`): RetNet, GLA, simple GLA, linear attention, HGRN, HGRN-2, GSA, ABC,
//! ReBased, DeltaNet, Gated DeltaNet, KDA, Gated DeltaProduct, Comba, Gated DeltaNet-2 and Samba.
//!
//! All but Samba are the same backbone with different mixers:
//!
//! ```text
//! model.embeddings.weight
//! model.layers.N.attn_norm.weight      model.layers.N.attn.*        the mixer, which the architecture's file reads
//! model.layers.N.mlp_norm.weight       model.layers.N.mlp.{gate,up,down}_proj.weight
//! model.norm.weight                    lm_head.weight
//! ```
//!
//! The MLP is `intermediate_size` wide; where that is null, 2/3 · `hidden_ratio` · `hidden_size`, rounded up to a multiple of 256.
//! Layers that `attn` lists have softmax attention instead: `attn.{q,k,v,o}_proj`.
//!
//! Fields that only choose among kernels of the same result (`attn_mode`, `fuse_*`) are not looked at.

pub(crate) mod abc;
mod backbone;
pub(crate) mod comba;
pub(crate) mod delta_net;
pub(crate) mod gated_deltanet;
pub(crate) mod gated_deltaproduct;
pub(crate) mod gdn2;
pub(crate) mod gla;
pub(crate) mod gsa;
pub(crate) mod hgrn;
pub(crate) mod hgrn2;
mod hybrid;
pub(crate) mod kda;
pub(crate) mod linear_attn;
mod lower_bounds;
mod mixer;
pub(crate) mod rebased;
pub(crate) mod retnet;
pub(crate) mod samba;
pub(crate) mod simple_gla;
pub(crate) mod transformer;

use crate::checkpoint::Checkpoint;

/// What the layouts are called.
pub(crate) const NAME: &str = "flash-linear-attention";
const EMBEDDING: &str = "model.embeddings.weight";

/// Why a checkpoint has the layout of `model_type`: the configuration says so, and the embedding has this line's name.
fn recognised(checkpoint: &Checkpoint, model_type: &str) -> Option<String> {
    let said = checkpoint.config().text("model_type").ok()??;
    (said == model_type && checkpoint.has(EMBEDDING))
        .then(|| format!("model_type {model_type:?}, tensor {EMBEDDING}"))
}
