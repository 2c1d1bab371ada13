//! What is read and written: checkpoints, PyTorch files, configurations and vocabularies, good ones and bad ones.

#[path = "../common/archive.rs"]
mod archive;
#[path = "../common/mod.rs"]
mod common;

mod bad_input;
mod chat;
mod checkpoint;
mod convert;
mod encoders;
mod ends;
mod gguf;
mod gguf_hybrids;
mod gguf_tokenizers;
mod gguf_widths;
mod gguf_write;
#[cfg(feature = "hub")]
mod hub;
mod pth;
mod random_checkpoints;
mod robustness;
mod rwkv_tokenizer;
mod sentencepiece;
mod shipped;
mod understood;
