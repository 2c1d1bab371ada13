//! Numbers per token and head that the gates of any recurrence have, whatever its rule.
//!
//! What a token leaves of the state is the mean of log α over a head's key rows where h ← α ∘ h + k vᵀ. A delta rule
//! multiplies by a matrix M instead, which keeps some directions and erases others; its effective retention is the root mean
//! square of what M leaves of a random direction:
//!
//! ```text
//! log α = ½ log(‖M‖²_F / K)
//! M = (1 − β k kᵀ) diag(a):  ‖M‖²_F = Σ_j a_j² (1 − 2 β k_j² + β² k_j² ‖k‖²)      erased = β ‖k‖²
//! M = diag(a) + b pᵀ:        ‖M‖²_F = Σ_j (a_j² + 2 a_j b_j p_j) + ‖b‖² ‖p‖²      erased = −pᵀ b
//! ```
//!
//! *Erased* is the share that is taken away of what the state holds in the one direction that is erased: 1 is all of it.
//! A token writes a matrix of norm δ β ‖k‖ ‖v‖, with factors that the rule does not have left out; to a weighted mean it
//! adds the weight e^k.

use burn::tensor::{Tensor, TensorData};
use spillway_ssm_core::error::{Error, Result};
use spillway_ssm_core::{Dims, Erase, Gates, LogDecay, ReadOut, Rule, Site};

use super::operator_block::{BlockToken, Transition};

/// A gate that statistics are kept of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// log α, per head.
    LogDecay,
    /// Δ, per head, in models that discretise.
    StepSize,
    /// The share that is erased, per head of a delta rule.
    Erase,
    /// v (Mamba's x), per head, over its elements.
    Value,
    /// Norm of what a token writes, per head.
    Write,
    /// y before the skip's sum is normed or gated, per head, over its elements.
    ReadOut,
    /// k (Mamba's B), per group, over its elements; logarithms of weights in a weighted mean.
    Key,
}

impl Gate {
    /// Every gate, in the order in which a record keeps their statistics.
    pub const ALL: [Self; 7] = [
        Self::LogDecay,
        Self::StepSize,
        Self::Erase,
        Self::Value,
        Self::Write,
        Self::ReadOut,
        Self::Key,
    ];

    /// Name of the gate in files: `log_decay`.
    pub fn name(self) -> &'static str {
        match self {
            Self::LogDecay => "log_decay",
            Self::StepSize => "step_size",
            Self::Erase => "erase",
            Self::Value => "value",
            Self::Write => "write",
            Self::ReadOut => "read_out",
            Self::Key => "key",
        }
    }

    /// Number of columns of the gate at a site: heads, groups, or 0 where the recurrence has no such gate.
    pub fn columns(self, site: &Site) -> usize {
        match self {
            Self::StepSize if !site.has_step_size => 0,
            Self::Erase if site.rule != Rule::Delta => 0,
            Self::Key => site.groups,
            _ => site.heads,
        }
    }
}

/// The gates of a segment, on the host.
#[derive(Debug)]
pub struct GateSegment {
    dims: Dims,
    rule: Rule,
    decay: Vec<f32>,
    /// Numbers of a head in a row of decays: 0 without decay, else 1 or key_dim.
    decay_width: usize,
    decay_per_token: bool,
    key: Vec<f32>,
    value: Vec<f32>,
    step_size: Option<Vec<f32>>,
    erase: HostErase,
    reads_first: bool,
}

#[derive(Debug)]
enum HostErase {
    None,
    Delta(Vec<f32>),
    LowRank { p: Vec<f32>, b: Vec<f32> },
}

/// What the gates of one token do to the state of one head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenGates {
    /// log α, see the head of this file.
    pub log_decay: f64,
    /// The erased share; 0 where nothing is.
    pub erase: f64,
    /// Norm of what is written.
    pub write: f64,
}

