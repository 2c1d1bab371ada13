//! Tensors in memory as a source.

use super::{Init, WeightError, WeightSource};
use crate::error::{Error, Result};
use crate::linear::Linear;
use burn::tensor::{Device, Tensor, TensorData};
use spillway_kernel_dsl::linear::{PackedMatrix, WeightType};
use std::collections::{BTreeMap, BTreeSet};

/// Tensors by name; its matrices are packed as f32, and all its weights are constants.
#[derive(Clone, Debug)]
pub struct WeightMap {
    tensors: BTreeMap<String, TensorData>,
    device: Device,
    read: BTreeSet<String>,
}

impl WeightMap {
    /// A source of `tensors`, for mixers that run on `device`.
    pub fn new(tensors: BTreeMap<String, TensorData>, device: Device) -> Self {
        Self {
            tensors,
            device,
            read: BTreeSet::new(),
        }
    }

    /// Refuses tensors that nothing has asked for.
    ///
    /// # Errors
    /// [`WeightError::Unread`], naming the first.
    pub fn expect_all_read(&self) -> Result<()> {
        match self.tensors.keys().find(|name| !self.read.contains(*name)) {
            None => Ok(()),
            Some(name) => Err(WeightError::Unread { name: name.clone() }.into()),
        }
    }

    fn data(&mut self, name: &str, shape: &[usize]) -> Result<&TensorData> {
        self.read.insert(name.to_string());
        let Some(data) = self.tensors.get(name) else {
            return Err(Error::from(WeightError::Missing {
                name: name.to_string(),
                expected: shape.to_vec(),
            }));
        };
        match &data.shape()[..] == shape {
            true => Ok(data),
            false => Err(Error::from(WeightError::Shape {
                name: name.to_string(),
                expected: shape.to_vec(),
                found: data.shape().to_vec(),
            })),
        }
    }

    fn rows(&mut self, name: &str, shape: [usize; 2]) -> Result<Vec<f32>> {
        Ok(self.data(name, &shape)?.iter::<f32>().collect())
    }
}

impl WeightSource for WeightMap {
    type Error = Error;

    fn linear_with(&mut self, name: &str, shape: [usize; 2], bias: bool, _init: Init) -> Result<Linear> {
        self.stacked(&[(name, shape[0])], shape[1], bias)
    }

    fn stacked(&mut self, parts: &[(&str, usize)], in_features: usize, bias: bool) -> Result<Linear> {
        let (mut values, mut biases) = (Vec::new(), Vec::new());
        for (name, rows) in parts {
            values.extend(self.rows(&format!("{name}.weight"), [*rows, in_features])?);
            if bias {
                biases.push(self.vector(&format!("{name}.bias"), *rows, Init::Zeros)?);
            }
        }
        let out_features = parts.iter().map(|(_, rows)| rows).sum();
        let packed = PackedMatrix::pack(&values, out_features, in_features, WeightType::F32);
        let packed = packed.map_err(|cause| {
            let names: Vec<String> = parts.iter().map(|(name, _)| format!("{name}.weight")).collect();
            WeightError::Packing {
                name: names.join(", "),
                cause,
            }
        })?;
        Linear::new(packed, bias.then(|| Tensor::cat(biases, 0)))
    }

    fn tensor<const D: usize>(&mut self, name: &str, shape: [usize; D], _init: Init) -> Result<Tensor<D>> {
        let values: Vec<f32> = self.data(name, &shape)?.iter::<f32>().collect();
        Ok(Tensor::from_data(TensorData::new(values, shape), &self.device))
    }
}
