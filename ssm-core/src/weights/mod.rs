//! Where mixers take their weights from.
//!
//! A mixer says what it needs, tensor by tensor: a name, a shape, how a fresh model draws it. A [`WeightSource`] answers: a
//! checkpoint, a random initialisation, the parameters of a trainer, or a [`WeightMap`] of tensors in memory. Shapes are
//! written where the mathematics is, and checked where the tensors are.
//!
//! Names are the mixer's own. [`WeightSource::below`] places them in a model, and translates those that a publisher has other
//! words for.
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! use burn::tensor::{Device, Tensor, TensorData};
//! use spillway_ssm_core::weights::{WeightMap, WeightSource};
//!
//! let tensors = BTreeMap::from([
//!     ("layers.0.mixer.o_proj.weight".to_string(), TensorData::new(vec![1.0f32, 2.0, 3.0], [1, 3])),
//!     ("layers.0.mixer.o_proj.bias".to_string(), TensorData::new(vec![0.5f32], [1])),
//! ]);
//! let mut map = WeightMap::new(tensors, Device::flex());
//! let linear = map.below("layers.0.mixer", &[("out", "o_proj")]).linear("out", [1, 3], true)?;
//! map.expect_all_read()?;
//!
//! let output = linear.forward(Tensor::ones([1, 1, 3], &Device::flex()))?;
//! assert_eq!(output.into_scalar::<f32>(), 6.5);
//!
//! let missing = map.vector("A_log", 4, spillway_ssm_core::weights::Init::Zeros).unwrap_err();
//! assert_eq!(missing.to_string(), "tensor A_log is missing: expected shape [4]");
//! # Ok::<(), spillway_ssm_core::Error>(())
//! ```

mod below;
mod init;
mod map;

use crate::error::Error;
pub use crate::error::WeightError;
use crate::linear::Linear;
use burn::tensor::Tensor;

pub use below::Below;
pub use init::{Init, StepSizes};
pub use map::WeightMap;

/// What mixers take their weights from.
///
/// Tensors come on the device that the mixer is to run on; which are packed is the source's choice. Every method fails for a
/// tensor that is missing or of another shape.
pub trait WeightSource {
    /// What is wrong with a tensor, or with the mixer that asks.
    type Error: From<Error>;

    /// A projection: `NAME.weight` `[out_features, in_features]`, drawn as `init`, and with `bias` `NAME.bias`
    /// `[out_features]`, drawn as zeros.
    ///
    /// # Errors
    /// See [`WeightSource`].
    fn linear_with(
        &mut self,
        name: &str,
        shape: [usize; 2],
        bias: bool,
        init: Init,
    ) -> Result<Linear, Self::Error>;

    /// Projections `NAME.weight` `[out_features, in_features]` (and biases) of one input as one product, whose outputs stand one
    /// after another: read together, their weights stream from memory without a pause between them. `parts` are their names and
    /// `out_features`.
    ///
    /// # Errors
    /// See [`WeightSource`].
    fn stacked(
        &mut self,
        parts: &[(&str, usize)],
        in_features: usize,
        bias: bool,
    ) -> Result<Linear, Self::Error>;

    /// Projections without biases of one shape in one tensor, `NAME` `[count, out_features, in_features]`, one after another: the
    /// experts of a mixture.
    ///
    /// # Errors
    /// See [`WeightSource`].
    fn matrices(
        &mut self,
        name: &str,
        [count, out_features, in_features]: [usize; 3],
    ) -> Result<Vec<Linear>, Self::Error> {
        let init = Init::fan_in(in_features);
        let all = self.tensor::<3>(name, [count, out_features, in_features], init)?;
        let matrix = |index| {
            let one: Tensor<2> = all
                .clone()
                .narrow(0, index, 1)
                .reshape([out_features, in_features]);
            Ok(Linear::new(one, None)?)
        };
        (0..count).map(matrix).collect()
    }

    /// Says that a token is multiplied with `chosen` of every `count` projections that are read from here on. It is 1 of 1 before;
    /// whoever counts operations needs it, and nobody else.
    fn set_share(&mut self, _chosen: usize, _count: usize) {}

    /// A dense tensor.
    ///
    /// # Errors
    /// See [`WeightSource`].
    fn tensor<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
        init: Init,
    ) -> Result<Tensor<D>, Self::Error>;

    /// A projection whose weight is drawn by [`Init::fan_in`].
    ///
    /// # Errors
    /// See [`WeightSource`].
    fn linear(&mut self, name: &str, shape: [usize; 2], bias: bool) -> Result<Linear, Self::Error> {
        self.linear_with(name, shape, bias, Init::fan_in(shape[1]))
    }

    /// A vector.
    ///
    /// # Errors
    /// See [`WeightSource`].
    fn vector(&mut self, name: &str, length: usize, init: Init) -> Result<Tensor<1>, Self::Error> {
        self.tensor(name, [length], init)
    }

    /// The tensors below `prefix`: `NAME` is `PREFIX.NAME` here. `names` are pairs of a name and the one that the tensor has
    /// here, of whole names or of what stands before a dot. Parts of [`WeightSource::stacked`] that have one name are rows of
    /// one tensor, one part after another.
    fn below<'s>(
        &'s mut self,
        prefix: impl Into<String>,
        names: &'s [(&'s str, &'s str)],
    ) -> Below<'s, Self> {
        Below::new(self, prefix.into(), names)
    }
}
