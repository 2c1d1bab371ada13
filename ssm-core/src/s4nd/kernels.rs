//! Kernels along the axes of an image, at any resolution.

use super::config::{S4ndAxis, S4ndConfig};
use super::expect_positive;
use crate::error::{Error, Result};
use crate::image_shape::Resolution;
use crate::operators::cauchy::{LowRankSystem, cauchy_kernel};
use crate::operators::linear_state_space::{LinearSystem, Rule};
use crate::operators::long_convolution_nd::AxisKernel;
use crate::operators::vandermonde::{DiagonalPlan, Discretization, ModeSet};
use crate::s4::kernel_of;
use crate::state_space::length_at_rate;
use crate::weights::WeightSource;
use burn::tensor::Tensor;
use std::f64::consts::PI;

/// The tensors of a state space by its own names, and below that of an axis.
const NAMES: &[(&str, &str)] = &[
    ("kernel.inv_dt", "inv_dt"),
    ("kernel.A_real", "A_real"),
    ("kernel.A_imag", "A_imag"),
    ("kernel.B", "B"),
    ("kernel.C", "C"),
    ("kernel.P", "P"),
];

/// The systems of all axes, or the one that they share.
#[derive(Clone, Debug)]
pub(super) struct Kernels {
    systems: Vec<LinearSystem>,
}

impl Kernels {
    pub(super) fn read<S: WeightSource>(config: &S4ndConfig, source: &mut S) -> Result<Self, S::Error> {
        let mut systems = Vec::with_capacity(config.sets());
        for (index, axis) in config.axes[..config.sets()].iter().enumerate() {
            let of_axis = &mut source.below(format!("kernel.{index}"), NAMES);
            let system = config.along(axis).stored_system(of_axis)?;
            systems.push(match config.band_limit {
                None => system,
                Some(limit) => band_limited(system, limit),
            });
        }
        Ok(Self { systems })
    }

    /// The kernels of every axis at a resolution.
    ///
    /// # Errors
    /// [`Error::Value`] for a rate that is not positive; those of the kernels.
    pub(super) fn at(&self, config: &S4ndConfig, resolution: &Resolution) -> Result<Vec<AxisKernel>> {
        expect_positive("rate of an image", resolution.rate)?;
        let axes = config.axes.iter().zip(&resolution.sizes).enumerate();
        axes.map(|(index, (axis, &size))| {
            let system = match config.tied {
                true => &self.systems[0],
                false => &self.systems[index],
            };
            // The mean over terms is taken on one axis.
            let share = if index == 0 {
                1.0 / config.terms as f64
            } else {
                1.0
            };
            along(config, axis, system, (size, resolution.rate), share)
        })
        .collect()
    }
}

/// The kernels of an axis of `size` positions.
fn along(
    config: &S4ndConfig,
    axis: &S4ndAxis,
    system: &LinearSystem,
    (size, rate): (usize, f64),
    share: f64,
) -> Result<AxisKernel> {
    let at_rate = |length: usize| {
        length_at_rate(length, rate).map_err(|error| Error::Value {
            what: "taps of a kernel at another resolution",
            expected: "a positive rate",
            found: error.to_string(),
        })
    };
    let length = match axis.taps {
        None => size,
        Some(taps) => size.min(at_rate(taps)?.max(1)),
    };
    let system = LinearSystem {
        step_size: system.step_size.clone().mul_scalar(rate),
        ..system.clone()
    };
    let kernel = match (system.low_rank.clone(), axis.truncated_at) {
        (Some(p), nodes @ 1..) => cauchy_kernel(
            LowRankSystem {
                step: system.step_size,
                a: system.a,
                b: system.b,
                p,
                c: system.c,
                nodes: at_rate(nodes)?,
            },
            length,
        )?,
        _ => kernel_of(
            &system,
            &DiagonalPlan {
                length,
                discretization: match config.rule {
                    Rule::Bilinear => Discretization::Bilinear,
                    _ => Discretization::ZeroOrderHold,
                },
                mode_set: ModeSet::ConjugatePairs,
            },
        )?,
    };
    let kernel = if share == 1.0 {
        kernel
    } else {
        kernel.mul_scalar(share)
    };
    let rows = config.terms * config.channels;
    let direction = |index: usize| {
        kernel.clone().narrow(0, index * rows, rows).reshape([
            config.terms,
            config.channels,
            config.model_dim,
            length,
        ])
    };
    Ok(AxisKernel {
        size,
        kernel: direction(0),
        later_kernel: axis.bidirectional.then(|| direction(1)),
    })
}

/// The system without the modes that have half of `limit` cycles per position or more: their C is 0.
fn band_limited(system: LinearSystem, limit: f64) -> LinearSystem {
    let [copies, modes, _] = system.a.dims();
    let channels = system.step_size.dims()[0];
    let turns: Tensor<2> = system.a.clone().narrow(2, 1, 1).reshape([copies, modes]).abs();
    let turns = turns.repeat_dim(0, channels / copies) * system.step_size.clone().reshape([channels, 1]);
    // Which modes are kept is no smooth function of anything.
    let kept = turns.detach().lower_elem(limit * PI).float();
    LinearSystem {
        c: system.c * kept.reshape([1, channels, modes, 1]),
        ..system
    }
}
