//! BlinkDL's own files: which version they are of, and what their shapes say.
//!
//! There is no configuration. With the tensors of block 0:
//!
//! | number | from |
//! |---|---|
//! | `vocab_size`, `n_embd` | `emb.weight` |
//! | `n_layer` | the largest block index |
//! | `dim_att`, `dim_ffn` | rows of `att.key.weight`, `ffn.key.weight` |
//! | `head_size` | columns of `att.time_faaaa` (5, 6) or `att.r_k` (7) |
//! | ranks | columns of the low-rank matrices that read the input |
//!
//! ε is 1e-5, and 64e-5 for the heads' norm, in all published code.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use spillway_attention_linear::rwkv::HeadShape;

use super::{Backbone, Naming};
use crate::checkpoint::{Checkpoint, CheckpointError, Fields};

/// ε of the heads' norm.
pub(super) const HEAD_NORM_EPS: f32 = 64e-5;

pub(super) const NAMING: Naming = Naming {
    embedding: "emb.weight",
    blocks: "blocks",
    embedding_norm: "ln0",
    mixer_norm: "ln1",
    mixer: "att",
    channel_norm: "ln2",
    channel: "ffn",
    norm: "ln_out",
    head: "head.weight",
};

/// Vocabularies in which id 0 ends a text: GPT-NeoX's, and RWKV's own.
const VOCABULARIES: [usize; 2] = [50277, 65536];

/// A version, and the tensor of block 0 by which it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Four,
    Five,
    Six,
    Seven,
}

/// How a publisher calls and stores BlinkDL's tensors, as far as numbers are read off them.
pub(super) struct Dialect {
    /// Name of the tensor of block 0's bonus, in versions 5 and 6.
    pub(super) bonus: &'static str,
    /// The narrow layer of version 6's interpolations.
    pub(super) interpolations: &'static str,
    /// The dimension of a low-rank matrix from the input that is the rank.
    pub(super) rank: usize,
}

impl Dialect {
    const OWN: Self = Self {
        bonus: "blocks.0.att.time_faaaa",
        interpolations: "blocks.0.att.time_maa_w1",
        rank: 1,
    };
}

impl Version {
    /// The tensor that no earlier version has.
    pub(super) fn mark(self) -> &'static str {
        match self {
            Self::Four => "blocks.0.att.time_mix_k",
            Self::Five => "blocks.0.att.ln_x.weight",
            Self::Six => "blocks.0.att.time_maa_x",
            Self::Seven => "blocks.0.att.r_k",
        }
    }

    /// Why a checkpoint is of this version.
    pub(super) fn recognise(self, checkpoint: &Checkpoint) -> Option<String> {
        let found = [Self::Seven, Self::Six, Self::Five, Self::Four]
            .into_iter()
            .find(|version| checkpoint.has(version.mark()))?;
        (found == self && checkpoint.has(NAMING.embedding))
            .then(|| format!("tensors {} and {}", NAMING.embedding, self.mark()))
    }

    /// The low-rank matrices that the ranks of this version are the columns of.
    fn numbers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Four | Self::Five => &[],
            Self::Six => &[("decay_rank", "blocks.0.att.time_decay_w1")],
            Self::Seven => &[
                ("decay_rank", "blocks.0.att.w1"),
                ("rate_rank", "blocks.0.att.a1"),
                ("gate_rank", "blocks.0.att.g1"),
            ],
        }
    }

    /// The configuration that the shapes give.
    ///
    /// # Errors
    /// [`CheckpointError::TensorMissing`] and [`CheckpointError::Field`] for tensors that are missing or no matrices,
    /// [`CheckpointError::Unsupported`] for sub-versions that are not implemented.
    pub(super) fn config(self, checkpoint: &Checkpoint) -> Result<Map<String, Value>, CheckpointError> {
        refuse_variants(checkpoint)?;
        self.config_in(checkpoint, &Dialect::OWN)
    }

    /// As [`Version::config`], from tensors that are called and stored as `dialect` says.
    ///
    /// # Errors
    /// As there, but for sub-versions.
    pub(super) fn config_in(
        self,
        checkpoint: &Checkpoint,
        dialect: &Dialect,
    ) -> Result<Map<String, Value>, CheckpointError> {
        let matrix = |name| matrix(checkpoint, name);
        let rank = |name| matrix(name).map(|shape| shape[dialect.rank]);
        let [vocab_size, width] = matrix(NAMING.embedding)?;
        let mut config = Map::new();
        let mut set = |name: &str, value: usize| config.insert(name.to_string(), value.into());
        set("vocab_size", vocab_size);
        set("n_embd", width);
        set("n_layer", layers(checkpoint));
        set("dim_att", matrix("blocks.0.att.key.weight")?[0]);
        set("dim_ffn", matrix("blocks.0.ffn.key.weight")?[0]);
        let heads = match self {
            Self::Four => None,
            Self::Five | Self::Six => Some(dialect.bonus),
            Self::Seven => Some("blocks.0.att.r_k"),
        };
        if let Some(heads) = heads {
            set("head_size", matrix(heads)?[1]);
        }
        for (name, tensor) in self.numbers() {
            set(name, rank(tensor)?);
        }
        if self == Self::Six {
            // Five interpolations beside one another.
            set("mix_rank", rank(dialect.interpolations)? / 5);
        }
        if self == Self::Seven && layers(checkpoint) > 1 {
            set("value_rank", rank("blocks.1.att.v1")?);
        }
        Ok(config)
    }
}

