//! Random Mamba-2 checkpoints in the original layout: the published shapes for benchmarks, tiny ones for tests.
//!
//! Initialised as the authors' code does it: −A uniform in [1, 16]; the bias of Δ such that softplus(bias) is log-uniform in
//! [1e-3, 1e-1] and at least 1e-4; D = 1; norms 1; projections and convolution uniform in ±1/√fan_in, the output projection
//! divided by √layers; embeddings normal with standard deviation 0.02.

use std::collections::BTreeMap;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;
use serde_json::{Value, json};

use crate::checkpoint::{CheckpointError, NewFile, NewFolder, TensorPlan, WriteDtype, write_safetensors};

/// Values made at a time.
const BLOCK: usize = 1 << 16;

/// The sizes of a model, by the names of the original configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Width of the residual stream.
    pub d_model: usize,
    /// Number of blocks.
    pub n_layer: usize,
    /// Ids of the tokenizer.
    pub vocab_size: usize,
    /// Rows of a head's state.
    pub d_state: usize,
    /// Columns of a head's state.
    pub headdim: usize,
    /// Groups that share B and C.
    pub ngroups: usize,
    /// Whether the gate is applied after the mixer's norm.
    pub norm_before_gate: bool,
}

impl Shape {
    /// The names that [`Shape::named`] knows.
    pub const NAMES: [&'static str; 6] = ["tiny", "130m", "370m", "780m", "1.3b", "2.7b"];

    /// A published shape, or `tiny` (byte-level, two layers of width 64).
    pub fn named(name: &str) -> Option<Self> {
        let (d_model, n_layer) = match name {
            "tiny" => {
                let (vocab_size, d_state, headdim) = (256, 16, 32);
                return Some(Self {
                    d_model: 64,
                    n_layer: 2,
                    vocab_size,
                    d_state,
                    headdim,
                    ..Self::PUBLISHED
                });
            }
            "130m" => (768, 24),
            "370m" => (1024, 48),
            "780m" => (1536, 48),
            "1.3b" => (2048, 48),
            "2.7b" => (2560, 64),
            _ => return None,
        };
        Some(Self {
            d_model,
            n_layer,
            ..Self::PUBLISHED
        })
    }

    /// What the published models have in common.
    const PUBLISHED: Self = Self {
        d_model: 768,
        n_layer: 24,
        vocab_size: 50277,
        d_state: 128,
        headdim: 64,
        ngroups: 1,
        norm_before_gate: false,
    };

    fn d_inner(&self) -> usize {
        2 * self.d_model
    }

    fn heads(&self) -> usize {
        self.d_inner() / self.headdim
    }

    fn conv_dim(&self) -> usize {
        self.d_inner() + 2 * self.ngroups * self.d_state
    }

    fn padded_vocab_size(&self) -> usize {
        self.vocab_size.next_multiple_of(16)
    }

    /// `config.json`. What the published files leave at its default is left out here too.
    pub fn config(&self) -> Value {
        let mut ssm = json!({"layer": "Mamba2"});
        if let Value::Object(ssm) = &mut ssm {
            let other = [
                ("d_state", self.d_state, Self::PUBLISHED.d_state),
                ("headdim", self.headdim, Self::PUBLISHED.headdim),
                ("ngroups", self.ngroups, Self::PUBLISHED.ngroups),
            ];
            let other = other.iter().filter(|(_, value, default)| value != default);
            ssm.extend(other.map(|(name, value, _)| (name.to_string(), json!(value))));
            if self.norm_before_gate {
                ssm.insert("norm_before_gate".into(), json!(true));
            }
        }
        json!({
            "d_model": self.d_model,
            "d_intermediate": 0,
            "n_layer": self.n_layer,
            "vocab_size": self.vocab_size,
            "ssm_cfg": ssm,
            "attn_layer_idx": [],
            "attn_cfg": {},
            "rms_norm": true,
            "residual_in_fp32": true,
            "fused_add_norm": true,
            "pad_vocab_size_multiple": 16,
            "tie_embeddings": true
        })
    }

    /// Every tensor of the checkpoint and how it is drawn.
    fn tensors(&self) -> Vec<(TensorPlan, Fill)> {
        let (width, inner, heads, conv) = (self.d_model, self.d_inner(), self.heads(), self.conv_dim());
        let fan_in = |n: usize| 1.0 / (n as f32).sqrt();
        let vocabulary = vec![self.padded_vocab_size(), width];
        let mut all = vec![(
            "backbone.embedding.weight".to_string(),
            vocabulary.clone(),
            Fill::Normal(0.02),
        )];
        for layer in 0..self.n_layer {
            let out_proj = Fill::Uniform(fan_in(inner) / (self.n_layer as f32).sqrt());
            let parts = [
                ("mixer.A_log", vec![heads], Fill::LogDecayRate),
                ("mixer.D", vec![heads], Fill::Ones),
                ("mixer.conv1d.bias", vec![conv], Fill::Uniform(fan_in(4))),
                ("mixer.conv1d.weight", vec![conv, 1, 4], Fill::Uniform(fan_in(4))),
                ("mixer.dt_bias", vec![heads], Fill::StepBias),
                (
                    "mixer.in_proj.weight",
                    vec![inner + conv + heads, width],
                    Fill::Uniform(fan_in(width)),
                ),
                ("mixer.norm.weight", vec![inner], Fill::Ones),
                ("mixer.out_proj.weight", vec![width, inner], out_proj),
                ("norm.weight", vec![width], Fill::Ones),
            ];
            all.extend(
                parts.map(|(part, shape, fill)| (format!("backbone.layers.{layer}.{part}"), shape, fill)),
            );
        }
        all.push(("backbone.norm_f.weight".into(), vec![width], Fill::Ones));
        // Stored though tied, as the published files have it.
        all.push(("lm_head.weight".into(), vocabulary, Fill::Normal(0.02)));
        all.into_iter()
            .map(|(name, shape, fill)| (TensorPlan { name, shape }, fill))
            .collect()
    }
}

/// Writes a random checkpoint into a new folder `path`.
///
/// # Errors
/// [`CheckpointError::Exists`] when there is something at `path`, [`CheckpointError::Io`] when it cannot be written; nothing
/// is left behind then.
pub fn write_random(path: &Path, shape: &Shape, dtype: WriteDtype, seed: u64) -> Result<(), CheckpointError> {
    let folder = NewFolder::create(path)?;
    let config = format!("{:#}\n", shape.config());
    let config_path = folder.temporary_path().join("config.json");
    std::fs::write(&config_path, config).map_err(CheckpointError::io(path, "writing"))?;
    let tensors = shape.tensors();
    let plans: Vec<TensorPlan> = tensors.iter().map(|(plan, _)| plan.clone()).collect();
    let fills: BTreeMap<&str, Fill> = tensors
        .iter()
        .map(|(plan, fill)| (plan.name.as_str(), *fill))
        .collect();
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    let mut file = NewFile::create(&folder.temporary_path().join("model.safetensors"))?;
    write_safetensors(path, file.writer(), dtype, &plans, &metadata, |plan, sink| {
        let mut rng = StdRng::seed_from_u64(tensor_seed(seed, &plan.name));
        let fill = fills.get(plan.name.as_str()).copied().unwrap_or(Fill::Ones);
        let count: usize = plan.shape.iter().product();
        let mut block = Vec::with_capacity(BLOCK);
        for begin in (0..count).step_by(BLOCK) {
            block.clear();
            fill.draw(&mut rng, BLOCK.min(count - begin), &mut block);
            sink(&block)?;
        }
        Ok::<(), CheckpointError>(())
    })?;
    file.commit()?;
    folder.commit()
}

/// A seed of its own for every tensor, and one and the same for the two tied ones (FNV-1a over the name).
fn tensor_seed(seed: u64, name: &str) -> u64 {
    let name = if name == "lm_head.weight" {
        "backbone.embedding.weight"
    } else {
        name
    };
    name.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// How the values of a tensor are drawn.
#[derive(Clone, Copy, Debug)]
enum Fill {
    Ones,
    /// Uniform in ± the bound.
    Uniform(f32),
    /// Normal with this standard deviation.
    Normal(f32),
    /// log U[1, 16].
    LogDecayRate,
    /// softplus⁻¹ of a log-uniform step size.
    StepBias,
}

impl Fill {
    fn draw(self, rng: &mut StdRng, count: usize, into: &mut Vec<f32>) {
        match self {
            Self::Ones => into.resize(into.len() + count, 1.0),
            Self::Uniform(bound) => into.extend((0..count).map(|_| rng.random_range(-bound..bound))),
            Self::Normal(deviation) => {
                into.extend(
                    rng.sample_iter::<f32, _>(StandardNormal)
                        .take(count)
                        .map(|v| deviation * v),
                );
            }
            Self::LogDecayRate => into.extend((0..count).map(|_| rng.random_range(1.0f32..16.0).ln())),
            Self::StepBias => into.extend((0..count).map(|_| {
                let step: f64 = rng.random_range(1e-3f64.ln()..1e-1f64.ln()).exp().max(1e-4);
                // softplus(b) = step  ⇔  b = step + ln(1 − e^(−step))
                (step + (-(-step).exp_m1()).ln()) as f32
            })),
        }
    }
}
