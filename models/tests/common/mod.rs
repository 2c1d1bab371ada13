//! What several test files need: random checkpoints of any configuration, and Mamba-2 written out plainly in f64.

#![allow(dead_code, reason = "each test file uses a part")]

pub mod reference;

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use spillway_models::checkpoint::{CheckpointError, TensorPlan, WriteDtype, write_safetensors};
use spillway_models::{LoadOptions, Model};
use tempfile::TempDir;

/// A small model of arbitrary configuration.
#[derive(Clone, Debug)]
pub struct Case {
    pub hugging_face: bool,
    pub model_dim: usize,
    pub layers: usize,
    pub groups: usize,
    pub heads_per_group: usize,
    pub head_dim: usize,
    pub state_dim: usize,
    pub conv_width: usize,
    pub norm_before_gate: bool,
    pub gated_norm: bool,
    pub dt_limit: Option<(f32, f32)>,
    pub projection_bias: bool,
    pub conv_bias: bool,
    pub skip_per_channel: bool,
    pub tied: bool,
    pub vocab_size: usize,
    pub seed: u64,
}

/// Two layers of four heads, with 4 × 8 values of state each.
pub const SMALL: Case = Case {
    hugging_face: false,
    model_dim: 16,
    layers: 2,
    groups: 2,
    heads_per_group: 2,
    head_dim: 4,
    state_dim: 8,
    conv_width: 4,
    norm_before_gate: false,
    gated_norm: true,
    dt_limit: None,
    projection_bias: false,
    conv_bias: true,
    skip_per_channel: false,
    tied: true,
    vocab_size: 40,
    seed: 0,
};

/// Any configuration that can be published. The original layout has `expand` fixed to the ratio that the heads give.
pub fn cases() -> impl Strategy<Value = Case> {
    let sizes = (1usize..3, 1usize..4, 1usize..3, 1usize..4, 1usize..6, 1usize..5);
    let choices = (
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    );
    let limit = prop_oneof![Just(None), Just(Some((0.01, 0.05))), Just(Some((0.0, 0.02)))];
    (sizes, choices, limit, 2usize..40, any::<u64>()).prop_map(
        |(sizes, choices, dt_limit, vocab_size, seed)| {
            let (layers, groups, heads_per_group, head_dim, state_dim, conv_width) = sizes;
            let (
                hugging_face,
                norm_before_gate,
                gated_norm,
                projection_bias,
                conv_bias,
                skip_per_channel,
                tied,
            ) = choices;
            Case {
                hugging_face,
                model_dim: groups * heads_per_group * head_dim,
                layers,
                groups,
                heads_per_group,
                head_dim,
                state_dim,
                conv_width,
                norm_before_gate: norm_before_gate && !hugging_face,
                gated_norm: gated_norm || hugging_face,
                dt_limit,
                projection_bias,
                conv_bias,
                skip_per_channel: skip_per_channel && !hugging_face,
                tied,
                vocab_size,
                seed,
            }
        },
    )
}

impl Case {
    pub fn heads(&self) -> usize {
        self.groups * self.heads_per_group
    }

    pub fn inner(&self) -> usize {
        self.heads() * self.head_dim
    }

    pub fn conv_dim(&self) -> usize {
        self.inner() + 2 * self.groups * self.state_dim
    }

    pub fn padded_vocab_size(&self) -> usize {
        if self.hugging_face {
            self.vocab_size
        } else {
            self.vocab_size.next_multiple_of(8)
        }
    }

    pub fn config(&self) -> Value {
        if self.hugging_face {
            json!({
                "model_type": "mamba2", "hidden_size": self.model_dim, "num_hidden_layers": self.layers,
                "num_heads": self.heads(), "head_dim": self.head_dim, "state_size": self.state_dim,
                "n_groups": self.groups, "conv_kernel": self.conv_width, "expand": 1, "vocab_size": self.vocab_size,
                "layer_norm_epsilon": 1e-5, "use_bias": self.projection_bias, "use_conv_bias": self.conv_bias,
                "tie_word_embeddings": self.tied, "time_step_limit": self.dt_limit.unwrap_or((0.0, 1e30)),
                // Published conversions say so and are run otherwise.
                "norm_before_gate": true
            })
        } else {
            json!({
                "d_model": self.model_dim, "n_layer": self.layers, "vocab_size": self.vocab_size,
                "tie_embeddings": self.tied, "pad_vocab_size_multiple": 8, "rms_norm": true,
                "ssm_cfg": {
                    "layer": "Mamba2", "expand": 1, "headdim": self.head_dim, "d_state": self.state_dim,
                    "ngroups": self.groups, "d_conv": self.conv_width, "norm_before_gate": self.norm_before_gate,
                    "rmsnorm": self.gated_norm, "bias": self.projection_bias, "conv_bias": self.conv_bias,
                    "D_has_hdim": self.skip_per_channel, "dt_limit": self.dt_limit.unwrap_or((0.0, 1e30))
                }
            })
        }
    }

