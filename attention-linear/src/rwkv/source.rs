//! What RWKV's mixers take their weights from.

use super::dynamic_shift::{DynamicShift, FreshShares};
use super::fresh::FreshShare;
use super::low_rank::{LowRank, LowRankShape};
use super::shift::TokenShift;
use spillway_ssm_core::weights::Below;
use spillway_ssm_core::{Init, WeightMap, WeightSource};

/// A source of weights that knows how its publisher stores what RWKV's have in ways of their own.
///
/// The provided methods are for tensors as this crate has them: shares of the previous token, matrices as `[out, in]`.
pub trait RwkvSource: WeightSource {
    /// The interpolation `NAME` over `channels`.
    ///
    /// # Errors
    /// See [`WeightSource`].
    fn shift(&mut self, name: &str, channels: usize, fresh: FreshShare) -> Result<TokenShift, Self::Error> {
        Ok(TokenShift::of_previous(self.vector(
            name,
            channels,
            fresh.of_previous(),
        )?))
    }

    /// The low-rank projection `NAME`, as [`LowRank::read`] has it; the offset is drawn as given, and there is none without.
    ///
    /// # Errors
    /// See [`WeightSource`].
    fn low_rank(
        &mut self,
        name: &str,
        shape: LowRankShape,
        offset: Option<Init>,
    ) -> Result<LowRank, Self::Error> {
        LowRank::read(shape, offset, self, name)
    }

    /// The interpolations of RWKV-6 over `width` channels from a narrow layer of five parts of `rank`, as
    /// [`DynamicShift::read`] has them.
    ///
    /// # Errors
    /// See [`WeightSource`].
    fn dynamic_shift(
        &mut self,
        [width, rank]: [usize; 2],
        fresh: FreshShares,
    ) -> Result<DynamicShift, Self::Error> {
        DynamicShift::read([width, rank], fresh, self)
    }
}

impl RwkvSource for WeightMap {}

impl<S: WeightSource> RwkvSource for Below<'_, S> {}
