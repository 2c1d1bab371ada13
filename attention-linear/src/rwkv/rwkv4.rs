//! Time mixing of RWKV-4: per channel, a weighted mean of all values.
//!
//! ```text
//! y_t = (Σ_{i<t} e^{(t−1−i) w + k_i} v_i + e^{u + k_t} v_t) / (the same without v)          w = −e^{time_decay}
//! out = W_o (σ(r) ∘ y)
//! ```
//!
//! The decay does not reach the current token. Numerator, denominator and the largest exponent so far are the state. Source:
//! Peng et al., *RWKV* (2305.13048), section 3.

use super::gated_heads::start;
use super::shift::{TokenShift, interpolate};
use crate::expect;
use burn::tensor::{Device, Tensor};
use ssm_core::operators::pointwise::sigmoid;
use ssm_core::{Chain, Context, Gates, Linear, LogDecay, Mixer, MixerState, ReadOut, Result, Rule, Site};

/// The weights of a time mixer of RWKV-4.
#[derive(Clone, Debug)]
pub struct Rwkv4Weights {
    /// Interpolation that the receptance reads.
    pub receptance_shift: TokenShift,
    /// Interpolation that the key reads.
    pub key_shift: TokenShift,
    /// Interpolation that the value reads.
    pub value_shift: TokenShift,
    /// r, `[channels, model_dim]`.
    pub receptance: Linear,
    /// k, `[channels, model_dim]`.
    pub key: Linear,
    /// v, `[channels, model_dim]`.
    pub value: Linear,
    /// W_o, `[model_dim, channels]`.
    pub output: Linear,
    /// `[channels]`; the log decay is −e^time_decay.
    pub time_decay: Tensor<1>,
    /// u, `[channels]`: added to the current token's key (`time_first`).
    pub bonus: Tensor<1>,
}

/// One time mixer of RWKV-4. Heads are channels.
#[derive(Clone, Debug)]
pub struct Rwkv4 {
    weights: Rwkv4Weights,
    log_decay: Tensor<1>,
}

impl Rwkv4 {
    /// A mixer of weights that fit one another.
    ///
    /// # Errors
    /// [`ssm_core::Error::Shape`].
    pub fn new(weights: Rwkv4Weights) -> Result<Self> {
        let [width, channels] = [weights.output.out_features(), weights.output.in_features()];
        for shift in [
            &weights.receptance_shift,
            &weights.key_shift,
            &weights.value_shift,
        ] {
            shift.expect_channels(width)?;
        }
        expect::projection("receptance", &weights.receptance, channels, width)?;
        expect::projection("key", &weights.key, channels, width)?;
        expect::projection("value", &weights.value, channels, width)?;
        expect::shape("time_decay", &[channels], &weights.time_decay.dims())?;
        expect::shape("time_first", &[channels], &weights.bonus.dims())?;
        Ok(Self {
            log_decay: weights.time_decay.clone().exp().neg(),
            weights,
        })
    }

    fn channels(&self) -> usize {
        self.log_decay.dims()[0]
    }

    fn site(&self, layer: usize) -> Site {
        // Numerator, denominator, maximum.
        let columns = 3;
        Site {
            rule: Rule::Mean,
            ..Site::weighted_sum(layer, self.channels(), 1, columns)
        }
    }
}

impl Mixer for Rwkv4 {
    fn sites(&self, layer: usize) -> Vec<Site> {
        vec![self.site(layer)]
    }

    fn start(&self, layer: usize, batch: usize, chain: &Chain, device: &Device) -> MixerState {
        let width = self.weights.output.out_features();
        start(width, self.site(layer), batch, chain, device)
    }

    fn forward(
        &self,
        input: Tensor<3>,
        state: &mut MixerState,
        context: &mut Context<'_>,
    ) -> Result<Tensor<3>> {
        let [batch, time, _] = input.dims();
        let state = state.recurrent()?;
        let weights = &self.weights;
        let [receptance, key, value] = interpolate(
            [
                &weights.receptance_shift,
                &weights.key_shift,
                &weights.value_shift,
            ],
            &input,
            state.conv_state(0)?,
        )?;
        let per_channel = |tensor: Tensor<3>| tensor.reshape([batch, time, self.channels(), 1]);
        let key = per_channel(weights.key.forward(key)?);
        let value = per_channel(weights.value.forward(value)?);
        let gates = Gates {
            log_decay: LogDecay::PerHead(self.log_decay.clone()),
            read_out: ReadOut::Mean(weights.bonus.clone()),
            // A mean has no query.
            ..Gates::new(key.clone(), key, value)
        };
        let receptance = sigmoid(weights.receptance.forward(receptance)?);
        let site = self.site(context.layer);
        let mean = context
            .chain
            .run(&site, gates, state.recurrence(0)?, context.chunking)?;
        weights
            .output
            .forward(receptance * mean.reshape([batch, time, self.channels()]))
    }

    /// Two sums that decay and grow, for the read-out and for the state, and their quotient.
    fn flops_per_token(&self) -> u64 {
        13 * self.channels() as u64
    }
}
