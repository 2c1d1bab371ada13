//! A first-in, first-out queue of what tokens write: keys, values, decays, step sizes.

use crate::pieces::saved_tensor;
use burn::tensor::{Device, Tensor, TensorData};
use ssm_core::{Dims, Error, Gates, LogDecay, ReadOut, Site};
use std::collections::{BTreeMap, VecDeque};

type Result<T> = std::result::Result<T, Error>;

/// Log decays enter sums no lower than this. e⁻⁴⁰ is far below the rounding of any state, and a decay of exactly 0 (log −∞)
/// would turn the difference of two sums into no number.
pub(crate) const LOWEST_LOG_DECAY: f32 = -40.0;

/// Tokens that are joined into one segment once so many came in smaller ones (in decode, one by one).
const SEGMENT: usize = 64;

/// Log decays that are summed one after another.
const SUM_BLOCK: usize = 64;

/// What a stretch of tokens writes.
#[derive(Clone, Debug)]
pub(crate) struct Writes {
    /// `[batch, time, groups, key_dim]`.
    key: Tensor<4>,
    /// `[batch, time, heads, value_dim]`.
    value: Tensor<4>,
    /// `[batch, time, heads, rows]` with rows 1 or `key_dim`; `None` where decays do not depend on the token.
    log_decay: Option<Tensor<4>>,
    /// `[batch, time, heads]`.
    step_size: Option<Tensor<3>>,
}

impl Writes {
    pub(crate) fn of(gates: &Gates) -> Self {
        Self {
            key: gates.key.clone(),
            value: gates.value.clone(),
            log_decay: match &gates.log_decay {
                LogDecay::PerHeadToken(decay) => Some(decay.clone().unsqueeze_dim(3)),
                LogDecay::PerKeyToken(decay) => Some(decay.clone()),
                LogDecay::None | LogDecay::PerHead(_) | LogDecay::PerKey(_) | LogDecay::PerStep(_) => None,
            },
            step_size: gates.step_size.clone(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.key.dims()[1]
    }

    /// Log decays, not below [`LOWEST_LOG_DECAY`], `[batch, time, heads, rows]`.
    pub(crate) fn bounded_log_decay(&self) -> Option<Tensor<4>> {
        self.log_decay
            .clone()
            .map(|decay| decay.clamp_min(LOWEST_LOG_DECAY))
    }

    /// Gates that make these writes, read at each token by `query`, after its write. Decays that do not depend on the token
    /// are taken from `like`.
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
            erase: ssm_core::Erase::None,
            read_out: ReadOut::Inclusive,
            skip: None,
            scale: like.scale,
        }
    }

    /// Gates for what looks at writes only.
    pub(crate) fn unread(self, like: &Gates) -> Gates {
        let query = self.key.clone();
        self.read_by(query, like)
    }

    fn narrow(&self, start: usize, len: usize) -> Self {
        Self {
            key: self.key.clone().narrow(1, start, len),
            value: self.value.clone().narrow(1, start, len),
            log_decay: self
                .log_decay
                .as_ref()
                .map(|decay| decay.clone().narrow(1, start, len)),
            step_size: self
                .step_size
                .as_ref()
                .map(|step| step.clone().narrow(1, start, len)),
        }
    }

    fn join(mut parts: Vec<Self>) -> Result<Self> {
        if parts.len() == 1 {
            return Ok(parts.swap_remove(0));
        }
        let tokens = parts.len();
        let (mut keys, mut values, mut decays, mut steps) = (vec![], vec![], vec![], vec![]);
        for part in parts {
            keys.push(part.key);
            values.push(part.value);
            decays.extend(part.log_decay);
            steps.extend(part.step_size);
        }
        Ok(Self {
            key: Tensor::cat(keys, 1),
            value: Tensor::cat(values, 1),
            log_decay: join_optional("log_decay", decays, tokens)?,
            step_size: join_optional("step_size", steps, tokens)?,
        })
    }
}

fn join_optional<const D: usize>(
    what: &'static str,
    parts: Vec<Tensor<D>>,
    of: usize,
) -> Result<Option<Tensor<D>>> {
    match parts.len() {
        0 => Ok(None),
        all if all == of => Ok(Some(Tensor::cat(parts, 1))),
        some => Err(Error::Value {
            what,
            expected: "of the same kind for every token of a sequence",
            found: format!("per token in {some} stretches of {of}"),
        }),
    }
}

/// The queue. Tokens come in and go out in stretches of any length.
#[derive(Clone, Debug, Default)]
pub(crate) struct GateQueue {
    segments: VecDeque<Writes>,
    /// How many segments at the back, and how many tokens in them, are still to be joined.
    loose: (usize, usize),
}

impl GateQueue {
    pub(crate) fn push(&mut self, writes: Writes) -> Result<()> {
        let len = writes.len();
        self.segments.push_back(writes);
        if len >= SEGMENT {
            self.loose = (0, 0);
            return Ok(());
        }
        let (segments, tokens) = (self.loose.0 + 1, self.loose.1 + len);
        self.loose = (segments, tokens);
        if tokens >= SEGMENT {
            let parts = self
                .segments
                .split_off(self.segments.len() - segments.min(self.segments.len()));
            self.segments.push_back(Writes::join(parts.into())?);
            self.loose = (0, 0);
        }
        Ok(())
    }

