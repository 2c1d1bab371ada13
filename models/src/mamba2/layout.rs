//! The two published layouts of Mamba-2, told apart by what the files hold.
//!
//! | | original (`state-spaces/mamba2-*`) | Hugging Face (`Mamba2ForCausalLM`) |
//! |---|---|---|
//! | recognised by | `ssm_cfg` | `model_type` = `mamba2` |
//! | width, layers | `d_model`, `n_layer` | `hidden_size`, `num_hidden_layers` |
//! | heads H × P | `ssm_cfg.expand` · `d_model` / `ssm_cfg.headdim` | `num_heads` × `head_dim` |
//! | N, groups, taps | `ssm_cfg.{d_state, ngroups, d_conv}` | `state_size`, `n_groups`, `conv_kernel` |
//! | bounds of Δ | `ssm_cfg.dt_limit` | `time_step_limit` |
//! | Δ of a fresh model | `ssm_cfg.{dt_min, dt_max, dt_init_floor}` | `time_step_{min, max, floor}` |
//! | −A of a fresh model | `ssm_cfg.A_init_range` | not in the file |
//! | rows of the embedding | `vocab_size` rounded up to `pad_vocab_size_multiple` | `vocab_size` |
//! | embedding | `backbone.embedding.weight` | `backbone.embeddings.weight` |
//! | ε | 1e-5, not in the file | `layer_norm_epsilon` |
//!
//! Everything else has the same name and shape in both.
//!
//! One field of Hugging Face's is read but not followed: `norm_before_gate`. Published conversions say `true` there, yet
//! were trained, and are run by that code, with the gate first; following it gives wrong logits.

use spillway_ssm_core::ShortConvConfig;
use spillway_ssm_core::mamba2::{FreshGates, GateOrder, GatedNorm, Mamba2Config};

use super::Config;
use super::init::{HUGGING_FACE_STEPS, ORIGINAL_STEPS, rates, step_sizes};
use crate::checkpoint::{CheckpointError, Fields, MAX_DIMENSION};
use crate::hybrid::Hybrid;
use crate::layout::eos_ids;

/// The output projection, present in both layouts unless tied (and in the original one even then).
pub const HEAD: &str = "lm_head.weight";
/// ε of the norms, as transformers and as flash-linear-attention call it, whose own Mamba and Mamba-2 have the former's layout otherwise.
pub(crate) const NORM_EPS: [&str; 2] = ["layer_norm_epsilon", "norm_eps"];

/// A way of publishing a Mamba-2 model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publication {
    /// The layout of the authors' own code.
    Original,
    /// As `transformers` writes it.
    HuggingFace,
}

impl Publication {
    /// A word for reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Original => "original (state-spaces)",
            Self::HuggingFace => "Hugging Face",
        }
    }

    /// The tensor that holds the embedding.
    pub const fn embedding_name(self) -> &'static str {
        match self {
            Self::Original => "backbone.embedding.weight",
            Self::HuggingFace => "backbone.embeddings.weight",
        }
    }
}

impl Config {
    /// Reads the fields of a configuration in a known layout; `has_head` says whether a head is stored, and is asked only
    /// where the configuration leaves open whether it is tied.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] for a field that is missing, of the wrong type or contradicts another,
    /// [`CheckpointError::Unsupported`] for what this implementation does not have.
    pub fn parse(
        fields: &Fields<'_>,
        publication: Publication,
        has_head: impl FnOnce() -> bool,
    ) -> Result<Self, CheckpointError> {
        match publication {
            Publication::Original => original(fields),
            Publication::HuggingFace => hugging_face(fields, has_head),
        }
    }
}

fn original(fields: &Fields<'_>) -> Result<Config, CheckpointError> {
    let ssm = fields
        .object("ssm_cfg")?
        .ok_or_else(|| fields.wrong("ssm_cfg", "an object", None))?;
    if ssm.text("layer")? != Some("Mamba2") {
        return Err(ssm.unsupported("layer", "\"Mamba2\""));
    }
    if !fields.bool_or("rms_norm", true)? {
        return Err(fields.unsupported("rms_norm", "true (RMSNorm; LayerNorm is not implemented)"));
    }
    let model_dim = fields.dimension("d_model")?;
    let (expand, head_dim) = (ssm.dimension_or("expand", 2)?, ssm.dimension_or("headdim", 64)?);
    let inner = expand * model_dim;
    if ssm.has("d_ssm") && ssm.dimension("d_ssm")? != inner {
        return Err(ssm.unsupported("d_ssm", "expand times d_model (no MLP inside the mixer)"));
    }
    if !inner.is_multiple_of(head_dim) {
        let expected = format!("a divisor of expand · d_model = {inner}");
        return Err(ssm.wrong("headdim", &expected, Some(&head_dim.into())));
    }
    let order = gate_order(ssm.bool_or("norm_before_gate", false)?);
    let vocab_size = fields.dimension("vocab_size")?;
    let num_layers = fields.layers("n_layer")?;
    let config = Config {
        publication: Publication::Original,
        vocab_size,
        padded_vocab_size: vocab_size.next_multiple_of(fields.dimension_or("pad_vocab_size_multiple", 8)?),
        num_layers,
        mixer: Mamba2Config {
            model_dim,
            num_heads: inner / head_dim,
            head_dim,
            state_dim: ssm.dimension_or("d_state", 128)?,
            num_groups: ssm.dimension_or("ngroups", 1)?,
            conv: ShortConvConfig {
                width: ssm.dimension_or("d_conv", 4)?,
                bias: ssm.bool_or("conv_bias", true)?,
            },
            projection_bias: ssm.bool_or("bias", false)?,
            skip_per_channel: ssm.bool_or("D_has_hdim", false)?,
            dt_limit: ssm.interval_or("dt_limit", (0.0, f32::INFINITY))?,
            norm: ssm
                .bool_or("rmsnorm", true)?
                .then_some(GatedNorm { eps: 1e-5, order }),
            factors: None,
            fresh: FreshGates {
                rates: rates(&ssm)?,
                steps: step_sizes(&ssm, ORIGINAL_STEPS)?,
            },
            num_layers,
        },
        norm_eps: 1e-5,
        tied: fields.bool_or("tie_embeddings", true)?,
        hybrid: Hybrid::read(fields, model_dim, num_layers)?,
        eos_ids: Vec::new(),
    };
    check_sizes(&ssm, "ngroups", &config.mixer)?;
    Ok(config)
}

