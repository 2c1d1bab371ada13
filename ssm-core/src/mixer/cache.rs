//! The keys and values of past tokens.

use crate::error::{Error, Result};
use burn::tensor::{Device, Tensor, TensorData};
use std::collections::BTreeMap;

/// Keys and values of the past tokens of every sequence.
#[derive(Clone, Debug)]
pub struct KeyValueCache {
    /// `[batch, tokens, heads, key_dim]`.
    pub keys: Tensor<4>,
    /// `[batch, tokens, heads, value_dim]`.
    pub values: Tensor<4>,
}

impl KeyValueCache {
    /// A cache without tokens.
    pub fn empty(batch: usize, heads: usize, key_dim: usize, value_dim: usize, device: &Device) -> Self {
        Self {
            keys: Tensor::zeros([batch, 0, heads, key_dim], device),
            values: Tensor::zeros([batch, 0, heads, value_dim], device),
        }
    }

    /// Memory taken, in bytes.
    pub fn bytes(&self) -> usize {
        4 * (self.keys.shape().num_elements() + self.values.shape().num_elements())
    }

    /// Everything needed to go on, by name.
    pub fn save(&self) -> BTreeMap<String, TensorData> {
        BTreeMap::from([
            ("keys".into(), self.keys.to_data()),
            ("values".into(), self.values.to_data()),
        ])
    }

    /// Takes up what [`KeyValueCache::save`] gave; `self` is freshly started.
    ///
    /// # Errors
    /// [`Error::Saved`] when an entry is missing or of another shape.
    pub fn restore(&mut self, saved: &BTreeMap<String, TensorData>) -> Result<()> {
        let device = self.keys.device();
        self.keys = restored("keys", &self.keys, saved, &device)?;
        self.values = restored("values", &self.values, saved, &device)?;
        Ok(())
    }
}

/// A saved tensor of the shape of `like`, but for the number of tokens.
fn restored(
    name: &str,
    like: &Tensor<4>,
    saved: &BTreeMap<String, TensorData>,
    device: &Device,
) -> Result<Tensor<4>> {
    let [batch, _, heads, width] = like.dims();
    let wrong = |found: String| Error::Saved {
        what: name.into(),
        expected: format!("32-bit floats of shape [{batch}, tokens, {heads}, {width}]"),
        found,
    };
    let data = saved.get(name).ok_or_else(|| wrong("nothing".into()))?;
    let shape: Vec<usize> = data.shape().iter().copied().collect();
    match (data.dtype(), shape.as_slice()) {
        (burn::tensor::DType::F32, &[b, _, h, w]) if (b, h, w) == (batch, heads, width) => {
            Ok(Tensor::from_data(data.clone(), device))
        }
        (dtype, _) => Err(wrong(format!("{dtype:?} {shape:?}"))),
    }
}
