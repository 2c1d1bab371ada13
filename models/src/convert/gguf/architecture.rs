//! Which checkpoints can be written as GGUF, and what such a file says of them.

use std::path::PathBuf;

use spillway_ssm_core::operators::{RotaryPlan, RotaryScaling};

use crate::checkpoint::gguf::conversion::HeadCounts;
use crate::checkpoint::gguf::names::{
    LLAMA_NAMES, MAMBA1_NAMES, MAMBA2_NAMES, Names, RWKV6_NAMES, RWKV7_NAMES,
};
use crate::checkpoint::gguf::write::Field;
use crate::checkpoint::{Checkpoint, CheckpointError, Fields};
use crate::layout::Layout;
use crate::llama::POSITIONS as LLAMA_POSITIONS;
use crate::mamba2::layout::NORM_EPS;
use crate::mamba2::{self, Publication};

/// llama.cpp wants a length; a recurrence has none.
const ANY_LENGTH: u32 = 1 << 20;
/// ε of the norms that the authors' layouts do not name.
const EPS: f32 = 1e-5;

/// A checkpoint in the terms of a file.
pub(super) struct Architecture {
    pub name: &'static str,
    pub names: &'static Names,
    pub heads: HeadCounts,
    pub blocks: usize,
    /// Rows of the embedding.
    pub rows: usize,
    /// Whether the head is left out where it is the embedding.
    pub may_be_tied: bool,
    /// Fields of the file's header, by their names behind the architecture's.
    pub fields: Vec<(&'static str, Field)>,
    /// f / f' of every pair of Llama 3's rescaled angles.
    pub rope_factors: Option<Vec<f32>>,
    /// The embedding's name, which the authors of Mamba write in another way.
    pub embedding: &'static str,
}

impl Architecture {
    /// The architecture of a checkpoint in `layout`.
    ///
    /// # Errors
    /// [`CheckpointError::NotGguf`] for layouts that are not written, and for what the format has no field for; those of the configuration.
    pub fn of(checkpoint: &Checkpoint, layout: &Layout) -> Result<Self, CheckpointError> {
        let found = Found {
            checkpoint,
            fields: checkpoint.config(),
        };
        let original = layout.name == Publication::Original.name();
        match (layout.architecture, layout.name) {
            ("mamba1", _) => found.mamba1(original),
            ("mamba2", _) => found.mamba2(original),
            ("rwkv6", "BlinkDL") => found.rwkv("rwkv6", &RWKV6_NAMES),
            ("rwkv7", "BlinkDL") => found.rwkv("rwkv7", &RWKV7_NAMES),
            ("llama", _) => found.llama(),
            (architecture, name) => Err(found.refused(format!(
                "found {architecture} in the layout of {name}; mamba1 and mamba2 (original, Hugging Face), rwkv6 and rwkv7 (BlinkDL) and \
                 llama (Hugging Face) are written"
            ))),
        }
    }
}

/// A checkpoint that is looked through.
struct Found<'a> {
    checkpoint: &'a Checkpoint,
    fields: Fields<'a>,
}

