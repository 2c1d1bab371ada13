//! Every published layout there is, in the order in which a checkpoint is held against them.
//!
//! A new architecture is a file with a [`Layout`] in it, declared beside its kin, and its line here.

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::layout::Layout;
use crate::{
    based, bigs, bst, fla, gss, h3, kimi_linear, lfm2, llama, mamba1, mamba2, mamba3, minimax, olmo_hybrid,
    qwen3_5, qwen3_5_moe, qwen3_next, recurrent_gemma, rwkv, s4, sashimi, ssm_hybrids, xlstm,
};

/// Every layout. A checkpoint has the first that recognises it.
const LAYOUTS: &[&Layout] = &[
    &mamba2::ORIGINAL,
    &mamba2::HUGGING_FACE,
    &mamba1::ORIGINAL,
    &mamba1::HUGGING_FACE,
    &based::PREFIX_LAYOUT,
    &based::LAYOUT,
    &llama::LAYOUT,
    &qwen3_5::LAYOUT,
    &qwen3_5::WITH_VISION,
    &olmo_hybrid::LAYOUT,
    &mamba3::ORIGINAL,
    &mamba3::FLA,
    &ssm_hybrids::granite::LAYOUT,
    &ssm_hybrids::falcon_h1::LAYOUT,
    &ssm_hybrids::bamba::LAYOUT,
    &ssm_hybrids::nemotron_h::LAYOUT,
    &ssm_hybrids::jamba::LAYOUT,
    &ssm_hybrids::zamba::LAYOUT,
    &ssm_hybrids::zamba2::LAYOUT,
    &minimax::LAYOUT,
    &recurrent_gemma::LAYOUT,
    &lfm2::LAYOUT,
    &fla::retnet::LAYOUT,
    &fla::gla::LAYOUT,
    &fla::simple_gla::LAYOUT,
    &fla::linear_attn::LAYOUT,
    &fla::hgrn::LAYOUT,
    &fla::hgrn2::LAYOUT,
    &fla::gsa::LAYOUT,
    &fla::abc::LAYOUT,
    &fla::rebased::LAYOUT,
    &fla::delta_net::LAYOUT,
    &fla::gated_deltanet::LAYOUT,
    &fla::kda::LAYOUT,
    &fla::gated_deltaproduct::LAYOUT,
    &fla::comba::LAYOUT,
    &fla::gdn2::LAYOUT,
    &fla::transformer::LAYOUT,
    &fla::samba::LAYOUT,
    // Their tensors are partly those of BlinkDL's other versions.
    &rwkv::rwkv5::AI00,
    &rwkv::rwkv6::AI00,
    &rwkv::rwkv7::AI00,
    &rwkv::rwkv4::BLINKDL,
    &rwkv::rwkv4::HUGGING_FACE,
    &rwkv::rwkv5::BLINKDL,
    &rwkv::rwkv5::HUGGING_FACE,
    &rwkv::rwkv6::BLINKDL,
    &rwkv::rwkv6::HUGGING_FACE,
    &rwkv::rwkv6::FLA,
    &rwkv::rwkv7::BLINKDL,
    &rwkv::rwkv7::FLA,
    &h3::LAYOUT,
    &h3::FIRST_LAYOUT,
    &s4::LAYOUT,
    &sashimi::LAYOUT,
    &sashimi::STANDALONE,
    &xlstm::LAYOUT,
    &qwen3_5_moe::LAYOUT,
    &qwen3_5_moe::WITH_VISION,
    &qwen3_next::LAYOUT,
    &kimi_linear::LAYOUT,
    &gss::LAYOUT,
    &bst::LAYOUT,
    &bigs::LAYOUT,
];

/// Every layout, in the order in which a checkpoint is held against them.
pub fn layouts() -> &'static [&'static Layout] {
    LAYOUTS
}

/// The layouts that models are written in: those with presets. The others, of which another tool makes the files, are only read.
pub fn written_layouts() -> impl Iterator<Item = &'static Layout> {
    LAYOUTS
        .iter()
        .copied()
        .filter(|layout| !layout.presets.is_empty())
}

/// Architectures that read whole sequences, both ways: their models answer tasks and fill in what is hidden, and foretell nothing.
const WITHOUT_NEXT_TOKEN: &[&str] = &["bigs"];

/// The layouts of language models among [`written_layouts`].
pub fn language_layouts() -> impl Iterator<Item = &'static Layout> {
    written_layouts().filter(|layout| !WITHOUT_NEXT_TOKEN.contains(&layout.architecture))
}

/// The layouts of an architecture that have presets, the one to take by default first.
pub fn layouts_of(architecture: &str) -> impl Iterator<Item = &'static Layout> {
    written_layouts().filter(move |layout| layout.architecture == architecture)
}

/// The layout of a checkpoint, and why.
///
/// # Errors
/// [`CheckpointError::UnknownLayout`], with what was found and what would have been accepted.
pub(crate) fn recognise(checkpoint: &Checkpoint) -> Result<(&'static Layout, String), CheckpointError> {
    let found = LAYOUTS
        .iter()
        .find_map(|layout| Some((*layout, (layout.recognise)(checkpoint)?)));
    found.map_or_else(|| Err(unknown(checkpoint)), Ok)
}

fn unknown(checkpoint: &Checkpoint) -> CheckpointError {
    let fields = checkpoint.config();
    let config = match fields.text("model_type") {
        Ok(Some(model_type)) => format!("model_type {model_type:?}"),
        _ => format!("fields {}", list(fields.names().into_iter())),
    };
    let accepted: Vec<String> = LAYOUTS
        .iter()
        .map(|layout| format!("{} ({})", layout.architecture, layout.name))
        .collect();
    CheckpointError::UnknownLayout {
        path: fields.path(),
        found: format!(
            "{config}, and in {} tensors {}",
            checkpoint.weights_path().display(),
            list(checkpoint.names())
        ),
        accepted: accepted.join(", "),
    }
}

/// The first few of many names.
fn list<'a>(mut names: impl Iterator<Item = &'a str>) -> String {
    let first: Vec<_> = names.by_ref().take(6).collect();
    match (first.is_empty(), names.count()) {
        (true, _) => "none".into(),
        (false, 0) => first.join(", "),
        (false, more) => format!("{} and {more} more", first.join(", ")),
    }
}
