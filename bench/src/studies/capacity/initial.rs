//! How decays and step sizes begin, which decides what a model can retain at first.
//!
//! A head forgets over 1/(−Δ A) tokens. The published initialisation draws −A from U\[1, 16\] and Δ log-uniformly from \[1e-3, 1e-1\],
//! so that only one head in six remembers longer than 64 tokens. Slow ones are drawn from narrower ranges. Geometric ones are not drawn: with
//! Δ the same for all, head h of H forgets half in
//!
//! ```text
//! t_h = shortest · (longest / shortest)^(h / (H − 1))  tokens,   −A_h = ln 2 / (Δ t_h)
//! ```
//!
//! in every layer, so that each octave of distances has as many heads. What a head does with a token is still learned: Δ depends on it.
//! Decays spaced like this up to the training length are part of PoST (2604.07658), which has a law of its own beside them.

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
    /// Half-lives of the heads of each layer in geometric progression.
    Geometric {
        /// Half-life of the first head in tokens.
        shortest: f64,
        /// Half-life of the last head in tokens. Default: the training length.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        longest: Option<f64>,
        /// Δ of every head.
        #[serde(default = "frozen_step")]
        step_size: f64,
    },
    /// Any other ranges, as the configuration gives them.
    Ranges {
        /// Ends of the range that −A is drawn from uniformly.
        decay_rate: (f32, f32),
        /// Ends of the range that Δ is drawn from log-uniformly.
        step_size: (f64, f64),
    },
}

fn frozen_step() -> f64 {
    0.05
}

/// What the values of a model's heads are made from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Spectrum {
    /// Drawn from ranges: −A uniformly, Δ log-uniformly.
    Drawn {
        decay_rate: (f32, f32),
        step_size: (f64, f64),
    },
    /// Half-lives in tokens spaced geometrically between two ends, Δ the same for all.
    Spaced { ends: (f64, f64), step_size: f64 },
}

impl Initialisation {
    /// Whether it is the published one.
    pub fn is_standard(self) -> bool {
        self == Self::Standard
    }

    /// What is wrong with it, as what is expected and what is found instead.
    pub fn fault(self) -> Option<(String, String)> {
        let Self::Geometric {
            shortest,
            longest,
            step_size,
        } = self
        else {
            return None;
        };
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let expected = "tasks.initialisation.geometric with half-lives and a step size above 0";
        (!positive(shortest) || !longest.is_none_or(positive) || !positive(step_size))
            .then(|| (expected.to_string(), format!("{self:?}")))
    }

    /// Where the values come from, for a training of `train_length` tokens.
    fn spectrum(self, train_length: u64) -> Spectrum {
        let drawn = |decay_rate, step_size| Spectrum::Drawn {
            decay_rate,
            step_size,
        };
        match self {
            Self::Standard => drawn((1.0, 16.0), (1e-3, 1e-1)),
            Self::Slow => drawn((1.0, 2.0), (1e-4, 1e-3)),
            Self::Geometric {
                shortest,
                longest,
                step_size,
            } => Spectrum::Spaced {
                ends: (shortest, longest.unwrap_or(train_length as f64)),
                step_size,
            },
            Self::Ranges {
                decay_rate,
                step_size,
            } => drawn(decay_rate, step_size),
        }
    }

    /// The initialisation in words, with its ranges of −A and Δ.
    pub fn words(self) -> String {
        let name = match self {
            Self::Standard => "the published initialisation",
            Self::Slow => "slow initialisation",
            Self::Geometric { .. } => "geometric half-lives",
            Self::Ranges { .. } => "an initialisation of its own",
        };
        match (self, self.spectrum(0)) {
            (
                _,
                Spectrum::Drawn {
                    decay_rate,
                    step_size,
                },
            ) => format!(
                "{name}: −A from {} to {}, Δ from {} to {}",
                decay_rate.0, decay_rate.1, step_size.0, step_size.1
            ),
            (Self::Geometric { longest: None, .. }, Spectrum::Spaced { ends, step_size }) => {
                format!(
                    "{name}: from {} tokens to the training length, Δ = {step_size}",
                    ends.0
                )
            }
            (_, Spectrum::Spaced { ends, step_size }) => {
                format!("{name}: from {} to {} tokens, Δ = {step_size}", ends.0, ends.1)
            }
        }
    }

