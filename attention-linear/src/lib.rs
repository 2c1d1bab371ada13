//! The mixers of the linear-attention line, on the recurrence of [`spillway_ssm_core`].
//!
//! A mixer of this line is a way of computing gates from an input: queries, keys, values and a decay. The recurrence, its
//! state, its four forms and every intervention come from [`spillway_ssm_core`] and are the same for all.
//!
//! | module | what is in it |
//! |---|---|
//! | [`retention`] | RetNet's recurrence: one constant decay per head |
//! | [`lightning_attn`] | one constant decay per head and layer |
//! | [`linear_attn`] | no decay; plain and normalised |
//! | [`feature_map`], [`based`], [`rebased`] | similarities as inner products of features |
//! | [`prefix_linear_attn`] | a prefix that every token sees (JRT) |
//! | [`hgrn`] | a gated recurrence without keys |
//! | [`slots`] | attention over memory slots: GSA and ABC |
//! | [`gla`] | the mixer of GLA, simple GLA, RetNet and linear attention |
//! | [`delta_net`] | the mixer of DeltaNet, Gated DeltaNet and Kimi Delta Attention |
//! | [`gated_delta_product`], [`comba`], [`gated_delta_net2`] | those of Gated DeltaProduct, Comba and Gated DeltaNet-2 |
//! | [`gsa`], [`abc`], [`hgrn::Hgrn`], [`hgrn2`] | the mixers of gated slot attention, ABC, HGRN and HGRN-2 |
//! | [`mlstm`] | the mixer of xLSTM |
//! | [`rg_lru`] | the mixer of Griffin and RecurrentGemma |
//! | [`heads`], [`projection`] | what these have in common before and after their recurrence |
//! | [`block_attention`], [`block_state`] | attention within blocks, and to what a state space makes of the blocks before |
//! | [`softmax_attention`] | attention over a key-value cache, in a window or not |
//! | [`latent_attention`] | attention whose keys and values are projections of one latent vector |
//! | [`base_conv`], [`gated_short_conv`] | the gated convolutions of Based and of LFM2 |
//! | [`gated_mlp`], [`mlp`] | the channel mixers between them, gated or not |
//! | [`mixture`] | a mixture of many of these, of which a token goes through a few |
//!
//! All of it is differentiable on an autodiff device, initial states included.
//!
//! ```
//! use spillway_attention_linear::retention;
//! use burn::tensor::{Device, Distribution, Tensor};
//! use spillway_ssm_core::{Chunking, State, recurrence};
//!
//! let device = Device::flex();
//! let random = || Tensor::<4>::random([1, 7, 4, 8], Distribution::Normal(0.0, 1.0), &device);
//! let gates = retention::gates(random(), random(), random())?;
//! let mut state = State::zeros(&gates.dims(), &device);
//! let output = recurrence(gates, &mut state, Chunking::default())?;
//! assert_eq!(output.dims(), [1, 7, 4, 8]);
//! # Ok::<(), spillway_ssm_core::Error>(())
//! ```

pub mod abc;
pub mod base_conv;
pub mod based;
pub mod block_attention;
pub mod block_state;
mod blocks;
pub mod comba;
mod delta_gates;
pub mod delta_net;
mod expect;
pub mod feature_map;
pub mod gated_delta_net2;
pub mod gated_delta_product;
pub mod gated_mlp;
pub mod gated_short_conv;
pub mod gla;
pub mod gsa;
pub mod heads;
pub mod hgrn;
pub mod hgrn2;
pub mod latent_attention;
pub mod lightning_attn;
pub mod linear_attn;
pub mod mixture;
pub mod mlp;
pub mod mlstm;
pub mod prefix_linear_attn;
pub mod projection;
pub mod rebased;
pub mod retention;
pub mod rg_lru;
pub mod rwkv;
pub mod slots;
pub mod softmax_attention;

/// Runs the README's example as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
