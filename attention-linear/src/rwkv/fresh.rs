//! How the weights of a fresh layer follow from its place in the model.

use spillway_ssm_core::Init;

/// Where a layer stands in its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    /// Index of the layer, from 0.
    pub layer: usize,
    /// Layers of the model.
    pub layers: usize,
}

impl Depth {
    /// 0 in the first layer, 1 in the last.
    pub(super) fn ratio(self) -> f32 {
        self.layer as f32 / (self.layers.max(2) - 1) as f32
    }

    /// 1 in the first layer, 1/layers in the last.
    pub(super) fn height(self) -> f32 {
        1.0 - self.layer as f32 / self.layers as f32
    }

    /// The share of the current token that keys are made of; so are values of other versions than 7, with an offset.
    pub(super) fn share_of_keys(self, offset: f32) -> FreshShare {
        FreshShare {
            power: self.height(),
            offset,
        }
    }

    /// The share of the current token that receptance and gate are made of, in other versions than 7.
    pub(super) fn share_of_gates(self) -> FreshShare {
        FreshShare {
            power: 0.5 * self.height(),
            offset: 0.0,
        }
    }

    /// time_decay of versions 5 and 6: from slow to fast over the channels.
    pub(super) fn time_decay(self) -> Init {
        Init::Ramp {
            from: -6.0,
            to: -1.0,
            power: 0.7 + 1.3 * self.ratio(),
        }
    }
}

/// The share of the current token in a fresh interpolation: (i / (C − 1))^power over the C channels i, plus a constant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FreshShare {
    /// Exponent of the channel's share of the width.
    pub power: f32,
    /// Constant that is added to the power.
    pub offset: f32,
}

impl FreshShare {
    /// The share of the current token.
    pub fn of_current(self) -> Init {
        let Self { power, offset } = self;
        Init::Ramp {
            from: offset,
            to: 1.0 + offset,
            power,
        }
    }

    /// The share of the previous token: 1 less that of the current one.
    pub fn of_previous(self) -> Init {
        let Self { power, offset } = self;
        Init::Ramp {
            from: 1.0 - offset,
            to: 1.0 - (1.0 + offset),
            power,
        }
    }
}
