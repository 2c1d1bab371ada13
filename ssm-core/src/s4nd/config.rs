//! The shape of an S4ND block.

use super::expect_positive;
use crate::error::{Error, Result};
use crate::operators::linear_state_space::Rule;
use crate::s4::{FreshSystem, ModeSum, Projection, S4Config};
use crate::state_space::init::{StepRange, Transform};

/// An axis of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct S4ndAxis {
    /// Positions at the resolution of training.
    pub size: usize,
    /// Whether a second kernel reads later positions.
    pub bidirectional: bool,
    /// Taps beyond which kernels are cut off at the resolution of training: `l_max`. None: as long as the axis.
    pub taps: Option<usize>,
    /// M where C is C̃ = C (I − A̅^M), as S4 with P keeps it for kernels of M taps; 0 where it is C.
    pub truncated_at: usize,
}

/// The shape of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct S4ndConfig {
    /// Width of the layer's input and output, H.
    pub model_dim: usize,
    /// Outputs of each channel; where they are summed, all outputs.
    pub channels: usize,
    /// Whether an output adds over the channels: `out_channels`.
    pub summed: bool,
    /// R, outer products whose mean is a kernel: `trank`.
    pub terms: usize,
    /// N, with N/2 modes: one of each conjugate pair.
    pub state_dim: usize,
    /// Rank of P; 0 for S4D.
    pub rank: usize,
    /// Copies of (A, B, P); a divisor of `model_dim`.
    pub copies: usize,
    /// How positions become discrete. S4 with P knows the bilinear rule alone.
    pub rule: Rule,
    /// The axes, the last one fastest in memory.
    pub axes: Vec<S4ndAxis>,
    /// Whether all axes have the same kernel.
    pub tied: bool,
    /// b, where modes of b/2 cycles per position and more, at the resolution of training, are left out. None: no mode is.
    pub band_limit: Option<f64>,
    /// What `inv_dt` becomes Δ by.
    pub step_transform: Transform,
    /// What `A_real` becomes −Re Λ by.
    pub rate_transform: Transform,
    /// What comes after the state spaces.
    pub projection: Projection,
    /// Where Λ, B and P of a fresh block come from, by published name.
    pub fresh: FreshSystem,
    /// Step sizes of a fresh block; 0.1 to 1 for images of 32 positions on an axis.
    pub fresh_steps: StepRange,
}

impl S4ndConfig {
    /// The sizes of the axes.
    pub fn sizes(&self) -> Vec<usize> {
        self.axes.iter().map(|axis| axis.size).collect()
    }

    /// Sets of kernels: one per axis, or one for all.
    pub(super) fn sets(&self) -> usize {
        if self.tied { 1 } else { self.axes.len() }
    }

    /// Width of what the projection reads.
    pub(super) fn inner(&self) -> usize {
        match self.summed {
            true => self.channels,
            false => self.channels.saturating_mul(self.model_dim),
        }
    }

    /// The state space along an axis, whose outputs are all terms of all outputs.
    pub(super) fn along(&self, axis: &S4ndAxis) -> S4Config {
        S4Config {
            model_dim: self.model_dim,
            channels: self.terms * self.channels,
            state_dim: self.state_dim,
            rank: self.rank,
            copies: self.copies,
            rule: self.rule,
            modes: ModeSum::Pairs,
            bidirectional: axis.bidirectional,
            taps: axis.taps,
            step_transform: self.step_transform,
            rate_transform: self.rate_transform,
            gate: None,
            projection: Projection::Linear,
            fresh: self.fresh.clone(),
            fresh_steps: self.fresh_steps,
            truncated_at: axis.truncated_at,
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        // The number of axes and their sizes are the image's.
        crate::image_shape::ImageShape::new(self.sizes())?;
        if let Some(limit) = self.band_limit {
            expect_positive("band limit", limit)?;
        }
        let alike = |axis: &S4ndAxis| {
            let first = self.axes[0];
            axis.bidirectional == first.bidirectional && axis.truncated_at == first.truncated_at
        };
        let some = self.terms > 0 && self.channels > 0;
        if some && (!self.tied || self.axes.iter().all(alike)) {
            return self.axes.iter().try_for_each(|axis| self.along(axis).validate());
        }
        Err(Error::Value {
            what: "dimensions of an S4ND block",
            expected: "all at least 1, and where kernels are tied the same directions and the same C̃ on all axes",
            found: format!("{self:?}"),
        })
    }
}
