//! What a layer computes from its input: queries, keys, values and decays.
//!
//! With state h ∈ R^{K×V} per (sequence, head),
//!
//! ```text
//! h_t = a_t ∘ h_{t-1} + k_t (δ_t v_t)ᵀ          y_t = scale · q_tᵀ h_t + D v_t
//! ```
//!
//! where a_t = exp(log decay), δ_t is the step size (Mamba's Δ; 1 when absent) and D the skip. Decays travel as logarithms.

mod erase;
mod log_decay;

use crate::error::{Error, Result};
use crate::tensor_map::TensorMap;
use burn::tensor::{Device, Tensor};
pub use erase::Erase;
pub use log_decay::LogDecay;
pub(crate) use log_decay::per_step_decay;
use std::ops::Range;

/// Shape of a recurrence. Head `h` reads query/key group `h / (heads / groups)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Number of sequences.
    pub batch: usize,
    /// Number of tokens of each sequence.
    pub time: usize,
    /// Number of heads.
    pub heads: usize,
    /// Query/key groups; a divisor of the heads.
    pub groups: usize,
    /// Rows of a head's state.
    pub key_dim: usize,
    /// Columns of a head's state.
    pub value_dim: usize,
}

/// The law by which a state takes tokens in; it decides what may be done to the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// h ← a ∘ h + k vᵀ with a decay per key row: the state is a weighted sum of what was written.
    WeightedSum,
    /// h ← M h + k vᵀ with a matrix M per token: see [`Erase`].
    Delta,
    /// A weighted mean whose weights are kept as logarithms, relative to their maximum: see [`ReadOut::Mean`].
    Mean,
}

/// When the state is read.
#[derive(Clone, Debug)]
pub enum ReadOut {
    /// y_t = q_tᵀ h_t: after the update.
    Inclusive,
    /// y_t = q_tᵀ (h_{t-1} + (u ∘ k_t) v_tᵀ): before the update, the current token weighted by a bonus u `[heads, key_dim]`.
    Bonus(Tensor<2>),
    /// y_t = (Σ_{i<t} e^{(t−1−i) w + k_i} v_i + e^{u + k_t} v_t) / (the same without v), with a bonus u `[heads]` (RWKV-4). Heads
    /// are channels, key_dim and value_dim are 1, keys are logarithms of weights, w is a decay per head, and a head's state is
    /// three numbers: numerator and denominator, both divided by e^maximum, and the maximum. The query is not looked at.
    Mean(Tensor<1>),
}

/// The gates of a segment of tokens: [`Gates::new`] with what a model adds.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use spillway_ssm_core::{Gates, LogDecay};
///
/// let token = || Tensor::ones([1, 6, 2, 4], &Device::flex());
/// let retnet = Gates {
///     log_decay: LogDecay::PerHead(Tensor::from_floats([-0.1, -0.05], &Device::flex())),
///     scale: 0.5,
///     ..Gates::new(token(), token(), token())
/// };
/// assert_eq!(retnet.validate()?.heads, 2);
/// # Ok::<(), spillway_ssm_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Gates {
    /// q, `[batch, time, groups, key_dim]`.
    pub query: Tensor<4>,
    /// k, `[batch, time, groups, key_dim]`.
    pub key: Tensor<4>,
    /// v, `[batch, time, heads, value_dim]`.
    pub value: Tensor<4>,
    /// log a, the logarithm of what a token multiplies the state by.
    pub log_decay: LogDecay,
    /// δ, `[batch, time, heads]`: what a token's write is multiplied by, in models that discretise (Mamba). `None` is 1.
    pub step_size: Option<Tensor<3>>,
    /// What a token takes out of the state before it writes.
    pub erase: Erase,
    /// When the state is read.
    pub read_out: ReadOut,
    /// D, `[heads]` or `[heads · value_dim]`: y_t += D ∘ v_t, with v before its step size.
    pub skip: Option<Tensor<1>>,
    /// What the read-out is multiplied by (K^{-1/2} in most linear attentions, 1 in Mamba).
    pub scale: f32,
}

impl Gates {
    /// The gates of linear attention with these queries and keys `[batch, time, groups, key_dim]` and values `[batch, time, heads,
    /// value_dim]`: no decay, no step size, nothing erased, read after the update, no skip, a scale of 1.
    pub fn new(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>) -> Self {
        Self {
            query,
            key,
            value,
            log_decay: LogDecay::None,
            step_size: None,
            erase: Erase::None,
            read_out: ReadOut::Inclusive,
            skip: None,
            scale: 1.0,
        }
    }

    /// The shape that query and value give.
    pub fn dims(&self) -> Dims {
        let [batch, time, groups, key_dim] = self.query.dims();
        let [_, _, heads, value_dim] = self.value.dims();
        Dims {
            batch,
            time,
            heads,
            groups,
            key_dim,
            value_dim,
        }
    }

