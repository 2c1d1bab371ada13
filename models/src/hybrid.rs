//! What the original layout of Mamba-1 and Mamba-2 may have beside its recurrences: attention in some layers, and a gated MLP
//! after every mixer.
//!
//! | field | meaning |
//! |---|---|
//! | `attn_layer_idx` | layers whose mixer is attention, from 0 |
//! | `attn_cfg.num_heads`, `num_heads_kv`, `head_dim` | heads; those of keys and values (as many); width (`d_model` / heads) |
//! | `attn_cfg.rotary_emb_dim`, `_base`, `_interleaved` | values of a head that are turned (0), base (10000), pairing (halves) |
//! | `attn_cfg.d_conv` | taps of a convolution over queries, keys and values (0: none) |
//! | `attn_cfg.softmax_scale` | factor on q·k (head_dim^(−1/2)) |
//! | `attn_cfg.qkv_proj_bias`, `out_proj_bias` | biases (true) |
//! | `d_intermediate` | hidden width of the MLP, rounded up to a multiple of 128 (0: none) |
//!
//! Tensors of an attention layer: `mixer.in_proj` (rows of queries, keys, values), `mixer.conv1d`, `mixer.out_proj`; of an MLP:
//! `norm2`, `mlp.fc1` (rows of the values, then of the gate), `mlp.fc2`.

use std::collections::BTreeSet;
use std::sync::Arc;

use spillway_attention_linear::gated_mlp::{GatedMlp, GatedMlpConfig};
use spillway_attention_linear::softmax_attention::{SoftmaxAttention, SoftmaxAttentionConfig};
use spillway_ssm_core::operators::{Pairing, RotaryPlan};
use spillway_ssm_core::{ShortConvConfig, WeightSource};

use crate::checkpoint::{CheckpointError, Fields, MAX_DIMENSION};
use crate::error::ModelError;
use crate::loader::Loader;
use crate::network::{Channel, Norm};

/// The hidden width of an MLP is a multiple of this.
const MLP_MULTIPLE: usize = 128;

/// Attention layers and MLPs among recurrences; none by default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hybrid {
    /// Layers whose mixer is attention.
    pub attention_layers: BTreeSet<usize>,
    /// Mixer of the layers in `attention_layers`; `None` where there are none.
    pub attention: Option<SoftmaxAttentionConfig>,
    /// Hidden width of the MLP after every mixer.
    pub mlp_dim: Option<usize>,
}

/// What the original layout calls the tensors of an attention.
const ATTENTION_NAMES: &[(&str, &str)] = &[
    ("q_proj", "in_proj"),
    ("k_proj", "in_proj"),
    ("v_proj", "in_proj"),
    ("o_proj", "out_proj"),
];
/// What the original layout calls the tensors of an MLP.
const MLP_NAMES: &[(&str, &str)] = &[("up_proj", "fc1"), ("gate_proj", "fc1"), ("down_proj", "fc2")];

impl Hybrid {
    /// Reads the fields of the original layout.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] for a field that is missing, of the wrong type or contradicts another,
    /// [`CheckpointError::Unsupported`] for what this implementation does not have.
    pub(crate) fn read(
        fields: &Fields<'_>,
        model_dim: usize,
        layers: usize,
    ) -> Result<Self, CheckpointError> {
        let attention_layers = layer_list(fields, "attn_layer_idx", layers)?;
        let attention = match attention_layers.is_empty() {
            true => None,
            false => {
                let fields = fields.object("attn_cfg")?.ok_or_else(|| {
                    fields.wrong("attn_cfg", "an object, as there are attention layers", None)
                })?;
                Some(attention(&fields, model_dim)?)
            }
        };
        let mlp_dim = match whole(fields, "d_intermediate", 0)? {
            0 => None,
            width => Some(width.next_multiple_of(MLP_MULTIPLE)),
        };
        Ok(Self {
            attention_layers,
            attention,
            mlp_dim,
        })
    }

    /// The attention of a layer, if it has one, from the tensors below `name`.
    pub(crate) fn attention(
        &self,
        loader: &mut Loader<'_>,
        layer: usize,
        name: &str,
    ) -> Result<Option<SoftmaxAttention>, ModelError> {
        let config = self.attention.filter(|_| self.attention_layers.contains(&layer));
        let source = &mut loader.below(name, ATTENTION_NAMES);
        config
            .map(|config| SoftmaxAttention::read(config, source))
            .transpose()
    }

