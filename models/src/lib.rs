//! Models that can be run: checkpoints in their published layouts, tokenizers, prefill and decode with a state that can be
//! saved, generation.
//!
//! ```
//! use std::ops::ControlFlow;
//! use spillway_models::generation::{Sampling, generate};
//! use spillway_models::{LoadOptions, Model};
//! use spillway_ssm_core::Chain;
//!
//! let model = Model::shipped(&LoadOptions::default())?;
//! let mut state = model.start(&Chain::default(), 1)?;
//! let prompt = model.tokenizer().encode("And God said, Let there be ")?;
//! let new = generate(&model, &mut state, &prompt, &Sampling::greedy(), 8, &[], |_| ControlFlow::Continue(()))?;
//! assert_eq!(new.ids.len(), 8);
//! # Ok::<(), spillway_models::ModelError>(())
//! ```
//!
//! | module | what is in it |
//! |---|---|
//! | [`model`], [`state`] | [`Model`]: load, start, logits, losses; [`ModelState`]: fork, save, restore, roll back, batch |
//! | [`prefix_cache`] | states of prompts on disk |
//! | [`network`] | an embedding, blocks of mixers, a norm, a head |
//! | [`layout`], [`registry`], [`loader`] | what a published layout is; all of them; how one is read |
//! | [`mamba1`], [`mamba2`], [`mamba3`], [`hybrid`], [`based`], [`llama`], [`qwen3_5`], [`qwen3_5_moe`], [`qwen3_next`], [`kimi_linear`], [`olmo_hybrid`], [`xlstm`], [`fla`], [`rwkv`] | a module per architecture |
//! | [`ssm_hybrids`], [`minimax`], [`recurrent_gemma`] | state spaces; hybrids of recurrences and attention |
//! | [`device`] | the processor, or a device by its name |
//! | [`init`] | random checkpoints in every layout |
//! | [`budget`], [`input`], [`message`] | memory that is asked for before it is taken; files read up to a limit; words for a terminal |
//! | [`checkpoint`] | safetensors, PyTorch files and `config.json`, and every way in which they can be wrong |
//! | [`hub`] | checkpoints by their names on a hub |
//! | [`convert`] | any checkpoint as safetensors, in f32 or bf16 |
//! | [`tokenizer`], [`prompt`], [`generation`], [`sampling`] | text to ids and back; reading and continuing a text |
//! | [`speculation`] | continuing a text by drafts that the model checks several tokens at a time |
//! | [`evaluation`], [`train`] | losses against position, collapse, passkeys; training |
//! | [`parallel`] | several ranks: long sequences, batches and work shared out over threads, or processes under MPI |
//! | [`audio`] | sound as tokens: files, codes, what counting foretells |
//! | [`tasks`] | what else a model can be asked: delays, copies, digits, expressions, curves, signals |
//! | [`shipped`] | the small checkpoint that is part of this crate |

/// What a mitigation calls to run the rest of the chain; see [`spillway_ssm_core::Intervention`].
pub use spillway_ssm_core::Next;
/// The tensor library, as [`spillway_ssm_core::burn`].
pub use spillway_ssm_core::burn;

pub mod audio;
mod awake;
pub mod based;
pub mod bigs;
pub mod bst;
pub mod budget;
pub mod chat;
pub mod checkpoint;
pub mod convert;
pub mod device;
mod dropout;
pub mod error;
pub mod evaluation;
pub mod fla;
pub mod generation;
pub mod gss;
pub mod h3;
pub mod hub;
pub mod hybrid;
pub mod init;
pub mod input;
pub mod kimi_linear;
mod layer_types;
pub mod layout;
pub mod lfm2;
pub mod llama;
pub mod loader;
pub mod mamba1;
pub mod mamba2;
pub mod mamba3;
pub mod message;
pub mod minimax;
pub mod model;
pub mod network;
mod normed_output;
pub mod olmo_hybrid;
pub mod output;
pub mod parallel;
pub mod prefix_cache;
pub mod prompt;
pub mod qwen3_5;
pub mod qwen3_5_moe;
pub mod qwen3_next;
mod qwen_experts;
pub mod recurrent_gemma;
pub mod registry;
mod rope;
pub mod rwkv;
pub mod s4;
pub mod sampling;
pub mod sashimi;
pub mod serving;
pub mod shipped;
pub mod speculation;
pub mod ssm_hybrids;
pub mod state;
pub mod tasks;
pub mod tokenizer;
pub mod train;
mod understood;
pub mod xlstm;

pub use error::{ModelError, PrefixCacheError};
pub use model::{Info, LoadOptions, Logits, Model, WeightType};
pub use prefix_cache::{Prefilled, PrefixCache, PrefixCacheOptions};
pub use prompt::{PromptReading, ShortPrompt};
pub use shipped::text as shipped_text;
pub use state::{History, LayerState, Mark, Marks, ModelState, Replay, Rewind};
pub use tokenizer::Tokenizer;

/// Runs the README's example as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// Runs the example of diagnosis as a library as a test.
#[cfg(doctest)]
#[doc = concat!("```standalone_crate\n", include_str!("../examples/diagnosis.rs"), "\n```")]
struct DiagnosisExample;

/// Runs the example of training in twenty lines as a test.
#[cfg(doctest)]
#[doc = concat!("```standalone_crate\n", include_str!("../examples/train.rs"), "\n```")]
struct TrainExample;

/// Runs the example of losses and generation as a test.
#[cfg(doctest)]
#[doc = concat!("```standalone_crate\n", include_str!("../examples/losses_and_text.rs"), "\n```")]
struct LossesAndTextExample;
