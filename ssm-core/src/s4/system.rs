//! The linear system of an S4 block: its tensors, as they are stored and as a fresh block starts.

use super::config::S4Config;
use super::fresh::Size;
use super::truncated::{interleaved, untruncated};
use crate::error::{Error, Result};
use crate::operators::linear_state_space::LinearSystem;
use crate::state_space::StateSpaceError;
use crate::state_space::init::{Initial, StepRange, Transform};
use crate::weights::{Init, StepSizes, WeightSource};
use burn::tensor::{Tensor, activation};
use std::f32::consts::FRAC_1_SQRT_2;

impl S4Config {
    /// The system of the weights of `source`, with C, C of the backward direction after it where there is one.
    pub(super) fn system<S: WeightSource>(&self, source: &mut S) -> Result<LinearSystem, S::Error> {
        let stored = self.stored_system(source)?;
        let skip = source.tensor("D", [self.channels, self.model_dim], Init::Normal(1.0))?;
        let system = LinearSystem {
            skip: Some(skip),
            ..stored
        };
        match (self.rank, self.truncated_at) {
            (0, _) | (_, 0) => Ok(system),
            (_, length) => {
                let c = untruncated(&system, length)?;
                Ok(LinearSystem { c, ..system })
            }
        }
    }

    /// As [`S4Config::system`], with C as it is stored and without D.
    pub(crate) fn stored_system<S: WeightSource>(&self, source: &mut S) -> Result<LinearSystem, S::Error> {
        let (h, s, modes) = (self.model_dim, self.copies, self.state_dim / 2);
        let size = Size {
            copies: s,
            state_dim: self.state_dim,
            rank: self.rank,
        };
        let initial = self.fresh.copies(size).map_err(|error| unusable(&error))?;
        let repeated =
            |of: &dyn Fn(&Initial) -> Vec<f32>| Init::Repeated(initial.iter().flat_map(of).collect());
        let mut rates = Vec::with_capacity(s * modes);
        for rate in initial.iter().flat_map(|initial| &initial.real) {
            rates.push(
                self.rate_transform
                    .invert_rate(*rate)
                    .map_err(|error| unusable(&error))? as f32,
            );
        }
        let real = source.tensor("kernel.A_real", [s, modes], Init::Repeated(rates.into()))?;
        let imag = repeated(&|initial| initial.imag.iter().map(|im| *im as f32).collect());
        let imag = source.tensor("kernel.A_imag", [s, modes], imag)?;
        let input = repeated(&|initial| interleaved(&initial.input));
        let b = source.tensor("kernel.B", [1, s, modes, 2], input)?;
        let c = source.tensor(
            "kernel.C",
            [self.directions() * self.channels, h, modes, 2],
            Init::Normal(FRAC_1_SQRT_2),
        )?;
        let low_rank = match self.rank {
            0 => None,
            rank => {
                let of_rank = |k: usize| initial.iter().map(move |initial| &initial.low_rank[k]);
                let p: Vec<f32> = (0..rank).flat_map(of_rank).flat_map(|p| interleaved(p)).collect();
                Some(source.tensor("kernel.P", [rank, s, modes, 2], Init::Repeated(p.into()))?)
            }
        };
        let step = source.tensor("kernel.inv_dt", [h, 1], self.fresh_step())?;
        Ok(LinearSystem {
            step_size: transformed(self.step_transform, step.reshape([h])),
            a: Tensor::stack(vec![transformed(self.rate_transform, real).neg(), imag.neg()], 2),
            b: b.reshape([s, modes, 2]),
            c,
            low_rank,
            skip: None,
            rule: self.rule,
            spectrum: self.modes.spectrum(),
        })
    }

    /// Log-uniform step sizes, as the transform has them.
    fn fresh_step(&self) -> Init {
        let StepRange { min, max } = self.fresh_steps;
        match self.step_transform {
            Transform::Softplus => Init::StepBias(StepSizes { min, max, floor: 0.0 }),
            _ => Init::Uniform(min.ln() as f32, max.ln() as f32),
        }
    }
}

fn unusable(error: &StateSpaceError) -> Error {
    Error::Value {
        what: "initialisation of a state space",
        expected: "a published name that fits the state and the copies",
        found: error.to_string(),
    }
}

/// A transform of a tensor.
fn transformed<const D: usize>(transform: Transform, x: Tensor<D>) -> Tensor<D> {
    match transform {
        Transform::None => x,
        Transform::Exp => x.exp(),
        Transform::Relu => activation::relu(x).add_scalar(1e-4),
        Transform::Sigmoid => activation::sigmoid(x),
        Transform::Softplus => activation::softplus(x, 1.0),
    }
}
