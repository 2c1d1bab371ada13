//! Qwen3-Next: the layers of [Qwen3.5](crate::qwen3_5) with mixtures of experts, and projections ordered by heads of keys.
//!
//! | tensor of `model.layers.N` | shape |
//! |---|---|
//! | `linear_attn.in_proj_qkvz` | of every head of keys its query, its key, the values and the gates of its value heads × `hidden_size` |
//! | `linear_attn.in_proj_ba` | of every head of keys β, then the decays, of its value heads × `hidden_size` |
//! | `linear_attn.conv1d` | over all queries, then all keys, then all values |
//! | `mlp.gate` | `num_experts` × `hidden_size`, the router: a softmax over all experts |
//! | `mlp.experts.E.{gate,up,down}_proj` | `moe_intermediate_size` × `hidden_size` and back |
//! | `mlp.shared_expert.{gate,up,down}_proj`, `mlp.shared_expert_gate` | `shared_expert_intermediate_size` × `hidden_size` and back, times σ of one row |
//! | `mlp.{gate,up,down}_proj` | `intermediate_size` × `hidden_size` and back, of layers without experts |
//!
//! Layers without experts are those of `mlp_only_layers`, and all but every `decoder_sparse_step`-th (1). Everything else is as in Qwen3.5.
//!
//! Source: Qwen Team, the published configuration and transformers' `qwen3_next`.

use std::collections::BTreeSet;
use std::sync::Arc;

use burn::tensor::Tensor;
use spillway_attention_linear::delta_net::{DeltaNet, DeltaNetConfig};
use spillway_attention_linear::gated_mlp::{GatedMlp, GatedMlpConfig};
use spillway_attention_linear::heads::Heads;
use spillway_attention_linear::mixture::{ExpertTensors, Scores};
use spillway_ssm_core::weights::Below;
use spillway_ssm_core::{Init, Linear, Mixer, WeightSource};

use crate::checkpoint::{CheckpointError, Fields};
use crate::error::ModelError;
use crate::hybrid::layer_list;
use crate::layout::{Assembly, Has, Layout, Preset, stored_config};
use crate::loader::Loader;
use crate::qwen_experts::Experts;
use crate::qwen3_5;

/// Where the tensors are.
const MODEL: &str = "model";

/// Hugging Face's layout of `Qwen3NextForCausalLM`.
pub(crate) const LAYOUT: Layout = Layout {
    architecture: "qwen3_next",
    name: "Hugging Face",
    recognise: |checkpoint| qwen3_5::recognised(checkpoint, "qwen3_next", MODEL),
    config: stored_config,
    parse,
    presets: PRESETS,
};

const PRESETS: &[Preset] = &[
    Preset {
        size: "tiny",
        config: r#"{"model_type": "qwen3_next", "architectures": ["Qwen3NextForCausalLM"], "vocab_size": 256, "hidden_size": 64,
            "intermediate_size": 128, "num_hidden_layers": 2, "full_attention_interval": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 24, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
            "linear_key_head_dim": 16, "linear_value_head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2,
            "moe_intermediate_size": 32, "shared_expert_intermediate_size": 48, "norm_topk_prob": true}"#,
    },
    Preset {
        size: "80b",
        config: r#"{"model_type": "qwen3_next", "architectures": ["Qwen3NextForCausalLM"], "vocab_size": 151936, "hidden_size": 2048,
            "intermediate_size": 5120, "num_hidden_layers": 48, "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256,
            "linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
            "num_experts": 512, "num_experts_per_tok": 10, "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512,
            "norm_topk_prob": true, "rope_theta": 10000000.0, "partial_rotary_factor": 0.25}"#,
    },
];

/// The layers without experts, and their MLP.
#[derive(Clone, Debug)]
struct Dense {
    layers: BTreeSet<usize>,
    mlp: GatedMlpConfig,
}

fn dense(fields: &Fields<'_>, model_dim: usize, layers: usize) -> Result<Dense, CheckpointError> {
    let step = fields.dimension_or("decoder_sparse_step", 1)?;
    let mut dense_layers = layer_list(fields, "mlp_only_layers", layers)?;
    dense_layers.extend((0..layers).filter(|layer| !(layer + 1).is_multiple_of(step)));
    Ok(Dense {
        layers: dense_layers,
        mlp: GatedMlpConfig {
            model_dim,
            hidden_dim: fields.dimension_or("intermediate_size", 5632)?,
            up_gate_bias: false,
            down_bias: false,
        },
    })
}

