//! What RWKV's mixers take their weights from.

use super::dynamic_shift::{DynamicShift, DynamicWeights, FRESH_UP, FreshShares};
use super::fresh::FreshShare;
use super::low_rank::{LowRank, LowRankShape};
use super::shift::TokenShift;
use spillway_ssm_core::weights::Below;
use spillway_ssm_core::{Init, Linear, WeightMap, WeightSource};

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

impl DynamicShift {
    /// The interpolations of the weights of `source`: `shift.input` of `width`, `shift.down` (5 · `rank` × `width`), and, for n of
    /// w, k, v, r and g, `shift.n` (`width` × `rank`) with a bias, whose parts of the narrow layer stand in this order.
    ///
    /// # Errors
    /// The source's for a tensor that is missing or of another shape.
    pub fn read<S: RwkvSource + ?Sized>(
        [width, rank]: [usize; 2],
        fresh: FreshShares,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        let input = source.shift("shift.input", width, fresh.input)?;
        let down = source.linear("shift.down", [5 * rank, width], false)?;
        let mut weights = |part: usize, letter: &str, fresh: FreshShare| -> Result<_, S::Error> {
            let name = format!("shift.{letter}");
            let up = source.linear_with(&name, [width, rank], false, FRESH_UP)?;
            let bias = source.vector(&format!("{name}.bias"), width, fresh.of_previous())?;
            let up = Linear::new(up.weight().clone(), Some(bias))?;
            Ok(DynamicWeights { part, up })
        };
        Ok(Self {
            decay: weights(0, "w", fresh.decay)?,
            key: weights(1, "k", fresh.key)?,
            value: weights(2, "v", fresh.value)?,
            receptance: weights(3, "r", fresh.receptance)?,
            gate: weights(4, "g", fresh.gate)?,
            input,
            down,
        })
    }
}
