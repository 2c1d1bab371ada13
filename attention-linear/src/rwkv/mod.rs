//! The layers of RWKV, versions 4 to 7: time mixing (the sequence mixer) and channel mixing.
//!
//! Every version shifts tokens: what a projection reads is an interpolation of the current and the previous token, so that
//! a layer carries one token beside its recurrent state. With r the receptance (the query), k and v key and value:
//!
//! | | state update | read-out | output |
//! |---|---|---|---|
//! | [`rwkv4`] | per channel, weights e^k that decay by e^w | weighted mean of all v, the current one with weight e^{u+k} | W_o (σ(r) ∘ y) |
//! | [`rwkv5`] | S_t = diag(w) S_{t−1} + k vᵀ | rᵀ (S_{t−1} + (u ∘ k) vᵀ) | W_o (GroupNorm(y) ∘ SiLU(g)) |
//! | [`rwkv6`] | the same with w_t from the input; interpolations from the input too | the same | the same |
//! | [`rwkv7`] | S_t = diag(w_t) S_{t−1} − κ̂ ((κ̂ ∘ a)ᵀ …), see there | rᵀ S_t | W_o ((GroupNorm(y) + (Σ r ∘ k ∘ ρ) v) ∘ g) |
//!
//! Sources: Peng et al., *RWKV* (2305.13048), *Eagle and Finch* (2404.05892), *RWKV-7* (2503.14456).

pub mod channel_mix;
mod dynamic_shift;
mod fresh;
mod gated_heads;
mod heads;
mod low_rank;
pub mod rwkv4;
pub mod rwkv5;
pub mod rwkv6;
pub mod rwkv7;
mod shift;
mod source;

pub use channel_mix::{ChannelMix, ChannelMixConfig};
pub use dynamic_shift::{DynamicShift, DynamicWeights, FRESH_UP, FreshShares};
pub use fresh::{Depth, FreshShare};
pub use heads::HeadShape;
pub use low_rank::{LowRank, LowRankActivation, LowRankShape};
pub use rwkv4::{Rwkv4, Rwkv4Config};
pub use rwkv5::{Rwkv5, Rwkv5Config};
pub use rwkv6::{Rwkv6, Rwkv6Config};
pub use rwkv7::{Rwkv7, Rwkv7Config};
pub use shift::TokenShift;
pub use source::RwkvSource;
