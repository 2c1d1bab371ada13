//! The theory of state spaces: its views agree, it is what other people's software computes, and its measures remember.

mod delay;
mod differences;
mod equivalence_kernels;
mod equivalence_short;
mod equivalence_views;
mod errors;
mod errors_operators;
mod golden_gated;
mod golden_h3;
mod golden_hippo;
mod golden_init;
mod golden_kernels;
mod golden_s4_blocks;
mod golden_s4nd;
mod golden_streams;
mod hippo;
mod hippo_rnn;
mod mixers;
mod rules;
mod s4nd;
mod s4nd_relatives;
mod sampling;
mod support;
mod systems;
