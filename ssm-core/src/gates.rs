//! What a layer computes from its input: queries, keys, values and decays.
//!
//! With state h ∈ R^{K×V} per (sequence, head),
//!
//! ```text
//! h_t = a_t ∘ h_{t-1} + k_t (δ_t v_t)ᵀ          y_t = scale · q_tᵀ h_t + D v_t
//! ```
//!
//! where a_t = exp(log decay), δ_t is the step size (Mamba's Δ; 1 when absent) and D the skip. Decays travel as logarithms.

use crate::error::{Error, Result};
use burn::tensor::{Device, Tensor};
use std::ops::Range;

/// Shape of a recurrence. Head `h` reads query/key group `h / (heads / groups)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Sequences.
    pub batch: usize,
    /// Tokens.
    pub time: usize,
    /// Heads.
    pub heads: usize,
    /// Query/key groups; a divisor of the heads.
    pub groups: usize,
    /// Rows of a head's state.
    pub key_dim: usize,
    /// Columns of a head's state.
    pub value_dim: usize,
}

/// Logarithm of what a token multiplies the state by; at most 0 for every model of the field.
#[derive(Clone, Debug)]
pub enum LogDecay {
    /// Nothing is forgotten (linear attention, Based).
    None,
    /// One constant per head, `[heads]` (RetNet).
    PerHead(Tensor<1>),
    /// One constant per head and key row, `[heads, key_dim]` (RWKV-5).
    PerKey(Tensor<2>),
    /// One scalar per head and token, `[batch, time, heads]` (Mamba-2, simple GLA).
    PerHeadToken(Tensor<3>),
    /// A vector per head and token, `[batch, time, heads, key_dim]` (GLA, RWKV-6).
    PerKeyToken(Tensor<4>),
}

/// When the state is read.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a handful of these exist at a time; a box would cost more"
)]
pub enum ReadOut {
    /// y_t = q_tᵀ h_t: after the update.
    Inclusive,
    /// y_t = q_tᵀ (h_{t-1} + (u ∘ k_t) v_tᵀ): before the update, the current token weighted by a bonus u `[heads, key_dim]`.
    Bonus(Tensor<2>),
}

/// The gates of a stretch of tokens.
#[derive(Clone, Debug)]
pub struct Gates {
    /// q, `[batch, time, groups, key_dim]`.
    pub query: Tensor<4>,
    /// k, `[batch, time, groups, key_dim]`.
    pub key: Tensor<4>,
    /// v, `[batch, time, heads, value_dim]`.
    pub value: Tensor<4>,
    /// log a.
    pub log_decay: LogDecay,
    /// δ, `[batch, time, heads]`: what a token's write is multiplied by, in models that discretise (Mamba). `None` is 1.
    pub step_size: Option<Tensor<3>>,
    /// When the state is read.
    pub read_out: ReadOut,
    /// D, `[heads]` or `[heads · value_dim]`: y_t += D ∘ v_t, with v before its step size.
    pub skip: Option<Tensor<1>>,
    /// What the read-out is multiplied by (K^{-1/2} in most linear attentions, 1 in Mamba).
    pub scale: f32,
}

