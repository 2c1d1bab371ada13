//! The keys and values of past tokens.

use crate::error::{Error, Result};
use crate::gates::expect_shape;
use burn::tensor::{DType, Device, Tensor, TensorData};
use std::collections::BTreeMap;

/// Tokens that a cache has room for when it first needs any.
const SMALLEST: usize = 32;

/// Keys and values of the past tokens of every sequence, with the state of a convolution before them where there is one.
///
/// Sequences may hold different numbers of tokens. Room is doubled when it ends. Under a window, tokens that none can read any
/// more are dropped when room ends, so that the cache stays below twice the window and moves each token once at most on
/// average.
#[derive(Clone, Debug)]
pub struct KeyValueCache {
    /// Keys of past tokens, `[batch, heads, capacity, key_dim]`; what lies behind a sequence's tokens means nothing.
    pub(crate) keys: Tensor<4>,
    /// Values of past tokens, `[batch, heads, capacity, value_dim]`; what lies behind a sequence's tokens means nothing.
    pub(crate) values: Tensor<4>,
    pub(crate) lengths: Vec<usize>,
    pub(crate) window: Option<usize>,
    /// The last inputs of the convolution over queries, keys and values, `[batch, channels, width − 1]`, oldest first.
    pub conv_state: Option<Tensor<3>>,
}

impl KeyValueCache {
    /// A cache without tokens. `window` is the number of keys before its own that a token reads, if not all.
    pub fn empty(
        batch: usize,
        heads: usize,
        [key_dim, value_dim]: [usize; 2],
        window: Option<usize>,
        device: &Device,
    ) -> Self {
        Self {
            keys: Tensor::zeros([batch, heads, 0, key_dim], device),
            values: Tensor::zeros([batch, heads, 0, value_dim], device),
            lengths: vec![0; batch],
            window,
            conv_state: None,
        }
    }

    /// The cache with the state of a convolution, all 0.
    pub fn with_taps(mut self, channels: usize, width: usize) -> Self {
        let shape = [self.lengths.len(), channels, width.saturating_sub(1)];
        self.conv_state = Some(Tensor::zeros(shape, &self.keys.device()));
        self
    }

    /// The sequences of several caches, one after another, as one batch.
    ///
    /// # Errors
    /// [`Error::Shape`] when heads or dimensions differ, [`Error::Value`] when windows do, or when there is no cache.
    pub fn stack(caches: &[Self]) -> Result<Self> {
        let differs = |found: String| Error::Value {
            what: "caches to be stacked",
            expected: "at least one, all of one window, all with the state of a convolution or none",
            found,
        };
        let Some(first) = caches.first() else {
            return Err(differs("none".into()));
        };
        let like = |cache: &Self| {
            (
                cache.window,
                cache.conv_state.as_ref().map(|state| state.dims()[1..].to_vec()),
            )
        };
        if let Some(other) = caches.iter().find(|cache| like(cache) != like(first)) {
            return Err(differs(format!("{:?} and {:?}", like(first), like(other))));
        }
        let ([_, heads, _, key_dim], [_, _, _, value_dim]) = (first.keys.dims(), first.values.dims());
        let capacity = caches.iter().map(Self::capacity).max().unwrap_or(0);
        let (mut keys, mut values, mut conv_states) = (Vec::new(), Vec::new(), Vec::new());
        for cache in caches {
            cache.expect(cache.lengths.len(), heads, [key_dim, value_dim])?;
            keys.push(widened(&cache.keys, capacity));
            values.push(widened(&cache.values, capacity));
            conv_states.extend(cache.conv_state.clone());
        }
        Ok(Self {
            keys: Tensor::cat(keys, 0),
            values: Tensor::cat(values, 0),
            lengths: caches.iter().flat_map(|cache| cache.lengths.clone()).collect(),
            window: first.window,
            conv_state: (!conv_states.is_empty()).then(|| Tensor::cat(conv_states, 0)),
        })
    }

    /// How many tokens of each sequence are held.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// How many keys before its own a token reads; `None` for all.
    pub fn window(&self) -> Option<usize> {
        self.window
    }

    /// Tokens that a sequence has room for.
    pub fn capacity(&self) -> usize {
        self.keys.dims()[2]
    }

