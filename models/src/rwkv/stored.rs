//! How publishers store what RWKV's mixers read.

use burn::tensor::Tensor;
use spillway_attention_linear::rwkv::{
    ChannelMix, ChannelMixConfig, DynamicShift, DynamicWeights, FRESH_UP, FreshShare, FreshShares, LowRank,
    LowRankShape, RwkvSource, TokenShift,
};
use spillway_ssm_core::weights::Below;
use spillway_ssm_core::{Init, Linear, WeightSource};

use super::BlockPlan;
use crate::error::ModelError;
use crate::loader::Loader;

/// The tensors of a mixer: what they are called, and in what form they are stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage {
    /// Names of the mixer, and those of the layout in their place.
    pub(super) names: &'static [(&'static str, &'static str)],
    /// Names of vectors that are stored as `[1, 1, length]`.
    pub(super) rows: &'static [&'static str],
    pub(super) share: Share,
    pub(super) low_rank: LowRankStorage,
}

/// Which token the weights of an interpolation are the share of, and how they are stored.
#[derive(Clone, Copy, Debug)]
pub(super) enum Share {
    /// Share of the current token, stored as `[1, 1, channels]`.
    CurrentRow,
    /// Share of the previous token, stored as `[1, 1, channels]`.
    PreviousRow,
    /// Share of the previous token, stored as `[channels]`.
    PreviousVector,
}

/// How low-rank projections and the interpolations of version 6 are stored.
#[derive(Clone, Copy, Debug)]
pub(super) enum LowRankStorage {
    /// `NAME.down` `[in, rank]`, `NAME.up` `[rank, out]`, `NAME.offset` `[1, 1, out]`; `shift.down` `[in, 5 · rank]`, `shift.up`
    /// `[5, rank, out]` and an offset `shift.n` `[1, 1, out]` for n of w, k, v, r and g.
    BlinkDl,
    /// As BlinkDL's, but `NAME.down` `[rank, in]`, `NAME.up` `[out, rank]`; `shift.down` `[5 · rank, in]`, `shift.up` `[5, out, rank]`, or
    /// `[rank, 5, out]` from tools that swap the first two dimensions of everything.
    Ai00 { rank_first: bool },
    /// `NAME.down` `[rank, in]`, `NAME.up` `[out, rank]` with a bias; `shift.down` `[5 · rank, in]`, `shift.up` `[out, 5 · rank]`
    /// and `shift.offsets` `[5, out]` in the order r, w, k, v, g.
    Fla,
}

/// The tensors of a mixer in a form.
#[derive(Debug)]
pub(super) struct Stored<'s, 'a> {
    tensors: Below<'s, Loader<'a>>,
    storage: Storage,
}

impl Storage {
    /// The tensors below `prefix`.
    pub(super) fn below<'s, 'a>(self, loader: &'s mut Loader<'a>, prefix: &str) -> Stored<'s, 'a> {
        Stored {
            tensors: loader.below(prefix, self.names),
            storage: self,
        }
    }

    /// The channel mixer of a block; versions before 7 have a receptance.
    pub(super) fn channel_mix(
        self,
        loader: &mut Loader<'_>,
        plan: &BlockPlan,
        [model_dim, hidden_dim]: [usize; 2],
        receptance: bool,
    ) -> Result<ChannelMix, ModelError> {
        let config = ChannelMixConfig {
            model_dim,
            hidden_dim,
            receptance,
            depth: plan.depth,
        };
        ChannelMix::read(config, &mut self.below(loader, &plan.channel))
    }
}

impl Stored<'_, '_> {
    /// A vector stored as `[1, 1, length]`.
    fn row(&mut self, name: &str, length: usize, init: Init) -> Result<Tensor<1>, ModelError> {
        Ok(self.tensors.tensor(name, [1, 1, length], init)?.reshape([length]))
    }

    /// A matrix stored as `[in, out]`.
    fn transposed(
        &mut self,
        name: &str,
        stored: [usize; 2],
        bias: Option<Tensor<1>>,
    ) -> Result<Linear, ModelError> {
        let name = self.tensors.name(name);
        let weight = self.tensors.source().transposed(&name, stored)?;
        Ok(Linear::new(weight, bias)?)
    }

    /// A matrix of BlinkDL's, given as `[in, out]`, in the orientation of this storage.
    fn low_rank_matrix(
        &mut self,
        name: &str,
        [inputs, outputs]: [usize; 2],
        bias: Option<Tensor<1>>,
    ) -> Result<Linear, ModelError> {
        if let LowRankStorage::BlinkDl = self.storage.low_rank {
            return self.transposed(name, [inputs, outputs], bias);
        }
        let stored = self.stored(name, [outputs, inputs], Init::fan_in(inputs))?;
        Ok(Linear::new(self.tensors.source().pack(stored)?, bias)?)
    }

