//! Depthwise convolutions as PyTorch stores them.

use attention_linear::projection::ConvWeights;

use crate::error::ModelError;
use crate::loader::{Init, Loader};

/// `NAME.weight` `[channels, 1, width]` and, where there is one, `NAME.bias` `[channels]`.
pub(crate) fn short_conv(
    loader: &mut Loader<'_>,
    name: &str,
    [channels, width]: [usize; 2],
    bias: bool,
) -> Result<ConvWeights, ModelError> {
    let taps = Init::fan_in(width);
    let weight = loader.tensor(&format!("{name}.weight"), [channels, 1, width], taps)?;
    Ok(ConvWeights {
        weight: weight.reshape([channels, width]),
        bias: match bias {
            true => Some(loader.vector(&format!("{name}.bias"), channels, taps)?),
            false => None,
        },
    })
}
