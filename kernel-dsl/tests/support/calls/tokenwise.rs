//! What a block does around its recurrence: convolution and norms.

use spillway_kernel_dsl::Sequences;
use spillway_kernel_dsl::causal_conv1d::{self, cube as conv};
use spillway_kernel_dsl::cube::Error;
use spillway_kernel_dsl::gated_norm::{self, cube as norm};

use super::{CallForm, Maker};

/// The convolution, from a state; of one token, and of many.
pub const CONVOLUTION: &[CallForm<causal_conv1d::Problem>] = &[
    CallForm {
        name: "step",
        one_token: true,
        prepare: |make, problem| convolve(make, problem),
    },
    CallForm {
        name: "forward",
        one_token: false,
        prepare: |make, problem| convolve(make, problem),
    },
    CallForm {
        name: "backward",
        one_token: false,
        prepare: |make, problem| {
            let (client, inputs) = (make.client.clone(), convolution_inputs(make, &problem)?);
            let cotangents = conv::DeviceCotangents {
                out: make.rows(problem.batch * problem.time, problem.channels)?,
                state: None,
            };
            Ok(Box::new(move || {
                conv::backward(&client, &problem, &inputs, None, &cotangents).map(drop)
            }))
        },
    },
];

fn convolve(make: &Maker, problem: causal_conv1d::Problem) -> Result<super::Launch, Error> {
    let (client, inputs) = (make.client.clone(), convolution_inputs(make, &problem)?);
    let state = make.constants(problem.state_len())?;
    Ok(Box::new(move || {
        conv::causal_conv1d(&client, &problem, &inputs, Some(&state)).map(drop)
    }))
}

fn convolution_inputs(
    make: &Maker,
    problem: &causal_conv1d::Problem,
) -> Result<conv::DeviceInputs<'static>, Error> {
    Ok(conv::DeviceInputs {
        input: make.rows(problem.batch * problem.time, problem.channels)?,
        weight: make.constants(problem.channels * problem.width)?,
        bias: Some(make.constants(problem.channels)?),
        sequences: Sequences::Equal,
    })
}

/// The gated norm with a weight, and the joint between two blocks.
pub const NORM: &[CallForm<gated_norm::Problem>] = &[
    CallForm {
        name: "gated",
        one_token: false,
        prepare: |make, problem| {
            let (client, inputs) = (make.client.clone(), norm_inputs(make, &problem)?);
            Ok(Box::new(move || {
                norm::gated_norm(&client, &problem, &inputs).map(drop)
            }))
        },
    },
    CallForm {
        name: "gated_backward",
        one_token: false,
        prepare: |make, problem| {
            let (client, inputs) = (make.client.clone(), norm_inputs(make, &problem)?);
            let cotangent = make.rows(problem.rows, problem.features)?;
            Ok(Box::new(move || {
                norm::backward(&client, &problem, &inputs, &cotangent).map(drop)
            }))
        },
    },
    CallForm {
        name: "add",
        one_token: false,
        prepare: |make, problem| {
            let rows = || make.rows(problem.rows, problem.features);
            let (client, residual, x) = (make.client.clone(), rows()?, rows()?);
            let weight = make.constants(problem.features)?;
            Ok(Box::new(move || {
                norm::add_rms_norm(&client, &residual, &x, &weight, problem.eps).map(drop)
            }))
        },
    },
    CallForm {
        name: "add_backward",
        one_token: false,
        prepare: |make, problem| {
            let rows = || make.rows(problem.rows, problem.features);
            let (client, sum, out, residual) = (make.client.clone(), rows()?, rows()?, rows()?);
            let weight = make.constants(problem.features)?;
            Ok(Box::new(move || {
                norm::add_rms_norm_backward(&client, &sum, &weight, problem.eps, &out, Some(&residual))
                    .map(drop)
            }))
        },
    },
];

fn norm_inputs(make: &Maker, problem: &gated_norm::Problem) -> Result<norm::DeviceInputs, Error> {
    Ok(norm::DeviceInputs {
        input: make.rows(problem.rows, problem.features)?,
        gate: Some(make.rows(problem.rows, problem.features)?),
        weight: Some(make.constants(problem.features)?),
        bias: None,
    })
}
