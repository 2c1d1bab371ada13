//! What a segment of tokens writes into a state, and erases from it: everything but how it is read.

use crate::pieces::saved_tensor;
use burn::tensor::{Device, Tensor, TensorData};
use spillway_ssm_core::{Dims, Erase, Error, Gates, LogDecay, ReadOut, Rule, Site};
use std::collections::BTreeMap;

type Result<T> = std::result::Result<T, Error>;

/// Log decays enter sums no lower than this. e⁻⁴⁰ is far below the rounding of any state, and a decay of exactly 0 (log −∞)
/// would turn the difference of two sums into no number.
pub(crate) const LOWEST_LOG_DECAY: f32 = -40.0;

/// What a segment of tokens writes.
#[derive(Clone, Debug)]
pub(crate) struct Writes {
    /// Keys, `[batch, time, groups, key_dim]`.
    key: Tensor<4>,
    /// Values, `[batch, time, heads, value_dim]`.
    value: Tensor<4>,
    /// Log decays, `[batch, time, heads, rows]` with rows 1 or `key_dim`; `None` where decays do not depend on the token.
    log_decay: Option<Tensor<4>>,
    /// The step sizes δ, `[batch, time, heads]`, in models that discretise.
    step_size: Option<Tensor<3>>,
    erase: Erase,
}

