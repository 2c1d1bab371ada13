//! xLSTM as its 7B model is: mLSTM in every layer, gated MLPs, caps on gates and logits.
//!
//! ```text
//! r ← r + mLSTM(RMSNorm(r)),  r ← r + W_down (SiLU(W_gate x) ∘ W_up x) with x = RMSNorm(r)          logits = cap(W_head RMSNorm(r))
//! ```
//!
//! | tensor of `backbone.blocks.N` | what it is in [`Mlstm::read`] |
//! |---|---|
//! | `norm_mlstm`, `norm_ffn` | the norms before mixer and MLP |
//! | `mlstm_layer.{q,k,v}`, `ogate_preact` | `q`, `k`, `v`, `ogate` |
//! | `mlstm_layer.qkv_opreact` | or the rows of all four, with `weight_mode: fused` |
//! | `mlstm_layer.igate_preact`, `fgate_preact` | `igate`, `fgate` |
//! | `mlstm_layer.ifgate_preact` | or the rows of both, fused |
//! | `mlstm_layer.multihead_norm`, `out_proj` | `norm`, `out_proj` |
//! | `ffn.proj_up_gate`, `proj_up`, `proj_down` | W_gate, W_up, W_down of the MLP |
//! | `ffn.proj_up_gate_z` | or the rows of the first, then those of the second, fused |
//!
//! Fields that choose among kernels or types of the same result (`mode`, `chunk_size`, `*_kernel`, `*_dtype`) are not looked at. sLSTM, which
//! this model does without, is not implemented. Source: Beck et al., *xLSTM 7B* (2503.13427).

use std::collections::BTreeMap;
use std::sync::Arc;

use spillway_attention_linear::gated_mlp::{GatedMlp, GatedMlpConfig, RowOrder};
use spillway_attention_linear::mlstm::{Mlstm, MlstmConfig};
use spillway_ssm_core::WeightSource;

use crate::checkpoint::{Checkpoint, CheckpointError, Fields, MAX_DIMENSION};
use crate::error::ModelError;
use crate::layout::{Assembly, Has, Layout, Outline, Parts, Preset, eos_ids, stored_config};
use crate::loader::Loader;
use crate::network::{Block, Channel, Norm, NormKind};

const EMBEDDING: &str = "backbone.embeddings.weight";

/// Hugging Face's layout of `xLSTMForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "xlstm",
    name: "Hugging Face",
    recognise,
    config: stored_config,
    parse,
    presets: PRESETS,
};

const PRESETS: &[Preset] = &[
    Preset {
        size: "tiny",
        config: r#"{"model_type": "xlstm", "architectures": ["xLSTMForCausalLM"], "vocab_size": 256, "hidden_size": 64,
            "num_hidden_layers": 2, "num_heads": 4, "ffn_proj_factor": 2.0, "tie_word_embeddings": false}"#,
    },
    Preset {
        size: "7b",
        config: r#"{"model_type": "xlstm", "architectures": ["xLSTMForCausalLM"], "vocab_size": 50304, "hidden_size": 4096,
            "num_hidden_layers": 32, "num_heads": 8, "tie_word_embeddings": false}"#,
    },
];

/// Names of the tensors of a mixer, and of an MLP.
#[derive(Clone, Copy, Debug)]
struct Names {
    mixer: &'static [(&'static str, &'static str)],
    mlp: &'static [(&'static str, &'static str)],
}

const SINGLE: Names = Names {
    mixer: &[
        ("ogate", "ogate_preact"),
        ("igate", "igate_preact"),
        ("fgate", "fgate_preact"),
        ("norm", "multihead_norm"),
    ],
    mlp: &[
        ("gate_proj", "proj_up_gate"),
        ("up_proj", "proj_up"),
        ("down_proj", "proj_down"),
    ],
};

const FUSED: Names = Names {
    mixer: &[
        ("q", "qkv_opreact"),
        ("k", "qkv_opreact"),
        ("v", "qkv_opreact"),
        ("ogate", "qkv_opreact"),
        ("igate", "ifgate_preact"),
        ("fgate", "ifgate_preact"),
        ("norm", "multihead_norm"),
    ],
    mlp: &[
        ("gate_proj", "proj_up_gate_z"),
        ("up_proj", "proj_up_gate_z"),
        ("down_proj", "proj_down"),
    ],
};

fn recognise(checkpoint: &Checkpoint) -> Option<String> {
    let model_type = checkpoint.config().text("model_type").ok()??;
    (model_type == "xlstm" && checkpoint.has(EMBEDDING))
        .then(|| format!("model_type {model_type:?}, tensor {EMBEDDING}"))
}

/// What a configuration file says.
struct Config {
    vocab_size: usize,
    num_layers: usize,
    names: Names,
    mixer: MlstmConfig,
    mlp: GatedMlpConfig,
    norm_eps: f32,
    /// Whether there is a norm before the head.
    last_norm: bool,
    logit_cap: f32,
    tied: bool,
    eos_ids: Vec<u32>,
}

