//! The long convolution.

use spillway_kernel_dsl::cube::Error;
use spillway_kernel_dsl::long_convolution::{
    DeviceCotangents, DeviceInputs, Direction, Problem, cube::backward, cube::long_convolution,
};

use super::{CallForm, Maker};

/// Forward and backward, with a skip; in a stream also a tail, in both directions also a later kernel.
pub const FORMS: &[CallForm<Problem>] = &[
    CallForm {
        name: "forward",
        one_token: false,
        prepare: |make, problem| {
            let (client, inputs) = (make.client.clone(), inputs(make, &problem)?);
            Ok(Box::new(move || {
                long_convolution(&client, &problem, &inputs).map(drop)
            }))
        },
    },
    CallForm {
        name: "backward",
        one_token: false,
        prepare: |make, problem| {
            let (client, inputs) = (make.client.clone(), inputs(make, &problem)?);
            let cotangents = DeviceCotangents {
                out: Some(make.rows(problem.tokens(), problem.outputs())?),
                tail: match problem.direction {
                    Direction::Streamed => Some(make.constants(problem.tail_len())?),
                    Direction::Causal | Direction::Both(_) => None,
                },
            };
            Ok(Box::new(move || {
                backward(&client, &problem, &inputs, &cotangents).map(drop)
            }))
        },
    },
];

fn inputs(make: &Maker, problem: &Problem) -> Result<DeviceInputs, Error> {
    let constants = |wanted: bool, len| wanted.then(|| make.constants(len)).transpose();
    Ok(DeviceInputs {
        input: make.rows(problem.tokens(), problem.channels)?,
        kernel: make.constants(problem.kernel_len())?,
        later_kernel: constants(
            matches!(problem.direction, Direction::Both(_)),
            problem.kernel_len(),
        )?,
        skip: Some(make.constants(problem.outputs())?),
        response: None,
        tail: constants(problem.direction == Direction::Streamed, problem.tail_len())?,
    })
}