    /// Writes the initial weights of a model that is trained at `train_length` tokens into the new folder `folder`; one that is there already
    /// stays.
    ///
    /// # Errors
    /// [`ProgramError::Model`] for sizes that no model has, or a folder that cannot be written.
    pub fn write(
        self,
        (state, train_length): (&StateSize, u64),
        vocab_size: usize,
        seed: u64,
        folder: &Path,
    ) -> Result<(), ProgramError> {
        if folder.exists() {
            return Ok(());
        }
        let device = Device::flex();
        let mut parameters = fresh(&model_config(state, vocab_size), seed, &device)?;
        let spectrum = self.spectrum(train_length);
        for (index, parameter) in parameters.list_mut().iter_mut().enumerate() {
            let mut rng = StdRng::seed_from_u64(seed ^ (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let count = parameter.shape.iter().product::<usize>();
            let values = if parameter.name.ends_with(".A_log") {
                spectrum.decay_logs(count, &mut rng)
            } else if parameter.name.ends_with(".dt_bias") {
                spectrum.step_biases(count, &mut rng)
            } else {
                continue;
            };
            parameter.value = Tensor::from_data(TensorData::new(values, [count]), &device);
        }
        Ok(parameters.save(folder, WriteDtype::F32, None)?)
    }
}

impl Spectrum {
    /// ln(−A) of every head.
    fn decay_logs(self, heads: usize, rng: &mut StdRng) -> Vec<f32> {
        match self {
            Self::Drawn { decay_rate, .. } => (0..heads).map(|_| uniform(rng, decay_rate).ln()).collect(),
            Self::Spaced { ends, step_size } => {
                let octaves = (ends.1 / ends.0).ln();
                let last = heads.saturating_sub(1).max(1) as f64;
                let half_life = |head: usize| ends.0 * (octaves * head as f64 / last).exp();
                let log = |head: usize| (std::f64::consts::LN_2 / (step_size * half_life(head))).ln();
                (0..heads).map(|head| log(head) as f32).collect()
            }
        }
    }

    /// softplus⁻¹(Δ) of every head.
    fn step_biases(self, heads: usize, rng: &mut StdRng) -> Vec<f32> {
        match self {
            Self::Drawn {
                step_size: (low, high),
                ..
            } => {
                let mut step = || (low.ln() + (high.ln() - low.ln()) * rng.random::<f64>()).exp();
                (0..heads).map(|_| step_bias(step())).collect()
            }
            Self::Spaced { step_size, .. } => vec![step_bias(step_size); heads],
        }
    }
}

/// The parameters of a fresh Mamba-2.
///
/// # Errors
/// [`ProgramError::Model`] for sizes that no model has.
pub fn fresh(config: &Map<String, Value>, seed: u64, device: &Device) -> Result<Parameters, ProgramError> {
    let Some(layout) = layouts_of("mamba2").next() else {
        return Err(ProgramError::Internal("there is no layout of Mamba-2".into()));
    };
    Ok(Parameters::random(layout, config, seed, device)?)
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

/// softplus⁻¹ of a step size: softplus(b) = Δ  ⇔  b = Δ + ln(1 − e^(−Δ)).
fn step_bias(step: f64) -> f32 {
    (step + (-(-step).exp_m1()).ln()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometric_heads_forget_half_after_lengths_that_double() {
        let state = StateSize {
            model_dim: 64,
            layers: 2,
            head_dim: 16,
            d_state: 4,
        };
        let geometric = Initialisation::Geometric {
            shortest: 2.0,
            longest: None,
            step_size: 0.05,
        };
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("initial");
        geometric.write((&state, 256), 64, 1, &path).expect("written");
        let parameters = Parameters::load(&path, &Device::flex()).expect("parameters");
        let of = |end: &str| {
            let with_end = parameters
                .list()
                .iter()
                .filter(|parameter| parameter.name.ends_with(end));
            let values = with_end.map(|parameter| parameter.value.clone().into_data().try_to_vec::<f32>());
            values.collect::<Result<Vec<_>, _>>().expect("values")
        };
        let (decays, biases) = (of(".A_log"), of(".dt_bias"));
        assert_eq!((decays.len(), decays[0].len()), (2, 8));
        for (decays, biases) in decays.iter().zip(&biases) {
            for (head, (log, bias)) in decays.iter().zip(biases).enumerate() {
                let step = f64::from(*bias).exp().ln_1p();
                let retained = (-step * f64::from(*log).exp()).exp();
                // Eight heads from 2 to 256 tokens: one for each octave.
                let half_life = 0.5_f64.ln() / retained.ln();
                let expected = 2.0 * f64::from(head as u32).exp2();
                assert!((half_life / expected - 1.0).abs() < 1e-4, "{head}: {half_life}");
            }
        }
        assert!(geometric.words().contains("from 2 tokens to the training length"));
    }

    #[test]
    fn half_lives_and_step_sizes_are_above_zero() {
        for (shortest, longest, step_size) in
            [(0.0, None, 0.1), (1.0, Some(-1.0), 0.1), (1.0, None, f64::NAN)]
        {
            let geometric = Initialisation::Geometric {
                shortest,
                longest,
                step_size,
            };
            assert!(geometric.fault().is_some());
        }
        assert_eq!(Initialisation::Slow.fault(), None);
    }
}