    /// Checks every tensor's shape against [`Gates::dims`].
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::Groups`].
    pub fn validate(&self) -> Result<Dims> {
        let d = self.dims();
        expect_shape("key", &[d.batch, d.time, d.groups, d.key_dim], &self.key.dims())?;
        expect_shape(
            "value",
            &[d.batch, d.time, d.heads, d.value_dim],
            &self.value.dims(),
        )?;
        if d.groups == 0 || !d.heads.is_multiple_of(d.groups) {
            return Err(Error::Groups {
                heads: d.heads,
                groups: d.groups,
            });
        }
        if let Some(found) = self.log_decay.shape() {
            let expected: Vec<usize> = match &self.log_decay {
                LogDecay::None => vec![],
                LogDecay::PerHead(_) => vec![d.heads],
                LogDecay::PerKey(_) | LogDecay::PerStep(_) => vec![d.heads, d.key_dim],
                LogDecay::PerHeadToken(_) => vec![d.batch, d.time, d.heads],
                LogDecay::PerKeyToken(_) => vec![d.batch, d.time, d.heads, d.key_dim],
            };
            expect_shape("log_decay", &expected, &found)?;
        }
        if let Some(step) = &self.step_size {
            expect_shape("step_size", &[d.batch, d.time, d.heads], &step.dims())?;
        }
        if self.step_size.is_none() && matches!(self.log_decay, LogDecay::PerStep(_)) {
            return Err(Error::Value {
                what: "step_size",
                expected: "present where decays are a constant times the step size",
                found: "none".into(),
            });
        }
        self.erase.validate(&d)?;
        match &self.read_out {
            ReadOut::Inclusive => {}
            ReadOut::Bonus(bonus) => expect_shape("bonus", &[d.heads, d.key_dim], &bonus.dims())?,
            ReadOut::Mean(bonus) => self.validate_mean(&d, bonus)?,
        }
        if !matches!(
            (&self.erase, &self.read_out),
            (Erase::None, _) | (_, ReadOut::Inclusive)
        ) {
            return Err(Error::Value {
                what: "read-out of a delta rule",
                expected: "after the update",
                found: "before it, or a mean".into(),
            });
        }
        if let Some(skip) = &self.skip
            && skip.dims() != [d.heads * d.value_dim]
        {
            expect_shape("skip", &[d.heads], &skip.dims())?;
        }
        Ok(d)
    }

    /// Keys that are logarithms: one number per channel in keys and values, a decay per head or none.
    fn validate_mean(&self, d: &Dims, bonus: &Tensor<1>) -> Result<()> {
        expect_shape("bonus", &[d.heads], &bonus.dims())?;
        expect_shape("key", &[d.batch, d.time, d.heads, 1], &self.key.dims())?;
        expect_shape("value", &[d.batch, d.time, d.heads, 1], &self.value.dims())?;
        let found = match (&self.log_decay, &self.step_size, &self.skip) {
            (LogDecay::None | LogDecay::PerHead(_), None, None) => return Ok(()),
            (LogDecay::None | LogDecay::PerHead(_), ..) => "a step size or a skip".into(),
            (other, ..) => format!("decays {}", other.kind()),
        };
        Err(Error::Value {
            what: "gates of a weighted mean",
            expected: "decays constant per head, no step size, no skip",
            found,
        })
    }

    /// The law by which the state takes these tokens in.
    pub fn rule(&self) -> Rule {
        match (&self.erase, &self.read_out) {
            (Erase::Delta(_) | Erase::LowRank { .. }, _) => Rule::Delta,
            (Erase::None, ReadOut::Mean(_)) => Rule::Mean,
            (Erase::None, _) => Rule::WeightedSum,
        }
    }

    /// Shape of the state's memory for `sequences` sequences: `[sequences, heads, key_dim, value_dim]`, or
    /// `[sequences, heads, 1, 3]` for a mean.
    pub fn state_shape(&self, sequences: usize) -> [usize; 4] {
        let d = self.dims();
        let columns = match self.rule() {
            Rule::Mean => 3,
            Rule::WeightedSum | Rule::Delta => d.value_dim,
        };
        [sequences, d.heads, d.key_dim, columns]
    }

    /// Every decay multiplied by exp(`constant`), which gives models without decay one.
    pub fn add_log_decay(mut self, constant: f32) -> Self {
        let heads = self.dims().heads;
        self.log_decay = match self.log_decay {
            LogDecay::None => LogDecay::PerHead(Tensor::full([heads], constant, &self.value.device())),
            LogDecay::PerHead(a) => LogDecay::PerHead(a.add_scalar(constant)),
            LogDecay::PerKey(a) => LogDecay::PerKey(a.add_scalar(constant)),
            LogDecay::PerHeadToken(a) => LogDecay::PerHeadToken(a.add_scalar(constant)),
            LogDecay::PerKeyToken(a) => LogDecay::PerKeyToken(a.add_scalar(constant)),
            LogDecay::PerStep(a) => match &self.step_size {
                Some(step) => LogDecay::PerKeyToken(per_step_decay(&a, step).add_scalar(constant)),
                None => LogDecay::PerStep(a),
            },
        };
        self
    }

    /// The same gates with decays that depend on the step size stored, one per token, head and key row.
    pub fn with_stored_decay(self) -> Self {
        match self.log_decay {
            LogDecay::PerStep(_) => self.add_log_decay(0.0),
            _ => self,
        }
    }

    /// Where each of the tensors lives.
    pub(crate) fn devices(&self) -> Vec<Device> {
        let bonus = match &self.read_out {
            ReadOut::Inclusive => None,
            ReadOut::Bonus(bonus) => Some(bonus.device()),
            ReadOut::Mean(bonus) => Some(bonus.device()),
        };
        [self.query.device(), self.key.device(), self.value.device()]
            .into_iter()
            .chain(self.log_decay.device())
            .chain(self.erase.devices())
            .chain(bonus)
            .chain(self.step_size.as_ref().map(Tensor::device))
            .chain(self.skip.as_ref().map(Tensor::device))
            .collect()
    }

    /// The gates of `tokens` only.
    ///
    /// # Errors
    /// [`Error::Value`] when the range leaves the segment.
    pub fn slice(&self, tokens: Range<usize>) -> Result<Self> {
        let time = self.dims().time;
        if tokens.start > tokens.end || tokens.end > time {
            return Err(Error::Value {
                what: "range of tokens",
                expected: "a range inside the segment",
                found: format!("{tokens:?} of {time} tokens"),
            });
        }
        if tokens == (0..time) {
            return Ok(self.clone());
        }
        let (start, len) = (tokens.start, tokens.len());
        Ok(Self {
            query: narrow_time(&self.query, start, len),
            key: narrow_time(&self.key, start, len),
            value: narrow_time(&self.value, start, len),
            log_decay: self.log_decay.slice_time(start, len),
            step_size: self.step_size.as_ref().map(|step| narrow_time(step, start, len)),
            erase: self.erase.slice_time(start, len),
            read_out: self.read_out.clone(),
            skip: self.skip.clone(),
            scale: self.scale,
        })
    }

    /// This segment followed by `later`.
    ///
    /// # Errors
    /// [`Error::DecayKind`] when the two differ in kind, [`Error::Value`] when only one has step sizes.
    pub fn join(self, later: Self) -> Result<Self> {
        let step_size = match (self.step_size, later.step_size) {
            (Some(a), Some(b)) => Some(Tensor::cat(vec![a, b], 1)),
            (None, None) => None,
            _ => {
                return Err(Error::Value {
                    what: "step_size",
                    expected: "present in both segments or in neither",
                    found: "present in one".into(),
                });
            }
        };
        Ok(Self {
            query: Tensor::cat(vec![self.query, later.query], 1),
            key: Tensor::cat(vec![self.key, later.key], 1),
            value: Tensor::cat(vec![self.value, later.value], 1),
            log_decay: self.log_decay.join(later.log_decay)?,
            step_size,
            erase: self.erase.join(later.erase)?,
            read_out: self.read_out,
            skip: self.skip,
            scale: self.scale,
        })
    }

    /// The gates with every tensor mapped, in an order that is the same for all gates of a kind.
    pub fn map(&self, change: &mut impl TensorMap) -> Self {
        Self {
            query: change.map(self.query.clone()),
            key: change.map(self.key.clone()),
            value: change.map(self.value.clone()),
            log_decay: self.log_decay.map(change),
            step_size: self.step_size.clone().map(|step| change.map(step)),
            erase: self.erase.map(change),
            read_out: match self.read_out.clone() {
                ReadOut::Inclusive => ReadOut::Inclusive,
                ReadOut::Bonus(bonus) => ReadOut::Bonus(change.map(bonus)),
                ReadOut::Mean(bonus) => ReadOut::Mean(change.map(bonus)),
            },
            skip: self.skip.clone().map(|skip| change.map(skip)),
            scale: self.scale,
        }
    }

    /// Memory that the per-token tensors take, in bytes, at four bytes a value.
    pub fn bytes(&self) -> usize {
        let d = self.dims();
        let tokens = d.batch * d.time;
        let decay = match &self.log_decay {
            LogDecay::PerHeadToken(_) => d.heads,
            LogDecay::PerKeyToken(_) => d.heads * d.key_dim,
            _ => 0,
        };
        let step = if self.step_size.is_some() { d.heads } else { 0 };
        let erase = match &self.erase {
            Erase::None => 0,
            Erase::Delta(_) => d.heads,
            Erase::LowRank { .. } => 2 * d.groups * d.key_dim,
        };
        4 * tokens * (2 * d.groups * d.key_dim + d.heads * d.value_dim + decay + step + erase)
    }
}

/// Tokens `start..start + len`; Burn's own narrowing refuses a length of 0.
fn narrow_time<const D: usize>(tensor: &Tensor<D>, start: usize, len: usize) -> Tensor<D> {
    if len > 0 {
        return tensor.clone().narrow(1, start, len);
    }
    let mut shape = tensor.dims();
    shape[1] = 0;
    Tensor::zeros(shape, &tensor.device())
}

pub(crate) fn expect_shape(what: &'static str, expected: &[usize], found: &[usize]) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::Shape {
        what,
        expected: expected.to_vec(),
        found: found.to_vec(),
    })
}