    /// The MLP of a layer, if there are any, from the tensors below `name` (`backbone.layers.N`).
    pub(crate) fn channel(
        &self,
        loader: &mut Loader<'_>,
        name: &str,
        model_dim: usize,
        norm: impl FnOnce(&mut Loader<'_>, &str) -> Result<Norm, ModelError>,
    ) -> Result<Option<Channel>, ModelError> {
        let Some(hidden_dim) = self.mlp_dim else {
            return Ok(None);
        };
        let config = GatedMlpConfig {
            model_dim,
            hidden_dim,
            up_gate_bias: false,
            down_bias: false,
        };
        let mlp = GatedMlp::read(config, &mut loader.below(format!("{name}.mlp"), MLP_NAMES))?;
        Ok(Some(Channel {
            norm: norm(loader, &format!("{name}.norm2"))?,
            mixer: Arc::new(mlp),
        }))
    }

    /// What there is to say about it, by name.
    pub(crate) fn details(&self) -> Vec<(&'static str, String)> {
        let layers = || {
            let indices: Vec<String> = self.attention_layers.iter().map(usize::to_string).collect();
            ("attention layers", indices.join(", "))
        };
        let attention = (!self.attention_layers.is_empty()).then(layers);
        let mlp = self.mlp_dim.map(|width| ("width of the MLP", width.to_string()));
        attention.into_iter().chain(mlp).collect()
    }
}

fn attention(fields: &Fields<'_>, model_dim: usize) -> Result<SoftmaxAttentionConfig, CheckpointError> {
    if !fields.bool_or("causal", false)? {
        return Err(fields.unsupported("causal", "true"));
    }
    if whole(fields, "mlp_dim", 0)? != 0 {
        return Err(fields.unsupported("mlp_dim", "0 (no MLP inside the attention)"));
    }
    let num_heads = fields.dimension("num_heads")?;
    let groups = fields.dimension_or("num_heads_kv", num_heads)?;
    if !num_heads.is_multiple_of(groups) {
        let expected = format!("a divisor of the {num_heads} heads");
        return Err(fields.wrong("num_heads_kv", &expected, Some(&groups.into())));
    }
    if !fields.has("head_dim") && !model_dim.is_multiple_of(num_heads) {
        let expected = format!("a divisor of d_model = {model_dim}, where head_dim is not given");
        return Err(fields.wrong("num_heads", &expected, Some(&num_heads.into())));
    }
    let head_dim = fields.dimension_or("head_dim", model_dim / num_heads)?;
    let base = fields.positive_or("rotary_emb_base", 10_000.0)?;
    let pairing = match fields.bool_or("rotary_emb_interleaved", false)? {
        true => Pairing::Interleaved,
        false => Pairing::Halves,
    };
    let scale = match fields.has("softmax_scale") {
        true => Some(fields.positive_or("softmax_scale", 1.0)?),
        false => None,
    };
    let mixer = SoftmaxAttentionConfig {
        model_dim,
        num_heads,
        num_key_value_heads: groups,
        head_dim,
        norm: None,
        rotary: rotary(fields, head_dim, base, pairing)?,
        window: None,
        scale,
        conv: match whole(fields, "d_conv", 0)? {
            0 => None,
            width => Some(ShortConvConfig { width, bias: true }),
        },
        gate: false,
        query_key_value_bias: fields.bool_or("qkv_proj_bias", true)?,
        output_bias: fields.bool_or("out_proj_bias", true)?,
    };
    // Each factor is at most 2^24, so this stays below 2^50.
    if (mixer.query_width() + 2 * mixer.key_width()) as u64 > MAX_DIMENSION {
        let expected = format!("heads that give the input projection at most {MAX_DIMENSION} rows");
        return Err(fields.wrong("head_dim", &expected, Some(&head_dim.into())));
    }
    Ok(mixer)
}

/// Heads that divide `d_model`, and how positions turn their features: `num_heads`, `rotary_emb_dim`.
pub(crate) struct EvenHeads {
    pub count: usize,
    /// Features of each head, `d_model` / `num_heads`.
    pub dim: usize,
    /// With the base 10000, by halves; nothing where no feature is turned.
    pub rotary: Option<RotaryPlan>,
}

impl EvenHeads {
    /// Reads the two fields.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] for a number of heads that does not divide `d_model`, and for features that no head has.
    pub(crate) fn read(fields: &Fields<'_>, model_dim: usize) -> Result<Self, CheckpointError> {
        let count = fields.dimension("num_heads")?;
        if !model_dim.is_multiple_of(count) {
            let expected = format!("a divisor of d_model = {model_dim}");
            return Err(fields.wrong("num_heads", &expected, Some(&count.into())));
        }
        let dim = model_dim / count;
        Ok(Self {
            count,
            dim,
            rotary: rotary(fields, dim, 10_000.0, Pairing::Halves)?,
        })
    }
}

/// `rotary_emb_dim`, beside what is known of the angles.
fn rotary(
    fields: &Fields<'_>,
    head_dim: usize,
    base: f32,
    pairing: Pairing,
) -> Result<Option<RotaryPlan>, CheckpointError> {
    let plan = RotaryPlan {
        rotated_dim: whole(fields, "rotary_emb_dim", 0)?,
        base,
        pairing,
        scaling: None,
    };
    if plan.validate(head_dim).is_err() {
        let expected = format!("an even number up to the {head_dim} features of a head");
        return Err(fields.wrong("rotary_emb_dim", &expected, fields.value("rotary_emb_dim")));
    }
    Ok(Some(plan).filter(|plan| plan.rotated_dim > 0))
}

/// A list of different layers; absent means none.
pub(crate) fn layer_list(
    fields: &Fields<'_>,
    name: &str,
    layers: usize,
) -> Result<BTreeSet<usize>, CheckpointError> {
    let Some(value) = fields.value(name) else {
        return Ok(BTreeSet::new());
    };
    let indices = value.as_array().map(|list| {
        let index = |v: &serde_json::Value| v.as_u64().map(|index| index as usize);
        list.iter()
            .map(|v| index(v).filter(|&index| index < layers))
            .collect()
    });
    match indices {
        Some(Some(indices)) => Ok(indices),
        _ => {
            let expected = format!("a list of layers from 0 to {}", layers.saturating_sub(1));
            Err(fields.wrong(name, &expected, Some(value)))
        }
    }
}

/// A whole number from 0 on.
pub(crate) fn whole(fields: &Fields<'_>, name: &str, default: usize) -> Result<usize, CheckpointError> {
    match fields.value(name) {
        None => Ok(default),
        Some(value) => match value.as_u64() {
            Some(number) if number <= MAX_DIMENSION => Ok(number as usize),
            _ => Err(fields.wrong(name, "a whole number from 0 to 16777216", Some(value))),
        },
    }
}
