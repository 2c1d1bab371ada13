//! A loader as what mixers take their weights from.

use burn::tensor::Tensor;
use spillway_ssm_core::Linear;
use spillway_ssm_core::weights::{Init, WeightSource};

use super::Loader;
use crate::error::ModelError;

impl WeightSource for Loader<'_> {
    type Error = ModelError;

    fn linear_with(
        &mut self,
        name: &str,
        shape: [usize; 2],
        bias: bool,
        init: Init,
    ) -> Result<Linear, ModelError> {
        let weight = self.matrix(&format!("{name}.weight"), shape, init)?;
        let bias = match bias {
            true => Some(self.vector(&format!("{name}.bias"), shape[0], Init::Zeros)?),
            false => None,
        };
        Ok(Linear::new(weight, bias)?)
    }

    fn stacked(
        &mut self,
        parts: &[(&str, usize)],
        in_features: usize,
        bias: bool,
    ) -> Result<Linear, ModelError> {
        let mut stored = Vec::with_capacity(parts.len());
        for (name, outputs) in parts {
            let (name, shape) = (format!("{name}.weight"), [*outputs, in_features]);
            self.ask(&name, &shape, Init::fan_in(in_features));
            stored.push((name, shape));
        }
        let outputs = parts.iter().map(|(_, outputs)| outputs).sum::<usize>();
        self.count_product([outputs, in_features]);
        let weight = self.weight(&stored)?;
        if !bias {
            return Ok(Linear::new(weight, None)?);
        }
        let biases = parts
            .iter()
            .map(|(name, outputs)| self.vector(&format!("{name}.bias"), *outputs, Init::Zeros))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Linear::new(weight, Some(Tensor::cat(biases, 0)))?)
    }

    fn matrices(&mut self, name: &str, shape: [usize; 3]) -> Result<Vec<Linear>, ModelError> {
        let weights = self.weights_of_stack(name, shape)?;
        let linears = weights.into_iter().map(|weight| Ok(Linear::new(weight, None)?));
        linears.collect()
    }

    fn set_share(&mut self, chosen: usize, count: usize) {
        self.share = [chosen as u64, count.max(1) as u64];
    }

    fn tensor<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
        init: Init,
    ) -> Result<Tensor<D>, ModelError> {
        let stored = self.stored(name, shape, init)?;
        Ok(self.place(stored))
    }
}