impl GateSegment {
    /// Brings the gates to the host.
    ///
    /// # Errors
    /// [`Error::Value`] for tensors that are not of 32-bit floats.
    pub fn new(gates: &Gates) -> Result<Self> {
        let (dims, rule) = (gates.dims(), gates.rule());
        let (decay, decay_width, decay_per_token) = match gates.clone().with_stored_decay().log_decay {
            LogDecay::None => (Vec::new(), 0, false),
            LogDecay::PerHead(a) => (host(&a)?, 1, false),
            LogDecay::PerKey(a) | LogDecay::PerStep(a) => (host(&a)?, dims.key_dim, false),
            LogDecay::PerHeadToken(a) => (host(&a)?, 1, true),
            LogDecay::PerKeyToken(a) => (host(&a)?, dims.key_dim, true),
        };
        Ok(Self {
            dims,
            rule,
            decay,
            decay_width,
            decay_per_token,
            key: host(&gates.key)?,
            value: host(&gates.value)?,
            step_size: gates.step_size.as_ref().map(host).transpose()?,
            reads_first: matches!(gates.read_out, ReadOut::Bonus(_)),
            erase: match &gates.erase {
                Erase::None => HostErase::None,
                Erase::Delta(beta) => HostErase::Delta(host(beta)?),
                Erase::LowRank { p, b } => HostErase::LowRank {
                    p: host(p)?,
                    b: host(b)?,
                },
            },
        })
    }

    /// Shape of the segment; tokens are counted through all sequences.
    pub fn dims(&self) -> &Dims {
        &self.dims
    }

    /// Whether decays differ between the key rows of a head.
    pub fn is_per_key(&self) -> bool {
        self.decay_width > 1
    }

    /// log a of the key rows of a head: one number for all of them, or one each.
    pub fn log_decays(&self, token: usize, head: usize) -> &[f32] {
        if self.decay_width == 0 {
            return &[0.0];
        }
        let row = if self.decay_per_token { token } else { 0 };
        let start = (row * self.dims.heads + head) * self.decay_width;
        &self.decay[start..start + self.decay_width]
    }

    /// Step sizes, `[tokens, heads]`.
    pub fn step_sizes(&self) -> Option<&[f32]> {
        self.step_size.as_deref()
    }

    /// Values, `[tokens, heads, value_dim]`.
    pub fn values(&self) -> &[f32] {
        &self.value
    }

    /// Keys, `[tokens, groups, key_dim]`.
    pub fn keys(&self) -> &[f32] {
        &self.key
    }

    /// What one token does to the state of one head.
    pub fn token(&self, token: usize, head: usize) -> TokenGates {
        let decays = self.log_decays(token, head);
        let key = self.of_group(&self.key, token, head);
        if self.rule == Rule::Mean {
            let write = key.iter().map(|k| f64::from(*k).exp()).sum();
            return TokenGates {
                log_decay: f64::from(decays[0]),
                erase: 0.0,
                write,
            };
        }
        let cell = token * self.dims.heads + head;
        let value = &self.value[cell * self.dims.value_dim..(cell + 1) * self.dims.value_dim];
        let step = self
            .step_size
            .as_ref()
            .map_or(1.0, |steps| f64::from(steps[cell]));
        let written = step * (squares(key) * squares(value)).sqrt();
        match &self.erase {
            HostErase::None => TokenGates {
                log_decay: decays.iter().map(|a| f64::from(*a)).sum::<f64>() / decays.len() as f64,
                erase: 0.0,
                write: written,
            },
            HostErase::Delta(beta) => {
                let beta = f64::from(beta[cell]);
                TokenGates {
                    log_decay: delta_retention(decays, key, beta),
                    erase: beta * squares(key),
                    write: beta.abs() * written,
                }
            }
            HostErase::LowRank { p, b } => {
                let (p, b) = (self.of_group(p, token, head), self.of_group(b, token, head));
                TokenGates {
                    log_decay: low_rank_retention(decays, p, b),
                    erase: -p.iter().zip(b).map(|(p, b)| f64::from(p * b)).sum::<f64>(),
                    write: written,
                }
            }
        }
    }