    /// The oldest `count` tokens, which leave the queue.
    pub(crate) fn pop(&mut self, count: usize) -> Result<Writes> {
        let mut parts = Vec::new();
        let mut missing = count;
        while missing > 0 {
            let Some(front) = self.segments.pop_front() else {
                return Err(Error::Value {
                    what: "tokens in the window's queue",
                    expected: "as many as the window is long",
                    found: format!("{missing} of {count} missing; was the state started with this chain?"),
                });
            };
            let len = front.len();
            if len <= missing {
                missing -= len;
                parts.push(front);
            } else {
                parts.push(front.narrow(0, missing));
                self.segments.push_front(front.narrow(missing, len - missing));
                missing = 0;
            }
        }
        self.loose = if self.segments.len() < self.loose.0 {
            (self.segments.len(), self.len())
        } else {
            self.loose
        };
        Writes::join(parts)
    }

    /// Everything, oldest first.
    pub(crate) fn pop_all(&mut self) -> Result<Writes> {
        self.loose = (0, 0);
        Writes::join(std::mem::take(&mut self.segments).into())
    }

    /// Σ log a over the queue, `[batch, 1, heads, rows]`; `None` for decays that do not depend on the token.
    ///
    /// Summed in blocks, and the same whatever segments the tokens came in. One running sum of thousands of nearly equal
    /// numbers would round in the same direction again and again.
    pub(crate) fn log_decay_sum(&self) -> Option<Tensor<4>> {
        let decays: Vec<Tensor<4>> = self
            .segments
            .iter()
            .filter_map(Writes::bounded_log_decay)
            .collect();
        if decays.is_empty() {
            return None;
        }
        let decays = Tensor::cat(decays, 1);
        let [batch, time, heads, rows] = decays.dims();
        let blocks = time / SUM_BLOCK;
        let whole = blocks * SUM_BLOCK;
        let block_sums = (whole > 0).then(|| {
            let blocked =
                decays
                    .clone()
                    .narrow(1, 0, whole)
                    .reshape([batch, blocks, SUM_BLOCK, heads * rows]);
            blocked.sum_dim(2).sum_dim(1).reshape([batch, 1, heads, rows])
        });
        let rest = (whole < time).then(|| decays.narrow(1, whole, time - whole).sum_dim(1));
        block_sums
            .into_iter()
            .chain(rest)
            .reduce(|whole, rest| whole + rest)
    }

    pub(crate) fn len(&self) -> usize {
        self.segments.iter().map(Writes::len).sum()
    }

    pub(crate) fn bytes(&self) -> usize {
        let of = |writes: &Writes| {
            writes.key.shape().num_elements()
                + writes.value.shape().num_elements()
                + writes
                    .log_decay
                    .as_ref()
                    .map_or(0, |decay| decay.shape().num_elements())
                + writes
                    .step_size
                    .as_ref()
                    .map_or(0, |step| step.shape().num_elements())
        };
        4 * self.segments.iter().map(of).sum::<usize>()
    }

    pub(crate) fn save(&self) -> BTreeMap<String, TensorData> {
        // Joining fails only for tokens of different kinds, which `push` and `pop` have refused or will refuse; nothing is
        // saved then, and restoring says what is missing.
        let parts: Vec<Writes> = self.segments.iter().cloned().collect();
        let mut saved = BTreeMap::new();
        if parts.is_empty() {
            return saved;
        }
        if let Ok(all) = Writes::join(parts) {
            saved.insert("queue.key".into(), all.key.to_data());
            saved.insert("queue.value".into(), all.value.to_data());
            saved.extend(
                all.log_decay
                    .map(|decay| ("queue.log_decay".into(), decay.to_data())),
            );
            saved.extend(
                all.step_size
                    .map(|step| ("queue.step_size".into(), step.to_data())),
            );
        }
        saved
    }

    pub(crate) fn restore(
        site: &Site,
        batch: usize,
        device: &Device,
        saved: &BTreeMap<String, TensorData>,
    ) -> Result<Self> {
        let key = saved_tensor::<4>(saved, "queue.key", batch, device)?;
        let value = saved_tensor::<4>(saved, "queue.value", batch, device)?;
        let log_decay = saved_tensor::<4>(saved, "queue.log_decay", batch, device)?;
        let step_size = saved_tensor::<3>(saved, "queue.step_size", batch, device)?;
        let (key, value) = match (key, value) {
            (None, None) => return Ok(Self::default()),
            (Some(key), Some(value)) => (key, value),
            _ => {
                return Err(Error::Saved {
                    what: "queue.key and queue.value".into(),
                    expected: "both or neither".into(),
                    found: "one of them".into(),
                });
            }
        };
        let time = key.dims()[1];
        let rows = log_decay.as_ref().map_or(1, |decay| decay.dims()[3]);
        expect_dims(
            "queue.key",
            &key.dims(),
            &[batch, time, site.groups, site.key_dim],
        )?;
        expect_dims(
            "queue.value",
            &value.dims(),
            &[batch, time, site.heads, site.value_dim],
        )?;
        if let Some(decay) = &log_decay {
            let rows = if rows == 1 { 1 } else { site.key_dim };
            expect_dims("queue.log_decay", &decay.dims(), &[batch, time, site.heads, rows])?;
        }
        if let Some(step) = &step_size {
            expect_dims("queue.step_size", &step.dims(), &[batch, time, site.heads])?;
        }
        let segments = VecDeque::from([Writes {
            key,
            value,
            log_decay,
            step_size,
        }]);
        Ok(Self {
            segments,
            loose: (0, 0),
        })
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
