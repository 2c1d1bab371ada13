//! A first-in, first-out queue of what tokens write and erase: keys, values, decays, step sizes.

use crate::writes::Writes;
use burn::tensor::{Device, Tensor, TensorData};
use spillway_ssm_core::{Error, LogDecay, Site};
use std::collections::{BTreeMap, VecDeque};

type Result<T> = std::result::Result<T, Error>;

/// Tokens that are joined into one segment once so many came in smaller ones (in decode, one by one).
const SEGMENT: usize = 64;

/// Log decays that are summed one after another.
const SUM_BLOCK: usize = 64;

/// The queue. Tokens come in and go out in segments of any length.
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
            self.segments.push_back(Writes::join(parts.into(), 1)?);
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
                parts.push(front.narrow(1, 0, missing));
                self.segments.push_front(front.narrow(1, missing, len - missing));
                missing = 0;
            }
        }
        self.loose = if self.segments.len() < self.loose.0 {
            (self.segments.len(), self.len())
        } else {
            self.loose
        };
        Writes::join(parts, 1)
    }

    /// All tokens, oldest first, which leave the queue.
    pub(crate) fn pop_all(&mut self) -> Result<Writes> {
        self.loose = (0, 0);
        Writes::join(std::mem::take(&mut self.segments).into(), 1)
    }

    /// Σ of [`Writes::exponents`] over the queue, `[batch, 1, heads, rows]`; `None` for decays that do not depend on the token.
    ///
    /// Summed in blocks, and the same whatever segments the tokens came in. One running sum of thousands of nearly equal
    /// numbers would round in the same direction again and again.
    pub(crate) fn exponent_sum(&self, decay: &LogDecay) -> Option<Tensor<4>> {
        let decays: Vec<Tensor<4>> = self
            .segments
            .iter()
            .filter_map(|writes| writes.exponents(decay))
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

    /// The queue of these sequences of the batch, in this order.
    pub(crate) fn select(&self, rows: &[usize]) -> Result<Self> {
        let segments = self.segments.iter().map(|writes| writes.select(rows));
        Ok(Self {
            segments: segments.collect::<Result<_>>()?,
            loose: self.loose,
        })
    }

    /// One queue for the sequences of all `queues`, which hold equally many tokens.
    pub(crate) fn cat(queues: &[&Self]) -> Result<Self> {
        let tokens: Vec<usize> = queues.iter().map(|queue| queue.len()).collect();
        if tokens.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err(Error::Value {
                what: "queues of a window to join",
                expected: "those of sequences at one position",
                found: format!("{tokens:?} tokens"),
            });
        }
        if tokens.first().is_none_or(|tokens| *tokens == 0) {
            return Ok(Self::default());
        }
        let parts = queues.iter().map(|queue| (*queue).clone().pop_all());
        let joined = Writes::join(parts.collect::<Result<_>>()?, 0)?;
        Ok(Self {
            segments: VecDeque::from([joined]),
            loose: (0, 0),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.segments.iter().map(Writes::len).sum()
    }

    pub(crate) fn bytes(&self) -> usize {
        let of = |writes: &Writes| -> usize {
            let tensors = writes.tensors();
            tensors
                .iter()
                .map(|(_, tensor)| tensor.shape().num_elements())
                .sum()
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
        if let Ok(all) = Writes::join(parts, 1) {
            let tensors = all.tensors().into_iter();
            saved.extend(tensors.map(|(name, tensor)| (name.into(), tensor.to_data())));
        }
        saved
    }

    pub(crate) fn restore(
        site: &Site,
        batch: usize,
        device: &Device,
        saved: &BTreeMap<String, TensorData>,
    ) -> Result<Self> {
        let segments = Writes::restore(site, batch, device, saved)?.into_iter().collect();
        Ok(Self {
            segments,
            loose: (0, 0),
        })
    }
}
