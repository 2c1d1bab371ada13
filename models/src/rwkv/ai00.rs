//! The files of Ai00 and web-rwkv (`.st`): BlinkDL's tensors in safetensors, renamed and with low-rank matrices as `[out, in]`.
//!
//! | BlinkDL | here |
//! |---|---|
//! | `att.time_faaaa` (5, 6) | `att.time_first` |
//! | `time_maa_*` (6) | `time_mix_*` |
//! | low-rank matrices `[in, out]` (6, 7) | `[out, in]`; the five of version 6's interpolations each by itself |
//!
//! Version 4's are BlinkDL's to the letter. Some matrices are square, so that it is the file's ending which tells.

use serde_json::{Map, Value};

use super::blinkdl::{Dialect, NAMING, Version};
use crate::checkpoint::{Checkpoint, CheckpointError};

/// Name of these layouts, which is their publisher's.
pub(super) const NAME: &str = "Ai00";

const DIALECT: Dialect = Dialect {
    bonus: "blocks.0.att.time_first",
    interpolations: "blocks.0.att.time_mix_w1",
    rank: 0,
};

/// The field that says whether the matrices of version 6's interpolations are `[rank, 5, out]`.
pub(super) const RANK_FIRST: &str = "rank_first";

/// Why a checkpoint is a file of this version.
pub(super) fn recognise(checkpoint: &Checkpoint, version: Version) -> Option<String> {
    let path = checkpoint.weights_path();
    if path.extension()?.to_str()? != "st" || !checkpoint.has(NAMING.embedding) {
        return None;
    }
    let marks = [
        (Version::Seven, Version::Seven.mark()),
        (Version::Six, DIALECT.interpolations),
        (Version::Five, DIALECT.bonus),
    ];
    // Version 4 has a bonus of this name too, and no norm of heads.
    let has_heads = checkpoint.has(Version::Five.mark());
    let (found, mark) = marks.into_iter().find(|(_, mark)| checkpoint.has(mark))?;
    (found == version && has_heads)
        .then(|| format!("a file .st with tensors {} and {mark}", NAMING.embedding))
}

/// The configuration that the shapes give.
///
/// # Errors
/// As [`Version::config_in`].
pub(super) fn config(
    checkpoint: &Checkpoint,
    version: Version,
) -> Result<Map<String, Value>, CheckpointError> {
    let mut config = version.config_in(checkpoint, &DIALECT)?;
    let up = checkpoint.stored("blocks.0.att.time_mix_w2");
    let rank_first = up.is_some_and(|up| matches!(up.shape, [rank, 5, _] if *rank != 5));
    config.insert(RANK_FIRST.into(), rank_first.into());
    Ok(config)
}
