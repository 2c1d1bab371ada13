//! Codes of samples: linear, and µ-law, which has finer steps where sound is soft.
//!
//! ```text
//! linear   v = (x − min)/(max − min + 10⁻⁶)                                  in [0, 1)
//! µ-law    y = sign(x′) ln(1 + µ |x′ + 10⁻⁸|)/ln(1 + µ), v = (y + 1)/2       x′ = 2 · the linear v − 1, µ = 2^bits − 1
//! code     ⌊v (2^bits − 0.01) + 0.005⌋
//!
//! linear   x = q/2^(bits−1) − 1
//! µ-law    x = sign(l) ((1 + µ)^|l| − 1)/µ                                   l = q/2^(bits−1) − 1
//! ```
//!
//! Minimum and maximum are those of the clip, so that the loudest moment of every clip is as loud as can be; with [`Level::AsStored`] they
//! are −1 and 1, and what is silent is the zero level, 2^(bits−1). The formulas are those of the datasets of SaShiMi (Goel et al.,
//! 2202.09729, appendix C), constants included, and are computed in f64.

use serde::{Deserialize, Serialize};

use super::AudioError;

/// How the steps between codes are spaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Law {
    /// Finer ones where sound is soft: ITU-T G.711's curve.
    #[default]
    MuLaw,
    /// Steps of one size, whether sound is soft or loud.
    Linear,
}

/// What the largest code stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// The largest sample of its clip, and the smallest code for the smallest.
    #[default]
    Clip,
    /// The largest sample that a file can hold.
    AsStored,
}

/// A code for every sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Codec {
    /// Spacing of the steps between codes: µ-law or linear.
    #[serde(default)]
    pub law: Law,
    /// Bits of a code, from 2 to 16; there are 2^bits codes.
    #[serde(default = "eight")]
    pub bits: u32,
    /// What the largest code stands for.
    #[serde(default)]
    pub level: Level,
}

fn eight() -> u32 {
    8
}

impl Default for Codec {
    fn default() -> Self {
        Self {
            law: Law::default(),
            bits: eight(),
            level: Level::default(),
        }
    }
}

impl Codec {
    /// Refuses codes of no bits, or too many.
    ///
    /// # Errors
    /// [`AudioError::Option`].
    pub fn check(&self) -> Result<(), AudioError> {
        match self.bits {
            2..=16 => Ok(()),
            bits => Err(AudioError::Option {
                option: "bits",
                expected: "2 to 16",
                found: bits.to_string(),
            }),
        }
    }

    /// Number of different codes, 2^bits.
    pub fn vocab_size(&self) -> usize {
        1 << self.bits
    }

    /// The code of 0 where levels are as stored, and what a sound begins after.
    pub fn zero(&self) -> u32 {
        1 << (self.bits - 1)
    }

    /// µ, the largest code.
    fn mu(&self) -> f64 {
        (self.vocab_size() - 1) as f64
    }

    /// The codes of a clip, whose samples are finite.
    pub fn encode(&self, clip: &[f32]) -> Vec<u32> {
        let (mut low, mut high) = (-1.0, 1.0);
        let mut spread = 2.0;
        if self.level == Level::Clip {
            let samples = || clip.iter().map(|sample| f64::from(*sample));
            low = samples().fold(f64::INFINITY, f64::min);
            high = samples().fold(f64::NEG_INFINITY, f64::max);
            spread = high - low + 1e-6;
        }
        let of_sample = |sample: &f32| {
            let sample = f64::from(*sample).max(low).min(high);
            self.code((sample - low) / spread)
        };
        clip.iter().map(of_sample).collect()
    }

    /// The code of a sample that is `share` of the way from the smallest to the largest.
    fn code(&self, share: f64) -> u32 {
        let value = match self.law {
            Law::Linear => share,
            Law::MuLaw => {
                let x = 2.0 * share - 1.0;
                let sign = match x {
                    0.0 => 0.0,
                    x => x.signum(),
                };
                let mu = self.mu();
                let y = sign * (mu * (x + 1e-8).abs()).ln_1p() / mu.ln_1p();
                f64::midpoint(y, 1.0)
            }
        };
        let code = (value * (self.vocab_size() as f64 - 0.01) + 0.005).floor();
        // Between 0 and the largest code but for the 10⁻⁸.
        (code.max(0.0) as u32).min(self.vocab_size() as u32 - 1)
    }

    /// The sample of a code, from −1 to below 1; codes that there are not are the largest.
    pub fn decode(&self, code: u32) -> f32 {
        let code = f64::from(code).min(self.mu());
        let linear = code / f64::from(self.zero()) - 1.0;
        let sample = match self.law {
            Law::Linear => linear,
            Law::MuLaw => {
                let mu = self.mu();
                let size = (linear.abs() * mu.ln_1p()).exp_m1() / mu;
                size.copysign(linear)
            }
        };
        sample as f32
    }
}