fn hugging_face(fields: &Fields<'_>, has_head: impl FnOnce() -> bool) -> Result<Config, CheckpointError> {
    if fields.text("model_type")? != Some("mamba2") {
        return Err(fields.unsupported("model_type", "\"mamba2\""));
    }
    if !matches!(fields.text("hidden_act")?, None | Some("silu" | "swish")) {
        return Err(fields.unsupported("hidden_act", "\"silu\""));
    }
    if !fields.bool_or("rms_norm", true)? {
        return Err(fields.unsupported("rms_norm", "true"));
    }
    // Checked for its type, then left alone: see the head of this file.
    fields.bool_or("norm_before_gate", false)?;
    let (model_dim, expand) = (
        fields.dimension("hidden_size")?,
        fields.dimension_or("expand", 2)?,
    );
    let (num_heads, head_dim) = (fields.dimension("num_heads")?, fields.dimension("head_dim")?);
    if num_heads * head_dim != expand * model_dim {
        let expected = format!(
            "num_heads · head_dim = expand · hidden_size = {}",
            expand * model_dim
        );
        return Err(fields.wrong(
            "num_heads",
            &expected,
            Some(&format!("{num_heads} · {head_dim}").into()),
        ));
    }
    let eps = fields.positive_or(fields.given(NORM_EPS)?, 1e-5)?;
    // transformers writes the field too, as true for Codestral, and gates before the norm whatever it says.
    let is_fla = fields.has(NORM_EPS[1]);
    let order = gate_order(is_fla && fields.bool_or("norm_before_gate", false)?);
    let vocab_size = fields.dimension("vocab_size")?;
    let num_layers = fields.layers("num_hidden_layers")?;
    let config = Config {
        publication: Publication::HuggingFace,
        vocab_size,
        padded_vocab_size: vocab_size,
        num_layers,
        mixer: Mamba2Config {
            model_dim,
            num_heads,
            head_dim,
            state_dim: fields.dimension("state_size")?,
            num_groups: fields.dimension("n_groups")?,
            conv: ShortConvConfig {
                width: fields.dimension_or("conv_kernel", 4)?,
                bias: fields.bool_or("use_conv_bias", true)?,
            },
            projection_bias: fields.bool_or("use_bias", false)?,
            skip_per_channel: fields.bool_or("D_has_hdim", false)?,
            dt_limit: fields.interval_or(
                fields.given(["time_step_limit", "dt_limit"])?,
                (0.0, f32::INFINITY),
            )?,
            norm: fields
                .bool_or("rmsnorm", true)?
                .then_some(GatedNorm { eps, order }),
            factors: None,
            fresh: FreshGates {
                steps: step_sizes(fields, HUGGING_FACE_STEPS)?,
                ..FreshGates::default()
            },
            num_layers,
        },
        norm_eps: eps,
        tied: fields.bool_or("tie_word_embeddings", !has_head())?,
        hybrid: Hybrid::default(),
        eos_ids: eos_ids(fields, vocab_size)?,
    };
    check_sizes(fields, "n_groups", &config.mixer)?;
    Ok(config)
}

fn gate_order(norm_before_gate: bool) -> GateOrder {
    if norm_before_gate {
        GateOrder::NormBeforeGate
    } else {
        GateOrder::NormAfterGate
    }
}

/// Groups divide heads, and the input projection (z, x, B, C, Δ) is of a size that can exist.
fn check_sizes(fields: &Fields<'_>, groups: &str, mixer: &Mamba2Config) -> Result<(), CheckpointError> {
    if !mixer.num_heads.is_multiple_of(mixer.num_groups) {
        let expected = format!("a divisor of the {} heads", mixer.num_heads);
        return Err(fields.wrong(groups, &expected, Some(&mixer.num_groups.into())));
    }
    // Each factor is at most 2^24, so this stays below 2^52.
    let rows = mixer.projection_dim() as u64;
    if rows > MAX_DIMENSION {
        let expected = format!("sizes that give the input projection at most {MAX_DIMENSION} rows");
        return Err(fields.wrong("expand", &expected, Some(&rows.into())));
    }
    Ok(())
}