    /// Every tensor: name, shape, and the interval that its values are drawn from.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>, (f32, f32))> {
        let (width, inner, conv, heads) = (self.model_dim, self.inner(), self.conv_dim(), self.heads());
        let embedding = if self.hugging_face {
            "embeddings"
        } else {
            "embedding"
        };
        let mut all = vec![
            (
                format!("backbone.{embedding}.weight"),
                vec![self.padded_vocab_size(), width],
                (-1.0, 1.0),
            ),
            ("backbone.norm_f.weight".into(), vec![width], (0.5, 1.5)),
        ];
        if !self.tied {
            all.push((
                "lm_head.weight".into(),
                vec![self.padded_vocab_size(), width],
                (-1.0, 1.0),
            ));
        }
        for layer in 0..self.layers {
            let mut part = |name: &str, shape: Vec<usize>, range| {
                all.push((format!("backbone.layers.{layer}.{name}"), shape, range));
            };
            part("norm.weight", vec![width], (0.5, 1.5));
            part(
                "mixer.in_proj.weight",
                vec![inner + conv + heads, width],
                (-1.0, 1.0),
            );
            part("mixer.out_proj.weight", vec![width, inner], (-1.0, 1.0));
            part("mixer.conv1d.weight", vec![conv, 1, self.conv_width], (-1.0, 1.0));
            part("mixer.A_log", vec![heads], (-1.0, 2.7));
            part("mixer.dt_bias", vec![heads], (-5.0, 0.0));
            part(
                "mixer.D",
                vec![if self.skip_per_channel { inner } else { heads }],
                (0.0, 2.0),
            );
            if self.projection_bias {
                part("mixer.in_proj.bias", vec![inner + conv + heads], (-0.5, 0.5));
                part("mixer.out_proj.bias", vec![width], (-0.5, 0.5));
            }
            if self.conv_bias {
                part("mixer.conv1d.bias", vec![conv], (-0.5, 0.5));
            }
            if self.gated_norm {
                part("mixer.norm.weight", vec![inner], (0.5, 1.5));
            }
        }
        all
    }

    /// Writes the checkpoint.
    pub fn write(&self, folder: &Path) {
        let tensors = self.tensors();
        let plans: Vec<_> = tensors
            .iter()
            .map(|(name, shape, _)| TensorPlan {
                name: name.clone(),
                shape: shape.clone(),
            })
            .collect();
        let mut ranges = tensors.iter().map(|(_, _, range)| *range);
        let mut random = StdRng::seed_from_u64(self.seed);
        let mut bytes = Vec::new();
        let path = folder.join("model.safetensors");
        write_safetensors::<CheckpointError>(
            &path,
            &mut bytes,
            WriteDtype::F32,
            &plans,
            &BTreeMap::new(),
            |plan, sink| {
                let (low, high) = ranges.next().unwrap();
                let count: usize = plan.shape.iter().product();
                sink(
                    &(0..count)
                        .map(|_| random.random_range(low..high))
                        .collect::<Vec<_>>(),
                )
            },
        )
        .unwrap();
        std::fs::write(path, bytes).unwrap();
        std::fs::write(folder.join("config.json"), self.config().to_string()).unwrap();
    }

    /// The checkpoint in a folder of its own, loaded.
    pub fn load(&self) -> (TempDir, Model) {
        let folder = TempDir::new().unwrap();
        self.write(folder.path());
        let model = Model::load(folder.path(), &LoadOptions::default()).unwrap();
        (folder, model)
    }

    /// Some ids of the vocabulary.
    pub fn ids(&self, count: usize) -> Vec<u32> {
        let mut random = StdRng::seed_from_u64(!self.seed);
        (0..count)
            .map(|_| random.random_range(0..self.vocab_size as u32))
            .collect()
    }
}

/// ‖a − b‖ / ‖b‖; NaN anywhere makes it NaN, which is below no tolerance.
pub fn relative_error(a: impl IntoIterator<Item = f32>, b: impl IntoIterator<Item = f64>) -> f64 {
    let (a, b): (Vec<f32>, Vec<f64>) = (a.into_iter().collect(), b.into_iter().collect());
    assert_eq!(a.len(), b.len());
    let norm: f64 = b.iter().map(|y| y * y).sum();
    let difference: f64 = a.iter().zip(&b).map(|(x, y)| (f64::from(*x) - y).powi(2)).sum();
    if norm == 0.0 {
        difference.sqrt()
    } else {
        (difference / norm).sqrt()
    }
}