impl Found<'_> {
    fn refused(&self, reason: impl Into<String>) -> CheckpointError {
        CheckpointError::NotGguf {
            path: self.path(),
            reason: reason.into(),
        }
    }

    fn path(&self) -> PathBuf {
        self.checkpoint.weights_path().to_path_buf()
    }

    /// The shape of a tensor.
    fn shape<const D: usize>(&self, name: &str) -> Result<[usize; D], CheckpointError> {
        let stored = self.checkpoint.stored(name);
        let shape = stored.and_then(|stored| stored.shape.try_into().ok());
        shape.ok_or_else(|| self.refused(format!("expected a tensor {name} of {D} dimensions")))
    }

    /// How many blocks there are, each of which has the tensor `PREFIX.N.part`.
    fn blocks(&self, prefix: &str, part: &str) -> usize {
        (0..)
            .take_while(|block| self.checkpoint.has(&format!("{prefix}.{block}.{part}")))
            .count()
    }

    fn whole(&self, number: usize) -> Result<Field, CheckpointError> {
        match u32::try_from(number) {
            Ok(number) => Ok(Field::Whole(number)),
            Err(_) => Err(self.refused(format!("a size of {number}"))),
        }
    }

    /// What both Mambas have.
    fn mamba(
        &self,
        original: bool,
        name: &'static str,
        names: &'static Names,
    ) -> Result<Architecture, CheckpointError> {
        let embedding = match original {
            true => Publication::Original.embedding_name(),
            false => Publication::HuggingFace.embedding_name(),
        };
        let [rows, width] = self.shape(embedding)?;
        let blocks = self.blocks("backbone.layers", "norm.weight");
        let first = |part: &str| format!("backbone.layers.0.mixer.{part}");
        let [_, inner] = self.shape(&first("out_proj.weight"))?;
        let [_, _, taps] = self.shape(&first("conv1d.weight"))?;
        let eps = match original {
            true => EPS,
            false => self.fields.positive_or(self.fields.given(NORM_EPS)?, EPS)?,
        };
        Ok(Architecture {
            name,
            names,
            heads: HeadCounts::default(),
            blocks,
            rows,
            may_be_tied: true,
            rope_factors: None,
            embedding,
            fields: vec![
                ("vocab_size", self.whole(rows)?),
                ("context_length", Field::Whole(ANY_LENGTH)),
                ("embedding_length", self.whole(width)?),
                ("block_count", self.whole(blocks)?),
                ("feed_forward_length", Field::Whole(0)),
                ("attention.head_count", Field::Whole(0)),
                ("attention.layer_norm_rms_epsilon", Field::Real(eps)),
                ("ssm.inner_size", self.whole(inner)?),
                ("ssm.conv_kernel", self.whole(taps)?),
            ],
        })
    }

    fn mamba1(&self, original: bool) -> Result<Architecture, CheckpointError> {
        if self.fields.text("model_type")? == Some("falcon_mamba") {
            return Err(self.refused(
                "the norms of the step size, B and C (falcon_mamba) have an epsilon of their own, for which the format has no field",
            ));
        }
        let mut found = self.mamba(original, "mamba", &MAMBA1_NAMES)?;
        let [_, state] = self.shape("backbone.layers.0.mixer.A_log")?;
        let [_, rank] = self.shape("backbone.layers.0.mixer.dt_proj.weight")?;
        found.fields.extend([
            ("ssm.state_size", self.whole(state)?),
            ("ssm.time_step_rank", self.whole(rank)?),
            ("ssm.dt_b_c_rms", Field::Bool(false)),
        ]);
        Ok(found)
    }

    fn mamba2(&self, original: bool) -> Result<Architecture, CheckpointError> {
        let publication = match original {
            true => Publication::Original,
            false => Publication::HuggingFace,
        };
        let has_head = self.checkpoint.has(mamba2::layout::HEAD);
        let mixer = mamba2::Config::parse(&self.fields, publication, || has_head)?.mixer;
        if mixer.dt_limit != (0.0, f32::INFINITY) {
            let (low, high) = mixer.dt_limit;
            return Err(self.refused(format!(
                "step sizes are bounded to [{low}, {high}], for which the format has no field"
            )));
        }
        if mixer.skip_per_channel {
            return Err(self.refused("D has a value per channel, where the format has one per head"));
        }
        let mut found = self.mamba(original, "mamba2", &MAMBA2_NAMES)?;
        found.heads.groups = mixer.num_groups;
        found.fields.extend([
            ("ssm.state_size", self.whole(mixer.state_dim)?),
            ("ssm.time_step_rank", self.whole(mixer.num_heads)?),
            ("ssm.group_count", self.whole(mixer.num_groups)?),
        ]);
        Ok(found)
    }

    fn rwkv(&self, name: &'static str, names: &'static Names) -> Result<Architecture, CheckpointError> {
        let [rows, width] = self.shape("emb.weight")?;
        let blocks = self.blocks("blocks", "ln1.weight");
        let att = |part: &str| format!("blocks.0.att.{part}");
        let [hidden, _] = self.shape("blocks.0.ffn.key.weight")?;
        let mut fields = vec![
            ("vocab_size", self.whole(rows)?),
            ("context_length", Field::Whole(ANY_LENGTH)),
            ("embedding_length", self.whole(width)?),
            ("block_count", self.whole(blocks)?),
            ("feed_forward_length", self.whole(hidden)?),
            ("attention.head_count", Field::Whole(0)),
            ("attention.layer_norm_epsilon", Field::Real(EPS)),
            ("token_shift_count", Field::Whole(2)),
        ];
        let mut heads = HeadCounts::default();
        let columns = |part: &str| self.shape::<2>(part).map(|[_, columns]| columns);
        if name == "rwkv6" {
            heads.width = columns(&att("time_faaaa"))?;
            fields.extend([
                ("wkv.head_size", self.whole(heads.width)?),
                (
                    "time_mix_extra_dim",
                    self.whole(columns(&att("time_maa_w1"))? / 5)?,
                ),
                (
                    "time_decay_extra_dim",
                    self.whole(columns(&att("time_decay_w1"))?)?,
                ),
                ("rescale_every_n_layers", Field::Whole(0)),
            ]);
        } else {
            heads.width = columns(&att("r_k"))?;
            // A model of one block has no value residual.
            let residual = match blocks {
                0 | 1 => columns(&att("a1"))?,
                _ => columns("blocks.1.att.v1")?,
            };
            fields.extend([
                ("wkv.head_size", self.whole(heads.width)?),
                ("attention.decay_lora_rank", self.whole(columns(&att("w1"))?)?),
                ("attention.iclr_lora_rank", self.whole(columns(&att("a1"))?)?),
                ("attention.value_residual_mix_lora_rank", self.whole(residual)?),
                ("attention.gate_lora_rank", self.whole(columns(&att("g1"))?)?),
            ]);
        }
        Ok(Architecture {
            name,
            names,
            heads,
            blocks,
            rows,
            may_be_tied: false,
            rope_factors: None,
            fields,
            embedding: "emb.weight",
        })
    }

    fn llama(&self) -> Result<Architecture, CheckpointError> {
        if self.fields.has("sliding_window") {
            return Err(self.refused("the field sliding_window has no place in files of this architecture"));
        }
        let embedding = "model.embed_tokens.weight";
        let [rows, width] = self.shape(embedding)?;
        let blocks = self.blocks("model.layers", "input_layernorm.weight");
        let heads = self.fields.dimension("num_attention_heads")?;
        let keys = self.fields.dimension_or("num_key_value_heads", heads)?;
        let [query_rows, _] = self.shape("model.layers.0.self_attn.q_proj.weight")?;
        let head_dim = query_rows / heads;
        let [hidden, _] = self.shape("model.layers.0.mlp.up_proj.weight")?;
        let rotary = crate::rope::rotary(&self.fields, head_dim, LLAMA_POSITIONS)?;
        Ok(Architecture {
            name: "llama",
            names: &LLAMA_NAMES,
            heads: HeadCounts {
                queries: heads,
                keys,
                ..HeadCounts::default()
            },
            blocks,
            rows,
            may_be_tied: true,
            rope_factors: rotary.scaling.map(|scaling| factors(rotary, scaling)),
            embedding,
            fields: vec![
                ("vocab_size", self.whole(rows)?),
                (
                    "context_length",
                    self.whole(self.fields.dimension_or("max_position_embeddings", 2048)?)?,
                ),
                ("embedding_length", self.whole(width)?),
                ("block_count", self.whole(blocks)?),
                ("feed_forward_length", self.whole(hidden)?),
                ("attention.head_count", self.whole(heads)?),
                ("attention.head_count_kv", self.whole(keys)?),
                ("attention.key_length", self.whole(head_dim)?),
                ("attention.value_length", self.whole(head_dim)?),
                (
                    "attention.layer_norm_rms_epsilon",
                    Field::Real(self.fields.positive_or("rms_norm_eps", 1e-6)?),
                ),
                ("rope.dimension_count", self.whole(rotary.rotated_dim)?),
                ("rope.freq_base", Field::Real(rotary.base)),
            ],
        })
    }
}

/// f / f' of every pair.
fn factors(plan: RotaryPlan, scaling: RotaryScaling) -> Vec<f32> {
    let pairs = 0..plan.rotated_dim / 2;
    let frequency = |pair: usize| f64::from(plan.base).powf(-2.0 * pair as f64 / plan.rotated_dim as f64);
    pairs
        .map(frequency)
        .map(|frequency| (frequency / scaling.frequency(frequency)) as f32)
        .collect()
}