    /// Memory that the conv state and the tokens take that may still be read, in bytes. Room for further ones, less than as much again, is
    /// not counted.
    pub fn bytes(&self) -> usize {
        let ([_, heads, _, key_dim], [_, _, _, value_dim]) = (self.keys.dims(), self.values.dims());
        let conv_state = self
            .conv_state
            .as_ref()
            .map_or(0, |state| state.shape().num_elements());
        let tokens: usize = self.kept().iter().sum();
        4 * (tokens * heads * (key_dim + value_dim) + conv_state)
    }

    /// Makes room for `time` more tokens of every sequence.
    pub(crate) fn reserve(&mut self, time: usize) {
        let longest = self.lengths.iter().max().map_or(0, |&length| length);
        if longest + time <= self.capacity() {
            return;
        }
        let needed = self.kept().iter().max().map_or(0, |&kept| kept) + time;
        let target = match self.window {
            Some(window) => needed.max(2 * window.saturating_add(1).min(needed)),
            None => needed.max(2 * self.capacity()),
        };
        self.move_to(target.max(SMALLEST));
    }

    /// Gives back room that only a long segment of tokens needed.
    pub(crate) fn trim(&mut self) {
        let Some(window) = self.window else { return };
        let target = window.saturating_add(1).saturating_mul(2).max(SMALLEST);
        if self.capacity() > target {
            self.move_to(target);
        }
    }

    /// How many tokens of each sequence later ones may read.
    fn kept(&self) -> Vec<usize> {
        let window = self.window.unwrap_or(usize::MAX);
        self.lengths.iter().map(|&length| length.min(window)).collect()
    }

    /// Moves the tokens that may still be read to the beginning of a cache of another size.
    fn move_to(&mut self, capacity: usize) {
        let kept = self.kept();
        for cache in [&mut self.keys, &mut self.values] {
            let [_, heads, _, dim] = cache.dims();
            let device = cache.device();
            let sequences = kept.iter().zip(&self.lengths).enumerate();
            let moved: Vec<Tensor<4>> = sequences
                .map(|(b, (&kept, &length))| {
                    let mut parts = Vec::new();
                    if kept > 0 {
                        parts.push(
                            cache
                                .clone()
                                .slice([b..b + 1, 0..heads, length - kept..length, 0..dim]),
                        );
                    }
                    if kept < capacity {
                        parts.push(Tensor::zeros([1, heads, capacity - kept, dim], &device));
                    }
                    Tensor::cat(parts, 2)
                })
                .collect();
            if !moved.is_empty() {
                *cache = Tensor::cat(moved, 0);
            }
        }
        self.lengths = kept;
    }

    /// Drops room, and tokens that none can read any more: what is left is what [`KeyValueCache::save`] writes, so that going on
    /// from here and from a restored cache is the same computation.
    pub fn compact(&mut self) {
        match self.kept().into_iter().max().unwrap_or(0) {
            // Tensors without tokens cannot be cut out of others.
            0 => {
                let device = self.keys.device();
                for cache in [&mut self.keys, &mut self.values] {
                    let [batch, heads, _, dim] = cache.dims();
                    *cache = Tensor::zeros([batch, heads, 0, dim], &device);
                }
                self.lengths.fill(0);
            }
            longest => self.move_to(longest),
        }
    }

    /// Everything needed to go on, by name: `keys` and `values` of the tokens that may still be read, `lengths`, and `taps` where
    /// there is a convolution. The same whatever the calls in which the tokens came.
    pub fn save(&self) -> BTreeMap<String, TensorData> {
        let mut cache = self.clone();
        cache.compact();
        let held = |cache: &Tensor<4>| match cache.dims() {
            dims @ [_, _, 0, _] => TensorData::zeros::<f32, _>(dims),
            _ => cache.to_data(),
        };
        let lengths: Vec<i64> = cache.lengths.iter().map(|&length| length as i64).collect();
        let mut saved = BTreeMap::from([
            ("keys".into(), held(&cache.keys)),
            ("values".into(), held(&cache.values)),
            ("lengths".into(), TensorData::new(lengths, [self.lengths.len()])),
        ]);
        if let Some(conv_state) = &self.conv_state {
            saved.insert("taps".into(), conv_state.to_data());
        }
        saved
    }