impl LogDecay {
    /// The kind's name, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::PerHead(_) => "constant per head",
            Self::PerKey(_) => "constant per key",
            Self::PerHeadToken(_) => "per head and token",
            Self::PerKeyToken(_) => "per key and token",
        }
    }

    /// Whether the decay differs between the key rows of one head.
    pub fn is_per_key(&self) -> bool {
        matches!(self, Self::PerKey(_) | Self::PerKeyToken(_))
    }

    /// log a + `constant`: every decay multiplied by exp(`constant`), which gives models without decay one.
    pub fn add(self, constant: f32, heads: usize, like: &Tensor<4>) -> Self {
        match self {
            Self::None => Self::PerHead(Tensor::full([heads], constant, &like.device())),
            Self::PerHead(a) => Self::PerHead(a.add_scalar(constant)),
            Self::PerKey(a) => Self::PerKey(a.add_scalar(constant)),
            Self::PerHeadToken(a) => Self::PerHeadToken(a.add_scalar(constant)),
            Self::PerKeyToken(a) => Self::PerKeyToken(a.add_scalar(constant)),
        }
    }

    /// `factor` · log a: every decay raised to the power `factor`.
    pub fn scale(self, factor: f32) -> Self {
        match self {
            Self::None => Self::None,
            Self::PerHead(a) => Self::PerHead(a.mul_scalar(factor)),
            Self::PerKey(a) => Self::PerKey(a.mul_scalar(factor)),
            Self::PerHeadToken(a) => Self::PerHeadToken(a.mul_scalar(factor)),
            Self::PerKeyToken(a) => Self::PerKeyToken(a.mul_scalar(factor)),
        }
    }

    fn slice_time(&self, start: usize, len: usize) -> Self {
        match self {
            Self::PerHeadToken(a) => Self::PerHeadToken(narrow_time(a, start, len)),
            Self::PerKeyToken(a) => Self::PerKeyToken(narrow_time(a, start, len)),
            constant => constant.clone(),
        }
    }

    fn join(self, later: Self) -> Result<Self> {
        Ok(match (self, later) {
            (Self::PerHeadToken(a), Self::PerHeadToken(b)) => Self::PerHeadToken(Tensor::cat(vec![a, b], 1)),
            (Self::PerKeyToken(a), Self::PerKeyToken(b)) => Self::PerKeyToken(Tensor::cat(vec![a, b], 1)),
            (a, b) if a.kind() == b.kind() => a,
            (a, b) => {
                return Err(Error::DecayKind {
                    first: a.kind(),
                    second: b.kind(),
                });
            }
        })
    }

    fn shape(&self) -> Option<Vec<usize>> {
        match self {
            Self::None => None,
            Self::PerHead(a) => Some(a.dims().to_vec()),
            Self::PerKey(a) => Some(a.dims().to_vec()),
            Self::PerHeadToken(a) => Some(a.dims().to_vec()),
            Self::PerKeyToken(a) => Some(a.dims().to_vec()),
        }
    }
}

impl Gates {
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
                LogDecay::PerKey(_) => vec![d.heads, d.key_dim],
                LogDecay::PerHeadToken(_) => vec![d.batch, d.time, d.heads],
                LogDecay::PerKeyToken(_) => vec![d.batch, d.time, d.heads, d.key_dim],
            };
            expect_shape("log_decay", &expected, &found)?;
        }
        if let Some(step) = &self.step_size {
            expect_shape("step_size", &[d.batch, d.time, d.heads], &step.dims())?;
        }
        if let ReadOut::Bonus(bonus) = &self.read_out {
            expect_shape("bonus", &[d.heads, d.key_dim], &bonus.dims())?;
        }
        if let Some(skip) = &self.skip
            && skip.dims() != [d.heads * d.value_dim]
        {
            expect_shape("skip", &[d.heads], &skip.dims())?;
        }
        Ok(d)
    }

    /// Where each of the tensors lives.
    pub(crate) fn devices(&self) -> Vec<Device> {
        let decay = match &self.log_decay {
            LogDecay::None => None,
            LogDecay::PerHead(a) => Some(a.device()),
            LogDecay::PerKey(a) => Some(a.device()),
            LogDecay::PerHeadToken(a) => Some(a.device()),
            LogDecay::PerKeyToken(a) => Some(a.device()),
        };
        let bonus = match &self.read_out {
            ReadOut::Inclusive => None,
            ReadOut::Bonus(bonus) => Some(bonus.device()),
        };
        [self.query.device(), self.key.device(), self.value.device()]
            .into_iter()
            .chain(decay)
            .chain(bonus)
            .chain(self.step_size.as_ref().map(Tensor::device))
            .chain(self.skip.as_ref().map(Tensor::device))
            .collect()
    }

    /// The gates of `tokens` only.
    ///
    /// # Errors
    /// [`Error::Value`] when the range leaves the stretch.
    pub fn slice(&self, tokens: Range<usize>) -> Result<Self> {
        let time = self.dims().time;
        if tokens.start > tokens.end || tokens.end > time {
            return Err(Error::Value {
                what: "range of tokens",
                expected: "a range inside the stretch",
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
            read_out: self.read_out.clone(),
            skip: self.skip.clone(),
            scale: self.scale,
        })
    }

    /// This stretch followed by `later`.
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
                    expected: "present in both stretches or in neither",
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
            read_out: self.read_out,
            skip: self.skip,
            scale: self.scale,
        })
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
        4 * tokens * (2 * d.groups * d.key_dim + d.heads * d.value_dim + decay + step)
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