fn parse(fields: &Fields<'_>, _: Has<'_>) -> Result<Assembly, ModelError> {
    let config = qwen3_5::config(fields, fields.bool_or("tie_word_embeddings", false)?)?;
    let scores = match fields.bool_or("norm_topk_prob", true)? {
        true => Scores::SoftmaxOfChosen,
        false => Scores::SoftmaxOfAll,
    };
    let experts = Experts::new(fields, config.model_dim, scores, ExpertTensors::Gated(&[]))?;
    let dense = dense(fields, config.model_dim, config.num_layers)?;
    Ok(Assembly::new(move |loader| {
        let channel = |loader: &mut Loader<'_>, name: &str, layer| -> Result<Arc<dyn Mixer>, ModelError> {
            match dense.layers.contains(&layer) {
                true => {
                    let source = &mut loader.below(format!("{name}.mlp"), &[]);
                    Ok(Arc::new(GatedMlp::read(dense.mlp, source)?))
                }
                false => Ok(Arc::new(experts.read(loader, name)?)),
            }
        };
        let mut parts = config.load(loader, MODEL, recurrence, channel)?;
        parts.outline.details.extend(experts.details());
        Ok(parts)
    }))
}

fn recurrence(loader: &mut Loader<'_>, name: &str, config: &DeltaNetConfig) -> Result<DeltaNet, ModelError> {
    let names = &[
        ("qkv_conv1d", "conv1d"),
        ("g_norm", "norm"),
        ("o_proj", "out_proj"),
    ];
    let mut source = ByKeyHead {
        tensors: loader.below(format!("{name}.linear_attn"), names),
        heads: config.heads,
        gates: None,
        decays: None,
    };
    DeltaNet::read(config.clone(), &mut source)
}

/// The tensors of a Gated DeltaNet whose projections are ordered by heads of keys, as one that has them ordered by what they give.
struct ByKeyHead<'s, 'a> {
    tensors: Below<'s, Loader<'a>>,
    heads: Heads,
    /// The gate, once the projection that holds its rows has been read.
    gates: Option<Linear>,
    /// The projection to decays, once the projection that holds its rows has been read.
    decays: Option<Linear>,
}

impl ByKeyHead<'_, '_> {
    /// The rows of `name` in as many parts as `widths`, which are those of one head of keys.
    fn parts<const N: usize>(
        &mut self,
        name: &str,
        widths: [usize; N],
        inputs: usize,
    ) -> Result<[Tensor<2>; N], ModelError> {
        let (count, rows) = (self.heads.key, widths.iter().sum::<usize>());
        let name = self.tensors.name(&format!("{name}.weight"));
        let stored: Tensor<2> =
            self.tensors
                .source()
                .stored(&name, [count * rows, inputs], Init::fan_in(inputs))?;
        let stored: Tensor<3> = stored.reshape([count, rows, inputs]);
        let mut start = 0;
        Ok(widths.map(|width| {
            let part = stored.clone().narrow(1, start, width);
            start += width;
            part.reshape([count * width, inputs])
        }))
    }

    fn packed(&mut self, matrix: Tensor<2>) -> Result<Linear, ModelError> {
        Ok(Linear::new(self.tensors.source().pack(matrix)?, None)?)
    }
}

impl WeightSource for ByKeyHead<'_, '_> {
    type Error = ModelError;

    fn linear_with(
        &mut self,
        name: &str,
        shape: [usize; 2],
        bias: bool,
        init: Init,
    ) -> Result<Linear, ModelError> {
        let (share, inputs) = (self.heads.value / self.heads.key, shape[1]);
        let (keys, values) = (self.heads.key_dim, share * self.heads.value_dim);
        let read = match name {
            "qkv_proj" => {
                let [query, key, value, gates] =
                    self.parts("in_proj_qkvz", [keys, keys, values, values], inputs)?;
                // Before another tensor is taken apart, whose type may be another.
                self.gates = Some(self.packed(gates)?);
                Some(self.packed(Tensor::cat(vec![query, key, value], 0))?)
            }
            "b_proj" => {
                let [beta, decays] = self.parts("in_proj_ba", [share; 2], inputs)?;
                self.decays = Some(self.packed(decays)?);
                Some(self.packed(beta)?)
            }
            "g_proj" => self.gates.take(),
            "a_proj" => self.decays.take(),
            _ => None,
        };
        match read {
            Some(linear) => Ok(linear),
            None => self.tensors.linear_with(name, shape, bias, init),
        }
    }

    fn stacked(
        &mut self,
        parts: &[(&str, usize)],
        in_features: usize,
        bias: bool,
    ) -> Result<Linear, ModelError> {
        self.tensors.stacked(parts, in_features, bias)
    }

    fn tensor<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
        init: Init,
    ) -> Result<Tensor<D>, ModelError> {
        self.tensors.tensor(name, shape, init)
    }
}
