//! How decays and step sizes begin, which decides what a model can retain at first.
//!
//! A head forgets over 1/(−Δ A) tokens. The published initialisation draws −A from U\[1, 16\] and Δ log-uniformly from \[1e-3, 1e-1\],
//! so that only one head in six remembers longer than 64 tokens. Slow ones are drawn from narrower ranges.

use super::result::StateSize;
use crate::error::ProgramError;
use burn::tensor::{Device, Tensor, TensorData};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use spillway_models::checkpoint::WriteDtype;
use spillway_models::registry::layouts_of;
use spillway_models::train::Parameters;
use std::path::Path;

/// How decays and step sizes begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Initialisation {
    /// As published: −A in \[1, 16\], Δ in \[1e-3, 1e-1\].
    #[default]
    Standard,
    /// −A in \[1, 2\], Δ in \[1e-4, 1e-3\]: heads remember 500 tokens and more.
    Slow,
    /// Any other ranges, as the configuration gives them.
    Ranges {
        /// Ends of the range that −A is drawn from uniformly.
        decay_rate: (f32, f32),
        /// Ends of the range that Δ is drawn from log-uniformly.
        step_size: (f64, f64),
    },
}

impl Initialisation {
    /// Whether it is the published one.
    pub fn is_standard(self) -> bool {
        self == Self::Standard
    }

    /// Ranges of −A and Δ.
    pub fn ranges(self) -> ((f32, f32), (f64, f64)) {
        match self {
            Self::Standard => ((1.0, 16.0), (1e-3, 1e-1)),
            Self::Slow => ((1.0, 2.0), (1e-4, 1e-3)),
            Self::Ranges {
                decay_rate,
                step_size,
            } => (decay_rate, step_size),
        }
    }

    /// The initialisation in words, with its ranges of −A and Δ.
    pub fn words(self) -> String {
        let (decay_rate, step_size) = self.ranges();
        let name = match self {
            Self::Standard => "the published initialisation",
            Self::Slow => "slow initialisation",
            Self::Ranges { .. } => "an initialisation of its own",
        };
        format!(
            "{name}: −A from {} to {}, Δ from {} to {}",
            decay_rate.0, decay_rate.1, step_size.0, step_size.1
        )
    }

    /// Writes the initial weights of a model into the new folder `folder`; one that is there already stays.
    ///
    /// # Errors
    /// [`ProgramError::Model`] for sizes that no model has, or a folder that cannot be written.
    pub fn write(
        self,
        state: &StateSize,
        vocab_size: usize,
        seed: u64,
        folder: &Path,
    ) -> Result<(), ProgramError> {
        if folder.exists() {
            return Ok(());
        }
        let device = Device::flex();
        let Some(layout) = layouts_of("mamba2").next() else {
            return Err(ProgramError::Internal("there is no layout of Mamba-2".into()));
        };
        let mut parameters = Parameters::random(layout, &model_config(state, vocab_size), seed, &device)?;
        let (decay_rate, step_size) = self.ranges();
        for (index, parameter) in parameters.list_mut().iter_mut().enumerate() {
            let mut rng = StdRng::seed_from_u64(seed ^ (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let count = parameter.shape.iter().product::<usize>();
            let values: Vec<f32> = if parameter.name.ends_with(".A_log") {
                (0..count).map(|_| uniform(&mut rng, decay_rate).ln()).collect()
            } else if parameter.name.ends_with(".dt_bias") {
                (0..count).map(|_| step_bias(&mut rng, step_size)).collect()
            } else {
                continue;
            };
            parameter.value = Tensor::from_data(TensorData::new(values, [count]), &device);
        }
        Ok(parameters.save(folder, WriteDtype::F32, None)?)
    }
}

/// `config.json` of the model.
pub fn model_config(state: &StateSize, vocab_size: usize) -> Map<String, Value> {
    let config = json!({
        "d_model": state.model_dim,
        "d_intermediate": 0,
        "n_layer": state.layers,
        "vocab_size": vocab_size,
        "ssm_cfg": {"layer": "Mamba2", "d_state": state.d_state, "headdim": state.head_dim},
        "attn_layer_idx": [],
        "attn_cfg": {},
        "rms_norm": true,
        "residual_in_fp32": true,
        "fused_add_norm": true,
        "pad_vocab_size_multiple": 16,
        "tie_embeddings": true
    });
    match config {
        Value::Object(map) => map,
        // The macro above makes an object.
        _ => Map::new(),
    }
}

fn uniform(rng: &mut StdRng, (low, high): (f32, f32)) -> f32 {
    low + (high - low) * rng.random::<f32>()
}

/// softplus⁻¹ of a log-uniform step size.
fn step_bias(rng: &mut StdRng, (low, high): (f64, f64)) -> f32 {
    let step = (low.ln() + (high.ln() - low.ln()) * rng.random::<f64>()).exp();
    // softplus(b) = step  ⇔  b = step + ln(1 − e^(−step))
    (step + (-(-step).exp_m1()).ln()) as f32
}