fn config(fields: &Fields<'_>) -> Result<Config, CheckpointError> {
    let model_dim = fields.dimension(fields.given(["hidden_size", "embedding_dim"])?)?;
    let num_layers = fields.layers(fields.given(["num_hidden_layers", "num_blocks"])?)?;
    let vocab_size = fields.dimension("vocab_size")?;
    let norm_eps = fields.positive_or("norm_eps", 1e-6)?;
    let bias = fields.bool_or("use_bias", false)?;
    let num_heads = fields.dimension_or("num_heads", 8)?;
    let fused = match fields.text("weight_mode")? {
        None | Some("single") => false,
        Some("fused") => true,
        Some(_) => return Err(fields.unsupported("weight_mode", "\"single\" or \"fused\"")),
    };
    Ok(Config {
        vocab_size,
        num_layers,
        names: if fused { FUSED } else { SINGLE },
        mixer: MlstmConfig {
            model_dim,
            num_heads,
            key_dim: head_dim(fields, "qk_dim_factor", 0.5, [model_dim, num_heads])?,
            value_dim: head_dim(fields, "v_dim_factor", 1.0, [model_dim, num_heads])?,
            gate_cap: fields.positive_or("gate_soft_cap", 15.0)?,
            eps: fields.positive_or("eps", 1e-6)?,
            norm_eps,
            bias,
            joint_gates: fused,
        },
        mlp: GatedMlpConfig {
            model_dim,
            hidden_dim: mlp_dim(fields, model_dim)?,
            up_gate_bias: bias,
            down_bias: bias,
        },
        norm_eps,
        last_norm: fields.bool_or("add_out_norm", true)?,
        logit_cap: fields.positive_or("output_logit_soft_cap", 30.0)?,
        tied: fields.bool_or("tie_word_embeddings", false)?,
        eos_ids: eos_ids(fields, vocab_size)?,
    })
}

/// `model_dim` · the factor, rounded down, over the heads.
fn head_dim(
    fields: &Fields<'_>,
    name: &str,
    default: f64,
    [model_dim, num_heads]: [usize; 2],
) -> Result<usize, CheckpointError> {
    let value = fields.value(name);
    let width = value
        .map_or(Some(default), serde_json::Value::as_f64)
        .map(|factor| (model_dim as f64 * factor) as usize)
        .filter(|width| (1..=MAX_DIMENSION).contains(&(*width as u64)) && width.is_multiple_of(num_heads));
    width.map(|width| width / num_heads).ok_or_else(|| {
        let expected = format!("a factor that makes {model_dim} a multiple of the {num_heads} heads");
        fields.wrong(name, &expected, value)
    })
}

/// `ffn_proj_factor` · `model_dim`, rounded up.
fn mlp_dim(fields: &Fields<'_>, model_dim: usize) -> Result<usize, CheckpointError> {
    let factor = fields
        .value("ffn_proj_factor")
        .map_or(Some(2.667), serde_json::Value::as_f64);
    let multiple = fields.dimension_or("ffn_round_up_to_multiple_of", 64)?;
    let width = factor
        .filter(|factor| factor.is_finite() && *factor > 0.0)
        .map(|factor| ((model_dim as f64 * factor) as usize).next_multiple_of(multiple))
        .filter(|width| (1..=MAX_DIMENSION).contains(&(*width as u64)));
    width.ok_or_else(|| {
        let expected = format!("a factor that gives a width from 1 to {MAX_DIMENSION}");
        fields.wrong("ffn_proj_factor", &expected, fields.value("ffn_proj_factor"))
    })
}

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let config = config(fields)?;
    Ok(Assembly::new(move |loader| load(&config, loader)))
}

impl Config {
    fn norm(&self, loader: &mut Loader<'_>, name: &str) -> Result<Norm, ModelError> {
        let (width, bias) = (self.mixer.model_dim, self.mixer.bias);
        loader.norm(name, width, self.norm_eps, NormKind::Rms, bias)
    }

    fn block(&self, loader: &mut Loader<'_>, name: &str) -> Result<Block, ModelError> {
        let mixer = Mlstm::read(
            self.mixer,
            &mut loader.below(format!("{name}.mlstm_layer"), self.names.mixer),
        )?;
        let mlp = GatedMlp::read_in_order(
            self.mlp,
            RowOrder::GateFirst,
            &mut loader.below(format!("{name}.ffn"), self.names.mlp),
        )?;
        Ok(Block {
            norm: self.norm(loader, &format!("{name}.norm_mlstm"))?,
            mixer: Arc::new(mixer),
            channel: Some(Channel {
                norm: self.norm(loader, &format!("{name}.norm_ffn"))?,
                mixer: Arc::new(mlp),
            }),
        })
    }

    fn outline(&self) -> Outline {
        Outline {
            vocab_size: self.vocab_size,
            padded_vocab_size: self.vocab_size,
            model_dim: self.mixer.model_dim,
            tied: self.tied,
            eos_ids: self.eos_ids.clone(),
            details: BTreeMap::from([
                ("heads", self.mixer.num_heads.to_string()),
                ("width of a key", self.mixer.key_dim.to_string()),
                ("width of a value", self.mixer.value_dim.to_string()),
                ("width of the MLP", self.mlp.hidden_dim.to_string()),
                ("cap of the logits", self.logit_cap.to_string()),
            ]),
        }
    }
}

fn load(config: &Config, loader: &mut Loader<'_>) -> Result<Parts, ModelError> {
    let shape = [config.vocab_size, config.mixer.model_dim];
    let embedding = loader.embedding(EMBEDDING, shape)?;
    let mut head = loader.head("lm_head.weight", &embedding, shape, config.tied)?;
    head.soft_cap = Some(config.logit_cap);
    let blocks = (0..config.num_layers)
        .map(|layer| config.block(loader, &format!("backbone.blocks.{layer}")))
        .collect::<Result<_, _>>()?;
    Ok(Parts {
        outline: config.outline(),
        embedding,
        embedding_norm: None,
        blocks,
        norm: match config.last_norm {
            true => config.norm(loader, "backbone.out_norm")?,
            false => loader.no_norm(config.mixer.model_dim),
        },
        head,
    })
}
