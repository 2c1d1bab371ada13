//! Loss per token.

#[cfg(feature = "cube")]
use crate::backend::cube::{self, Place};
use crate::backend::flex::{self, RowTensor, contiguous, required, slice};
use crate::backend::{In, Operator, Out, Spec, run};
use crate::error::{Error, Result};
use burn::tensor::{DType, Tensor};
#[cfg(feature = "cube")]
use burn_cubecl::tensor::CubeTensor;
use burn_flex::FlexTensor;
use spillway_kernel_dsl::cross_entropy as kernel;
#[cfg(feature = "cube")]
use spillway_kernel_dsl::cross_entropy::cube as device;
use std::sync::Arc;

/// −log softmax(logits)\[target\] per row in nats, over the first `classes` columns (vocabularies are padded).
///
/// No softmax is stored; the gradient is computed from the logits again.
///
/// # Shapes
/// `logits` `[rows, columns]`, one target per row; result `[rows]` in f32.
///
/// # Errors
/// [`Error::Shape`] for another number of targets, [`Error::Value`] for a target or a number of classes that does not
/// exist, [`Error::Device`] and [`Error::DType`].
pub fn cross_entropy(logits: Tensor<2>, targets: Arc<[u32]>, classes: usize) -> Result<Tensor<1>> {
    let [rows, columns] = logits.dims();
    crate::gates::expect_shape("targets", &[rows], &[targets.len()])?;
    let out_of_range = |what, found: String| Error::Value {
        what,
        expected: "one of the columns",
        found,
    };
    if classes == 0 || classes > columns {
        return Err(out_of_range(
            "number of classes",
            format!("{classes} of {columns}"),
        ));
    }
    if let Some(target) = targets.iter().find(|&&target| target as usize >= classes) {
        return Err(out_of_range("target", format!("{target} of {classes}")));
    }
    if rows == 0 {
        return Ok(Tensor::zeros([0], (&logits.device(), DType::F32)));
    }
    let logits = match classes == columns {
        true => logits,
        false => logits.narrow(1, 0, classes),
    };
    let inputs = kernel::Operands {
        logits: logits.into(),
    };
    let found = run(CrossEntropy { targets }, inputs)?;
    Ok(Tensor::from_dispatch(found.loss))
}

#[derive(Debug)]
struct CrossEntropy {
    /// One per row.
    targets: Arc<[u32]>,
}

impl Operator for CrossEntropy {
    type Inputs = kernel::Operands<()>;
    type Outputs = kernel::Results<()>;

    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn outputs(&self, _inputs: In<Self, Spec>) -> Out<Self, Spec> {
        kernel::Results {
            loss: Spec::new([self.targets.len()], DType::F32),
        }
    }

    fn forward_flex(&self, inputs: In<Self, FlexTensor>) -> Out<Self, FlexTensor> {
        let logits = RowTensor::new(inputs.logits, 1);
        let mut loss = vec![0.0; logits.rows];
        flex::validated(kernel::cross_entropy(logits.view(), &self.targets, &mut loss));
        kernel::Results {
            loss: flex::tensor(loss, &[logits.rows]),
        }
    }

    fn backward_flex(
        &self,
        inputs: In<Self, FlexTensor>,
        cotangents: Out<Self, Option<FlexTensor>>,
    ) -> In<Self, FlexTensor> {
        let logits = RowTensor::new(inputs.logits, 1);
        let cotangent = contiguous(required(cotangents.loss));
        let mut gradient = logits.buffer();
        flex::validated(kernel::backward(
            logits.view(),
            &self.targets,
            slice(&cotangent),
            &mut gradient,
        ));
        kernel::Operands {
            logits: flex::tensor(gradient, &logits.dims),
        }
    }

    #[cfg(feature = "cube")]
    fn forward_cube(&self, inputs: In<Self, CubeTensor>) -> Out<Self, CubeTensor> {
        let place = Place::of(&inputs.logits);
        let loss = cube::launched(device::cross_entropy(
            &place.client,
            &cube::rows(inputs.logits, 1),
            &self.targets,
        ));
        kernel::Results {
            loss: place.tensor(loss, &Spec::new([self.targets.len()], DType::F32)),
        }
    }

    #[cfg(feature = "cube")]
    fn backward_cube(
        &self,
        inputs: In<Self, CubeTensor>,
        cotangents: Out<Self, Option<CubeTensor>>,
    ) -> In<Self, CubeTensor> {
        let (place, spec) = (Place::of(&inputs.logits), cube::spec(&inputs.logits));
        let gradient = cube::launched(device::backward(
            &place.client,
            &cube::rows(inputs.logits, 1),
            &self.targets,
            &cube::values(required(cotangents.loss)),
        ));
        kernel::Operands {
            logits: place.tensor(gradient, &spec),
        }
    }
}
