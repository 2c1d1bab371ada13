//! Cross-entropy loss of every token.

use crate::backend::{Spec, over_rows, run};
use crate::error::{Error, Result};
use burn::tensor::{DType, Tensor};
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
    /// The target class of every row of logits.
    targets: Arc<[u32]>,
}

impl CrossEntropy {
    fn problem(&self, inputs: &kernel::Operands<Vec<usize>>) -> kernel::Problem {
        kernel::Problem {
            rows: inputs.logits[0],
            classes: inputs.logits[1],
        }
    }

    fn results(&self, _: kernel::Operands<Spec>) -> kernel::Results<Spec> {
        kernel::Results {
            loss: Spec::new([self.targets.len()], DType::F32),
        }
    }
}

over_rows! {
    CrossEntropy, "cross_entropy", kernel;
    inputs<R>;
    output<V>;
    host: {
        forward(of, _, inputs, found): kernel::cross_entropy(inputs.logits, &of.targets, found.loss),
        backward(of, _, inputs, cotangents, found): {
            kernel::backward(inputs.logits, &of.targets, cotangents.loss, found.logits)
        },
    }
    device: {
        forward(of, client, _, inputs): {
            device::cross_entropy(client, &inputs.logits, &of.targets).map(|loss| kernel::Results { loss })
        },
        backward(of, client, _, inputs, cotangents): {
            let logits = device::backward(client, &inputs.logits, &of.targets, &cotangents.loss);
            logits.map(|logits| kernel::Operands { logits })
        },
    }
}