    /// What the [block](super::operator_block) from past to future needs of one token and head; `query` is `[tokens, groups, key_dim]`. Not for a
    /// weighted mean, which is no linear operator.
    pub(super) fn block_token<'a>(&'a self, token: usize, head: usize, query: &'a [f32]) -> BlockToken<'a> {
        let cell = token * self.dims.heads + head;
        let key = self.of_group(&self.key, token, head);
        let step = self
            .step_size
            .as_ref()
            .map_or(1.0, |steps| f64::from(steps[cell]));
        let (transition, factor) = match &self.erase {
            HostErase::None => (Transition::Diagonal, 1.0),
            HostErase::Delta(beta) => {
                let beta = f64::from(beta[cell]);
                (Transition::Delta { beta, key }, beta)
            }
            HostErase::LowRank { p, b } => {
                let (p, b) = (self.of_group(p, token, head), self.of_group(b, token, head));
                (Transition::LowRank { p, b }, 1.0)
            }
        };
        BlockToken {
            log_decays: self.log_decays(token, head),
            transition,
            key,
            size: step * factor,
            query: match query {
                [] => query,
                some => self.of_group(some, token, head),
            },
            reads_first: self.reads_first,
        }
    }

    /// The row of a head's group in `[tokens, groups, key_dim]`.
    fn of_group<'a>(&self, values: &'a [f32], token: usize, head: usize) -> &'a [f32] {
        let group = head * self.dims.groups / self.dims.heads;
        let start = (token * self.dims.groups + group) * self.dims.key_dim;
        &values[start..start + self.dims.key_dim]
    }
}

/// log α of (1 − β k kᵀ) diag(a).
fn delta_retention(log_decays: &[f32], key: &[f32], beta: f64) -> f64 {
    let size = squares(key);
    let kept = |(j, k): (usize, &f32)| {
        let k = f64::from(*k);
        decay(log_decays, j).powi(2) * (1.0 - 2.0 * beta * k * k + (beta * k).powi(2) * size)
    };
    effective(key.iter().enumerate().map(kept).sum(), key.len())
}

/// log α of diag(a) + b pᵀ.
fn low_rank_retention(log_decays: &[f32], p: &[f32], b: &[f32]) -> f64 {
    let kept = |(j, (p, b)): (usize, (&f32, &f32))| {
        let a = decay(log_decays, j);
        a * a + 2.0 * a * f64::from(*b) * f64::from(*p)
    };
    let diagonal: f64 = p.iter().zip(b).enumerate().map(kept).sum();
    effective(diagonal + squares(b) * squares(p), p.len())
}

/// ½ log(‖M‖²_F / K).
fn effective(squared_norm: f64, key_dim: usize) -> f64 {
    // Rounding may leave a matrix that erases everything a little below 0.
    0.5 * (squared_norm.max(f64::MIN_POSITIVE) / key_dim as f64).ln()
}

/// a of key row j.
fn decay(logs: &[f32], j: usize) -> f64 {
    f64::from(logs[j % logs.len()]).exp()
}

fn squares(values: &[f32]) -> f64 {
    values.iter().map(|x| f64::from(*x).powi(2)).sum()
}

/// A tensor's numbers.
///
/// # Errors
/// [`Error::Value`] for a tensor that is not of 32-bit floats.
pub fn host<const D: usize>(tensor: &Tensor<D>) -> Result<Vec<f32>> {
    floats(tensor.to_data())
}

fn floats(data: TensorData) -> Result<Vec<f32>> {
    data.try_into_vec::<f32>().map_err(|error| Error::Value {
        what: "tensor looked at by the probe",
        expected: "32-bit floats",
        found: format!("{error:?}"),
    })
}