fn layers(checkpoint: &Checkpoint) -> usize {
    let index = |name: &str| -> Option<usize> {
        let (index, _) = name.strip_prefix("blocks.")?.split_once('.')?;
        index.parse::<usize>().ok()?.checked_add(1)
    };
    checkpoint.names().filter_map(index).max().unwrap_or(0)
}

/// Rows and columns of a matrix, whatever they are.
fn matrix(checkpoint: &Checkpoint, name: &str) -> Result<[usize; 2], CheckpointError> {
    let path = checkpoint.weights_path().to_path_buf();
    let Some(stored) = checkpoint.stored(name) else {
        return Err(CheckpointError::TensorMissing {
            path,
            tensor: name.into(),
            expected: vec![],
        });
    };
    stored.shape.try_into().map_err(|_| CheckpointError::Field {
        path,
        field: format!("shape of {name}"),
        expected: "2 dimensions".into(),
        found: format!("{:?}", stored.shape),
    })
}

/// Sub-versions whose tensors are partly those of a version that is read.
fn refuse_variants(checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
    let unsupported = |tensor: &str, found: &str, accepted| CheckpointError::Unsupported {
        path: checkpoint.weights_path().into(),
        field: tensor.to_string(),
        found: found.to_string(),
        accepted,
    };
    let deep = checkpoint
        .names()
        .find(|name| name.contains(".ffn.s_emb") || name.contains(".ffn.s1") || name.contains(".att.qq"));
    if let Some(name) = deep {
        let accepted = "RWKV-7 (x070) without embeddings inside its blocks";
        return Err(unsupported(name, "a deep embedding (RWKV-7a, RWKV-7b)", accepted));
    }
    let is_five = Version::Five.recognise(checkpoint).is_some();
    if is_five && !checkpoint.has("blocks.0.att.time_faaaa") {
        let accepted = "RWKV-5.2 (x052), which has att.time_faaaa";
        return Err(unsupported(
            "blocks.0.att.time_decay",
            "RWKV-5.0 or 5.1",
            accepted,
        ));
    }
    Ok(())
}

/// The numbers that every version has, from the fields that [`Version::config`] gives.
///
/// # Errors
/// [`CheckpointError::Field`].
pub(super) fn backbone(
    fields: &Fields<'_>,
    details: BTreeMap<&'static str, String>,
) -> Result<Backbone, CheckpointError> {
    let vocab_size = fields.dimension("vocab_size")?;
    Ok(Backbone {
        naming: &NAMING,
        vocab_size,
        model_dim: fields.dimension("n_embd")?,
        layers: fields.layers("n_layer")?,
        eps: 1e-5,
        rescale_every: 0,
        norm_bias: true,
        embedding_norm: true,
        tied: false,
        eos_ids: VOCABULARIES
            .contains(&vocab_size)
            .then_some(0)
            .into_iter()
            .collect(),
        details,
    })
}

/// Heads of `head_size` in `dim_att` channels.
///
/// # Errors
/// [`CheckpointError::Field`] when one does not divide the other.
pub(super) fn head_shape(fields: &Fields<'_>) -> Result<HeadShape, CheckpointError> {
    let (channels, head_size) = (fields.dimension("dim_att")?, fields.dimension("head_size")?);
    if !channels.is_multiple_of(head_size) {
        let expected = format!("a divisor of dim_att = {channels}");
        return Err(fields.wrong("head_size", &expected, fields.value("head_size")));
    }
    Ok(HeadShape {
        model_dim: fields.dimension("n_embd")?,
        heads: channels / head_size,
        key_dim: head_size,
        value_dim: head_size,
    })
}