    /// Takes up what [`KeyValueCache::save`] gave; `self` is freshly started.
    ///
    /// # Errors
    /// [`Error::Saved`] when an entry is missing or of another shape.
    pub fn restore(&mut self, saved: &BTreeMap<String, TensorData>) -> Result<()> {
        let keys = restored("keys", &self.keys, saved)?;
        let values = restored("values", &self.values, saved)?;
        let held = keys.dims()[2];
        if values.dims()[2] != held {
            return Err(Error::Saved {
                what: "values".into(),
                expected: format!("{held} tokens, as the keys have"),
                found: format!("{}", values.dims()[2]),
            });
        }
        let lengths = saved_lengths(saved, self.lengths.len(), held)?;
        if let Some(conv_state) = &mut self.conv_state {
            let data = entry("taps", saved)?;
            if data.dtype() != DType::F32 || data.shape().as_slice() != conv_state.dims() {
                return Err(wrong("taps", format!("F32 {:?}", conv_state.dims()), data));
            }
            *conv_state = Tensor::from_data(data.clone(), &conv_state.device());
        }
        (self.keys, self.values, self.lengths) = (keys, values, lengths);
        Ok(())
    }

    /// Checks that a layer's tokens fit.
    pub(crate) fn expect(&self, batch: usize, heads: usize, [key_dim, value_dim]: [usize; 2]) -> Result<()> {
        let capacity = self.capacity();
        expect_shape(
            "cache of keys",
            &[batch, heads, capacity, key_dim],
            &self.keys.dims(),
        )?;
        expect_shape(
            "cache of values",
            &[batch, heads, capacity, value_dim],
            &self.values.dims(),
        )
    }
}

/// A cache with room for `capacity` tokens, which is no less than it has.
fn widened(cache: &Tensor<4>, capacity: usize) -> Tensor<4> {
    let [batch, heads, held, dim] = cache.dims();
    let more = |len: usize| Tensor::zeros([batch, heads, len, dim], &cache.device());
    match held {
        0 => more(capacity),
        _ if held == capacity => cache.clone(),
        _ => Tensor::cat(vec![cache.clone(), more(capacity - held)], 2),
    }
}

fn entry<'a>(name: &str, saved: &'a BTreeMap<String, TensorData>) -> Result<&'a TensorData> {
    saved.get(name).ok_or_else(|| Error::Saved {
        what: name.into(),
        expected: "an entry".into(),
        found: "nothing".into(),
    })
}

fn wrong(name: &str, expected: String, data: &TensorData) -> Error {
    Error::Saved {
        what: name.into(),
        expected,
        found: format!("{:?} {:?}", data.dtype(), data.shape().as_slice()),
    }
}

/// The saved lengths, one per sequence, none beyond the tokens that are held.
fn saved_lengths(saved: &BTreeMap<String, TensorData>, batch: usize, held: usize) -> Result<Vec<usize>> {
    let data = entry("lengths", saved)?;
    let expected = || format!("I64 [{batch}] of numbers up to {held}");
    if data.dtype() != DType::I64 || data.shape().as_slice() != [batch] {
        return Err(wrong("lengths", expected(), data));
    }
    let lengths = data
        .iter::<i64>()
        .map(|length| usize::try_from(length).ok().filter(|&length| length <= held));
    lengths
        .collect::<Option<Vec<usize>>>()
        .ok_or_else(|| wrong("lengths", expected(), data))
}

/// A saved tensor of the shape of `like`, but for the number of tokens.
fn restored(name: &str, like: &Tensor<4>, saved: &BTreeMap<String, TensorData>) -> Result<Tensor<4>> {
    let [batch, heads, _, width] = like.dims();
    let data = entry(name, saved)?;
    match (data.dtype(), data.shape().as_slice()) {
        (DType::F32, &[b, h, tokens, w]) if (b, h, w) == (batch, heads, width) => Ok(match tokens {
            0 => Tensor::zeros([batch, heads, 0, width], &like.device()),
            _ => Tensor::from_data(data.clone(), &like.device()),
        }),
        _ => Err(wrong(
            name,
            format!("F32 [{batch}, {heads}, tokens, {width}]"),
            data,
        )),
    }
}
