//! Loss per token.

use crate::backend::flex::{self, RowTensor};
use crate::backend::host::{from_host, host, is_host};
use crate::error::{Error, Result};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use kernel_dsl::{Rows, cross_entropy as kernel};
use std::sync::Arc;

/// −log softmax(logits)\[target\] per row in nats, over the first `classes` columns (vocabularies are padded).
///
/// On the CPU without autodiff no softmax is stored; elsewhere it is composed of Burn's operations and differentiable.
///
/// # Shapes
/// `logits` `[rows, columns]`, one target per row; result `[rows]`.
///
/// # Errors
/// [`Error::Shape`] for another number of targets, [`Error::Value`] for a target or a number of classes that does not
/// exist.
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
    match is_host([&logits.device()]) {
        true => Ok(on_host(logits, &targets, classes)),
        false => Ok(composed(logits, &targets, classes)),
    }
}

fn on_host(logits: Tensor<2>, targets: &[u32], classes: usize) -> Tensor<1> {
    let logits = RowTensor::new(host(logits), 1);
    let mut loss = vec![0.0; logits.rows];
    let columns = flex::validated(Rows::new(
        logits.view().data(),
        logits.rows,
        classes,
        logits.stride,
    ));
    flex::validated(kernel::cross_entropy(columns, targets, &mut loss));
    let rows = loss.len();
    from_host(flex::tensor(loss, &[rows]))
}

fn composed(logits: Tensor<2>, targets: &[u32], classes: usize) -> Tensor<1> {
    let [rows, _] = logits.dims();
    let device = logits.device();
    if rows == 0 {
        return Tensor::zeros([0], &device);
    }
    let targets: Vec<i64> = targets.iter().map(|&target| i64::from(target)).collect();
    let targets = Tensor::<2, Int>::from_data(TensorData::new(targets, [rows, 1]), &device);
    let log_probabilities = log_softmax(logits.narrow(1, 0, classes), 1);
    log_probabilities.gather(1, targets).neg().reshape([rows])
}