    /// A tensor to be taken apart.
    fn stored<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
        init: Init,
    ) -> Result<Tensor<D>, ModelError> {
        let name = self.tensors.name(name);
        self.tensors.source().stored(&name, shape, init)
    }

    /// One interpolation of version 6, from its matrix and the share of the previous token.
    fn dynamic_weights(
        &mut self,
        part: usize,
        matrix: Tensor<2>,
        share: Tensor<1>,
    ) -> Result<DynamicWeights, ModelError> {
        Ok(DynamicWeights {
            part,
            up: Linear::new(self.tensors.source().pack(matrix)?, Some(share))?,
        })
    }

    fn blinkdl_shift(
        &mut self,
        [width, rank]: [usize; 2],
        fresh: FreshShares,
    ) -> Result<DynamicShift, ModelError> {
        let input = self.shift("shift.input", width, fresh.input)?;
        let down = self.low_rank_matrix("shift.down", [width, 5 * rank], None)?;
        let stored: Tensor<3> = match self.storage.low_rank {
            LowRankStorage::Ai00 { rank_first: false } => self
                .stored("shift.up", [5, width, rank], FRESH_UP)?
                .swap_dims(1, 2),
            LowRankStorage::Ai00 { rank_first: true } => self
                .stored("shift.up", [rank, 5, width], FRESH_UP)?
                .swap_dims(0, 1),
            _ => self.stored("shift.up", [5, rank, width], FRESH_UP)?,
        };
        let mut weights = |part: usize, letter: &str, fresh: FreshShare| {
            let matrix = stored.clone().narrow(0, part, 1).reshape([rank, width]);
            let share = self.row(&format!("shift.{letter}"), width, fresh.of_previous())?;
            self.dynamic_weights(part, matrix.transpose(), share)
        };
        Ok(DynamicShift {
            decay: weights(0, "w", fresh.decay)?,
            key: weights(1, "k", fresh.key)?,
            value: weights(2, "v", fresh.value)?,
            receptance: weights(3, "r", fresh.receptance)?,
            gate: weights(4, "g", fresh.gate)?,
            input,
            down,
        })
    }

    fn fla_shift(
        &mut self,
        [width, rank]: [usize; 2],
        fresh: FreshShares,
    ) -> Result<DynamicShift, ModelError> {
        let input = self.shift("shift.input", width, fresh.input)?;
        let down = self.linear("shift.down", [5 * rank, width], false)?;
        let stored: Tensor<2> = self.stored("shift.up", [width, 5 * rank], FRESH_UP)?;
        let shares: Tensor<2> = self.tensor("shift.offsets", [5, width], Init::Uniform(0.0, 1.0))?;
        let mut weights = |part: usize| {
            let matrix = stored.clone().narrow(1, part * rank, rank);
            let share = shares.clone().narrow(0, part, 1).reshape([width]);
            self.dynamic_weights(part, matrix, share)
        };
        Ok(DynamicShift {
            receptance: weights(0)?,
            decay: weights(1)?,
            key: weights(2)?,
            value: weights(3)?,
            gate: weights(4)?,
            input,
            down,
        })
    }
}

impl WeightSource for Stored<'_, '_> {
    type Error = ModelError;

    fn linear_with(
        &mut self,
        name: &str,
        shape: [usize; 2],
        bias: bool,
        init: Init,
    ) -> Result<Linear, ModelError> {
        self.tensors.linear_with(name, shape, bias, init)
    }

    fn stacked(
        &mut self,
        parts: &[(&str, usize)],
        in_features: usize,
        bias: bool,
    ) -> Result<Linear, ModelError> {
        self.tensors.stacked(parts, in_features, bias)
    }

    fn tensor<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
        init: Init,
    ) -> Result<Tensor<D>, ModelError> {
        self.tensors.tensor(name, shape, init)
    }

    fn vector(&mut self, name: &str, length: usize, init: Init) -> Result<Tensor<1>, ModelError> {
        match self.storage.rows.contains(&name) {
            true => self.row(name, length, init),
            false => self.tensors.vector(name, length, init),
        }
    }
}

impl RwkvSource for Stored<'_, '_> {
    fn shift(&mut self, name: &str, channels: usize, fresh: FreshShare) -> Result<TokenShift, ModelError> {
        Ok(match self.storage.share {
            Share::CurrentRow => TokenShift::of_current(self.row(name, channels, fresh.of_current())?),
            Share::PreviousRow => TokenShift::of_previous(self.row(name, channels, fresh.of_previous())?),
            Share::PreviousVector => {
                TokenShift::of_previous(self.tensors.vector(name, channels, fresh.of_previous())?)
            }
        })
    }

    fn low_rank(
        &mut self,
        name: &str,
        shape: LowRankShape,
        offset: Option<Init>,
    ) -> Result<LowRank, ModelError> {
        if let LowRankStorage::Fla = self.storage.low_rank {
            return LowRank::read(shape, offset, self, name);
        }
        let (rank, outputs) = (shape.rank, shape.out_features);
        let bias = match offset {
            Some(init) => Some(self.row(&format!("{name}.offset"), outputs, init)?),
            None => None,
        };
        Ok(LowRank {
            down: self.low_rank_matrix(&format!("{name}.down"), [shape.in_features, rank], None)?,
            activation: shape.activation,
            up: self.low_rank_matrix(&format!("{name}.up"), [rank, outputs], bias)?,
        })
    }

    fn dynamic_shift(&mut self, sizes: [usize; 2], fresh: FreshShares) -> Result<DynamicShift, ModelError> {
        match self.storage.low_rank {
            LowRankStorage::BlinkDl | LowRankStorage::Ai00 { .. } => self.blinkdl_shift(sizes, fresh),
            LowRankStorage::Fla => self.fla_shift(sizes, fresh),
        }
    }
}
