//! Loss per token.

#[cfg(feature = "cube")]
use crate::backend::cube::{self, Place};
use crate::backend::flex::{self, RowTensor, contiguous, required, slice};
use crate::backend::{List, Operand, Operator, Spec, first, run};
use crate::error::{Error, Result};
use burn::tensor::{DType, Tensor};
#[cfg(feature = "cube")]
use burn_cubecl::tensor::CubeTensor;
use burn_flex::FlexTensor;
use kernel_dsl::cross_entropy as kernel;
#[cfg(feature = "cube")]
use kernel_dsl::cross_entropy::cube as device;
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
    let operands = vec![Operand::new("logits", logits)];
    let [loss] = run(CrossEntropy { targets }, operands, &mut [])?;
    Ok(Tensor::from_dispatch(loss))
}

#[derive(Debug)]
struct CrossEntropy {
    /// One per row.
    targets: Arc<[u32]>,
}

impl Operator for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn outputs(&self, _inputs: &[Option<Spec>]) -> Vec<Spec> {
        vec![Spec::new([self.targets.len()], DType::F32)]
    }

    fn forward_flex(&self, inputs: List<FlexTensor>) -> Vec<FlexTensor> {
        let [logits] = first(inputs).map(required);
        let logits = RowTensor::new(logits, 1);
        let mut loss = vec![0.0; logits.rows];
        flex::validated(kernel::cross_entropy(logits.view(), &self.targets, &mut loss));
        vec![flex::tensor(loss, &[logits.rows])]
    }

    fn backward_flex(&self, inputs: List<FlexTensor>, cotangents: List<FlexTensor>) -> List<FlexTensor> {
        let [logits] = first(inputs).map(required);
        let [cotangent] = first(cotangents).map(required);
        let (logits, cotangent) = (RowTensor::new(logits, 1), contiguous(cotangent));
        let mut gradient = logits.buffer();
        flex::validated(kernel::backward(
            logits.view(),
            &self.targets,
            slice(&cotangent),
            &mut gradient,
        ));
        vec![Some(flex::tensor(gradient, &logits.dims))]
    }

    #[cfg(feature = "cube")]
    fn forward_cube(&self, inputs: List<CubeTensor>) -> Vec<CubeTensor> {
        let [logits] = first(inputs).map(required);
        let place = Place::of(&logits);
        let loss = cube::launched(device::cross_entropy(
            &place.client,
            &cube::rows(logits, 1),
            &self.targets,
        ));
        vec![place.tensor(loss, &Spec::new([self.targets.len()], DType::F32))]
    }

    #[cfg(feature = "cube")]
    fn backward_cube(&self, inputs: List<CubeTensor>, cotangents: List<CubeTensor>) -> List<CubeTensor> {
        let [logits] = first(inputs).map(required);
        let [cotangent] = first(cotangents).map(required);
        let (place, spec) = (Place::of(&logits), cube::spec(&logits));
        let gradient = cube::launched(device::backward(
            &place.client,
            &cube::rows(logits, 1),
            &self.targets,
            &cube::values(cotangent),
        ));
        vec![Some(place.tensor(gradient, &spec))]
    }
}
