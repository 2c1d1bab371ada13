//! S4 on every axis of an image: what `layer` says of it, and the block that it makes.

use std::sync::Arc;

use serde_json::Value;
use spillway_ssm_core::free_convolution::nd::FreeConvolutionNd;
use spillway_ssm_core::image_shape::ImageShape;
use spillway_ssm_core::s4::{ModeSum, Projection, S4Config};
use spillway_ssm_core::s4nd::{ConvNextS4nd, S4nd, S4ndAxis, S4ndConfig};
use spillway_ssm_core::{Mixer, WeightSource as _};

use super::BLOCK_NAMES;
use crate::checkpoint::{CheckpointError, Fields};
use crate::error::ModelError;
use crate::loader::Loader;

/// The images of a model, and how their axes are read.
pub(super) struct Images {
    shape: ImageShape,
    /// For each axis, whether it is read from its beginning on alone.
    causal: Vec<bool>,
    tied: bool,
    terms: usize,
    band_limit: Option<f32>,
    /// Whether a layer is a block of ConvNeXt.
    convnext: bool,
}

/// `axes` and what goes with it; nothing where a layer reads sequences.
pub(super) fn read(layer: &Fields<'_>, block: &S4Config) -> Result<Option<Images>, CheckpointError> {
    let Some(sizes) = numbers(layer, "axes")? else {
        return Ok(None);
    };
    let shape = ImageShape::new(sizes).map_err(|_| {
        let expected = "1 to 3 numbers of pixels, each at least 1";
        layer.wrong("axes", expected, layer.value("axes"))
    })?;
    let axes = shape.sizes().len();
    if block.gate.is_some() {
        return Err(layer.unsupported("gate", "0, where there are axes"));
    }
    if block.modes != ModeSum::Pairs {
        return Err(layer.unsupported("disc", "\"zoh\" or \"bilinear\", where there are axes"));
    }
    let mut causal = vec![!block.bidirectional; axes];
    for axis in numbers(layer, "causal_axes")?.unwrap_or_default() {
        match causal.get_mut(axis) {
            Some(causal) => *causal = true,
            None => {
                let expected = format!("numbers of axes from 0 to {}", axes - 1);
                return Err(layer.wrong("causal_axes", &expected, layer.value("causal_axes")));
            }
        }
    }
    let tied = layer.bool_or("tie_axes", false)?;
    if tied && causal.iter().any(|axis| *axis != causal[0]) {
        return Err(layer.unsupported("causal_axes", "all axes or none, where tie_axes is true"));
    }
    let convnext = match layer.text("block")? {
        None | Some("s4") => false,
        Some("convnext") if block.channels == 1 => true,
        Some("convnext") => return Err(layer.unsupported("channels", "1, where block is \"convnext\"")),
        Some(_) => return Err(layer.unsupported("block", "\"s4\" or \"convnext\"")),
    };
    Ok(Some(Images {
        shape,
        causal,
        tied,
        terms: layer.dimension_or("trank", 1)?,
        band_limit: match layer.has("bandlimit") {
            true => Some(layer.positive_or("bandlimit", 1.0)?),
            false => None,
        },
        convnext,
    }))
}

/// A list of whole numbers.
fn numbers(layer: &Fields<'_>, name: &str) -> Result<Option<Vec<usize>>, CheckpointError> {
    let Some(value) = layer.value(name) else {
        return Ok(None);
    };
    let number = |value: &Value| value.as_u64().and_then(|number| usize::try_from(number).ok());
    let numbers = value
        .as_array()
        .and_then(|list| list.iter().map(number).collect());
    match numbers {
        Some(numbers) => Ok(Some(numbers)),
        None => Err(layer.wrong(name, "a list of whole numbers", Some(value))),
    }
}

impl Images {
    /// The sizes of the axes, as text.
    pub(super) fn sizes(&self) -> String {
        let sizes: Vec<String> = self.shape.sizes().iter().map(usize::to_string).collect();
        sizes.join(" × ")
    }

    /// What else there is to say.
    pub(super) fn details(&self) -> Vec<(&'static str, String)> {
        let mut details = vec![("axes of an image", self.sizes())];
        if self.terms > 1 {
            details.push(("outer products of a kernel", self.terms.to_string()));
        }
        if self.tied {
            details.push(("kernels", "the same on all axes".into()));
        }
        if let Some(limit) = self.band_limit {
            details.push(("band limit", limit.to_string()));
        }
        details
    }

    /// The state spaces of a layer, or with so many `taps` the window in their place.
    pub(super) fn mixer(
        &self,
        block: &S4Config,
        taps: Option<usize>,
        name: &str,
        loader: &mut Loader<'_>,
    ) -> Result<Arc<dyn Mixer>, ModelError> {
        if let Some(taps) = taps {
            let source = &mut loader.below(name, BLOCK_NAMES);
            let shape = self.shape.clone();
            return Ok(Arc::new(FreeConvolutionNd::read(
                block.model_dim,
                shape,
                taps,
                source,
            )?));
        }
        let axes = self.shape.sizes().iter().zip(&self.causal).enumerate();
        let axis = |(index, (&size, &causal)): (usize, (&usize, &bool))| {
            let set = if self.tied { 0 } else { index };
            let truncated_at = loader.whole_number(&format!("{name}.layer.kernel.{set}.l_kernel"))?;
            Ok(S4ndAxis {
                size,
                bidirectional: !causal,
                taps: block.taps,
                truncated_at,
            })
        };
        let axes = axes.map(axis).collect::<Result<Vec<_>, ModelError>>()?;
        let config = S4ndConfig {
            model_dim: block.model_dim,
            channels: block.channels,
            summed: false,
            terms: self.terms,
            state_dim: block.state_dim,
            rank: block.rank,
            copies: block.copies,
            rule: block.rule,
            axes,
            tied: self.tied,
            band_limit: self.band_limit.map(f64::from),
            step_transform: block.step_transform,
            rate_transform: block.rate_transform,
            projection: match self.convnext {
                true => Projection::None,
                false => block.projection,
            },
            fresh: block.fresh.clone(),
            fresh_steps: block.fresh_steps,
        };
        let source = &mut loader.below(name, BLOCK_NAMES);
        Ok(match self.convnext {
            true => Arc::new(ConvNextS4nd::read(config, source)?),
            false => Arc::new(S4nd::read(config, source)?),
        })
    }
}