impl Writes {
    pub(crate) fn of(gates: &Gates) -> Self {
        Self {
            key: gates.key.clone(),
            value: gates.value.clone(),
            log_decay: match &gates.log_decay {
                LogDecay::PerHeadToken(decay) => Some(decay.clone().unsqueeze_dim(3)),
                LogDecay::PerKeyToken(decay) => Some(decay.clone()),
                // A decay per step is a constant, times a step size that is kept anyway.
                LogDecay::None | LogDecay::PerHead(_) | LogDecay::PerKey(_) | LogDecay::PerStep(_) => None,
            },
            step_size: gates.step_size.clone(),
            erase: gates.erase.clone(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.key.dims()[1]
    }

    /// What the decay over a segment is the exponential of, token by token: log decays, not below [`LOWEST_LOG_DECAY`],
    /// `[batch, time, heads, rows]`; or, for decays per step, the step sizes, `[batch, time, heads, 1]`, still to be multiplied by
    /// A and bounded so that no row's decay falls below the same. `None` where decays do not depend on the token.
    pub(crate) fn exponents(&self, decay: &LogDecay) -> Option<Tensor<4>> {
        match (decay, &self.step_size) {
            (LogDecay::PerStep(a), Some(step)) => {
                let [heads, _] = a.dims();
                // The slowest row is that of the largest A.
                let bound = a.clone().max_dim(1).abs().recip().mul_scalar(-LOWEST_LOG_DECAY);
                let bound = bound.reshape([1, 1, heads]).expand(step.dims());
                Some(step.clone().min_pair(bound).unsqueeze_dim(3))
            }
            _ => self
                .log_decay
                .clone()
                .map(|decay| decay.clamp_min(LOWEST_LOG_DECAY)),
        }
    }

    /// Gates that make these writes, read at each token by `query`, after its write (a mean is read as it always is). What
    /// does not depend on the token is taken from `like`.
    pub(crate) fn read_by(self, query: Tensor<4>, like: &Gates) -> Gates {
        let log_decay = match (self.log_decay, &like.log_decay) {
            (Some(decay), LogDecay::PerKeyToken(_)) => LogDecay::PerKeyToken(decay),
            (Some(decay), _) => LogDecay::PerHeadToken(decay.squeeze_dim(3)),
            (None, constant) => constant.clone(),
        };
        Gates {
            query,
            key: self.key,
            value: self.value,
            log_decay,
            step_size: self.step_size,
            erase: self.erase,
            read_out: match &like.read_out {
                mean @ ReadOut::Mean(_) => mean.clone(),
                ReadOut::Inclusive | ReadOut::Bonus(_) => ReadOut::Inclusive,
            },
            skip: None,
            scale: like.scale,
        }
    }

    /// Gates for what looks at writes only.
    pub(crate) fn unread(self, like: &Gates) -> Gates {
        let query = self.key.clone();
        self.read_by(query, like)
    }

    /// The writes of `len` sequences from `start` on (dimension 0), or of `len` tokens (dimension 1).
    pub(crate) fn narrow(&self, dim: usize, start: usize, len: usize) -> Self {
        Self {
            key: self.key.clone().narrow(dim, start, len),
            value: self.value.clone().narrow(dim, start, len),
            log_decay: self
                .log_decay
                .as_ref()
                .map(|decay| decay.clone().narrow(dim, start, len)),
            step_size: self
                .step_size
                .as_ref()
                .map(|step| step.clone().narrow(dim, start, len)),
            erase: match &self.erase {
                Erase::None => Erase::None,
                Erase::Delta(beta) => Erase::Delta(beta.clone().narrow(dim, start, len)),
                Erase::LowRank { p, b } => Erase::LowRank {
                    p: p.clone().narrow(dim, start, len),
                    b: b.clone().narrow(dim, start, len),
                },
            },
        }
    }

    /// What these sequences write, in this order.
    pub(crate) fn select(&self, rows: &[usize]) -> Result<Self> {
        match rows {
            [] => Ok(self.narrow(0, 0, 0)),
            rows => Self::join(rows.iter().map(|row| self.narrow(0, *row, 1)).collect(), 0),
        }
    }

    /// Every tensor with its name, per-head numbers as `[batch, time, heads, 1]`.
    pub(crate) fn tensors(&self) -> Vec<(&'static str, Tensor<4>)> {
        let mut tensors = vec![
            ("queue.key", self.key.clone()),
            ("queue.value", self.value.clone()),
        ];
        tensors.extend(self.log_decay.clone().map(|decay| ("queue.log_decay", decay)));
        let per_head = |tensor: &Tensor<3>| tensor.clone().unsqueeze_dim(3);
        tensors.extend(
            self.step_size
                .as_ref()
                .map(|step| ("queue.step_size", per_head(step))),
        );
        match &self.erase {
            Erase::None => {}
            Erase::Delta(beta) => tensors.push(("queue.beta", per_head(beta))),
            Erase::LowRank { p, b } => tensors.extend([("queue.p", p.clone()), ("queue.b", b.clone())]),
        }
        tensors
    }

    /// What [`Writes::tensors`] gave; `None` for none.
    pub(crate) fn restore(
        site: &Site,
        batch: usize,
        device: &Device,
        saved: &BTreeMap<String, TensorData>,
    ) -> Result<Option<Self>> {
        let Some(key) = saved_tensor::<4>(saved, "queue.key", batch, device)? else {
            return Ok(None);
        };
        let time = key.dims()[1];
        let load = |name: &str, heads: usize, columns: usize| -> Result<Option<Tensor<4>>> {
            let found = saved_tensor::<4>(saved, name, batch, device)?;
            if let Some(tensor) = &found {
                expect_dims(name, &tensor.dims(), &[batch, time, heads, columns])?;
            }
            Ok(found)
        };
        let (heads, groups, key_dim) = (site.heads, site.groups, site.key_dim);
        let value_dim = match site.rule {
            Rule::Mean => 1,
            Rule::WeightedSum | Rule::Delta => site.value_dim,
        };
        expect_dims("queue.key", &key.dims(), &[batch, time, groups, key_dim])?;
        let value = load("queue.value", heads, value_dim)?.ok_or_else(|| Error::Saved {
            what: "queue.value".into(),
            expected: "as many as queue.key".into(),
            found: "nothing".into(),
        })?;
        let per_row = saved
            .get("queue.log_decay")
            .is_some_and(|data| data.shape().last() != Some(&1));
        let squeeze = |tensor: Tensor<4>| tensor.squeeze_dim::<3>(3);
        let low_rank = load("queue.p", groups, key_dim)?.zip(load("queue.b", groups, key_dim)?);
        Ok(Some(Self {
            key,
            value,
            log_decay: load("queue.log_decay", heads, if per_row { key_dim } else { 1 })?,
            step_size: load("queue.step_size", heads, 1)?.map(squeeze),
            erase: erase(load("queue.beta", heads, 1)?.map(squeeze), low_rank),
        }))
    }

    /// The writes of `parts` one after another: sequences along dimension 0, tokens along dimension 1.
    pub(crate) fn join(mut parts: Vec<Self>, dim: usize) -> Result<Self> {
        if parts.len() == 1 {
            return Ok(parts.swap_remove(0));
        }
        let count = parts.len();
        let (mut keys, mut values, mut decays, mut steps) = (vec![], vec![], vec![], vec![]);
        let (mut betas, mut ps, mut bs) = (vec![], vec![], vec![]);
        for part in parts {
            keys.push(part.key);
            values.push(part.value);
            decays.extend(part.log_decay);
            steps.extend(part.step_size);
            match part.erase {
                Erase::None => {}
                Erase::Delta(beta) => betas.push(beta),
                Erase::LowRank { p, b } => {
                    ps.push(p);
                    bs.push(b);
                }
            }
        }
        let beta = join_optional("beta", betas, count, dim)?;
        let low_rank = join_optional("p", ps, count, dim)?.zip(join_optional("b", bs, count, dim)?);
        Ok(Self {
            key: Tensor::cat(keys, dim),
            value: Tensor::cat(values, dim),
            log_decay: join_optional("log_decay", decays, count, dim)?,
            step_size: join_optional("step_size", steps, count, dim)?,
            erase: erase(beta, low_rank),
        })
    }
}

fn erase(beta: Option<Tensor<3>>, low_rank: Option<(Tensor<4>, Tensor<4>)>) -> Erase {
    match (beta, low_rank) {
        (Some(beta), _) => Erase::Delta(beta),
        (None, Some((p, b))) => Erase::LowRank { p, b },
        (None, None) => Erase::None,
    }
}

fn join_optional<const D: usize>(
    what: &'static str,
    parts: Vec<Tensor<D>>,
    of: usize,
    dim: usize,
) -> Result<Option<Tensor<D>>> {
    match parts.len() {
        0 => Ok(None),
        all if all == of => Ok(Some(Tensor::cat(parts, dim))),
        some => Err(Error::Value {
            what,
            expected: "of the same kind for every token and sequence",
            found: format!("per token in {some} segments of {of}"),
        }),
    }
}

fn expect_dims(what: &str, found: &[usize], expected: &[usize]) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Saved {
        what: what.into(),
        expected: format!("{expected:?}"),
        found: format!("{found:?}"),
    })
}

/// `[batch, time, groups, key_dim]` with every group repeated for each of its heads.
pub(crate) fn per_head(grouped: Tensor<4>, dims: &Dims) -> Tensor<4> {
    if dims.groups == dims.heads {
        return grouped;
    }
    let repeated = grouped
        .unsqueeze_dim::<5>(3)
        .repeat_dim(3, dims.heads / dims.groups);
    let [batch, time, _, _, key_dim] = repeated.dims();
    repeated.reshape([batch, time, dims.heads, key_dim])
}
