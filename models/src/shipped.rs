//! The small checkpoint that is part of this crate, and the text that it is evaluated on.
//!
//! `tiny-mamba2-kjv` is a byte-level Mamba-2 of 138,456 weights in two layers, trained on the King James Bible in windows of
//! 64 bytes. Its heads forget so little over 64 tokens that it never learned to forget at all, so that on longer texts its
//! state fills and its loss climbs: from 1.46 nats per byte inside the training length to 3.60 after 8,192 tokens.
//! It was made by `models/configs/tiny-mamba2-kjv.toml`; `assets/tiny-mamba2-kjv/README.md` has the details.

use crate::checkpoint::{Checkpoint, CheckpointError};

/// Name of the checkpoint that is part of this crate.
pub const NAME: &str = "tiny-mamba2-kjv";
/// Tokens in a window of its training.
pub const TRAIN_LENGTH: u64 = 64;

/// Safetensors readers like their data at a multiple of eight bytes; ours copies values out and does not mind.
static WEIGHTS: &[u8] = include_bytes!("../assets/tiny-mamba2-kjv/model.safetensors");

/// The checkpoint, without loading its weights.
///
/// # Errors
/// As [`Checkpoint::open`], which this crate's tests exclude.
pub fn checkpoint() -> Result<Checkpoint, CheckpointError> {
    Checkpoint::from_static(
        NAME,
        include_str!("../assets/tiny-mamba2-kjv/config.json"),
        WEIGHTS,
    )
}

/// The text that was held out of its training: 400,000 bytes of the King James Bible, one token each.
pub fn text() -> &'static str {
    include_str!("../assets/tiny-mamba2-kjv/held-out.txt")
}
