//! The lower bounds of the decays of HGRN and HGRN-2, which grow from layer to layer.
//!
//! `model.lower_bounds` holds a row per layer. With p its softmax over the layers, the bound of layer n is p₁ + … + pₙ, and there is
//! none in layer 0.

use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use spillway_ssm_core::Init;

use super::backbone::MixerSource;
use crate::error::ModelError;
use crate::loader::Loader;

/// The bound of every layer, `[channels]`, where it has one.
pub(super) struct LowerBounds(Vec<Option<Tensor<1>>>);

impl LowerBounds {
    /// Reads `model.lower_bounds`, `[layers, channels]`, where decays are bounded.
    pub(super) fn read(
        loader: &mut Loader<'_>,
        bounded: bool,
        [layers, channels]: [usize; 2],
    ) -> Result<Self, ModelError> {
        Ok(Self(match bounded {
            true => normalised(loader.stored("model.lower_bounds", [layers, channels], Init::Zeros)?),
            false => vec![None; layers],
        }))
    }

    /// The bound of a layer, where the model runs.
    pub(super) fn of_layer(&self, source: &mut MixerSource<'_, '_>, layer: usize) -> Option<Tensor<1>> {
        let bound = self.0.get(layer).cloned().flatten();
        bound.map(|bound| source.source().place(bound))
    }
}

/// The bounds of every layer, from rows `[layers, channels]` that are not normalised yet; none in layer 0.
fn normalised(raw: Tensor<2>) -> Vec<Option<Tensor<1>>> {
    let [layers, channels] = raw.dims();
    let shares = softmax(raw, 0);
    let mut sum: Option<Tensor<1>> = None;
    let mut bounds = vec![None];
    for layer in 1..layers {
        let share = shares.clone().narrow(0, layer, 1).reshape([channels]);
        sum = Some(match sum {
            Some(sum) => sum + share,
            None => share,
        });
        bounds.push(sum.clone());
    }
    bounds
}
