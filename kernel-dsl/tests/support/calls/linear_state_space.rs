//! Linear state spaces.

use spillway_kernel_dsl::cube::{DeviceBuffer, Error};
use spillway_kernel_dsl::linear_state_space::cube::{backward, forward};
use spillway_kernel_dsl::linear_state_space::{DeviceCotangents, DeviceInputs, Problem, Rule, Spectrum};

use super::{CallForm, Maker};

/// Every form, with one step size per channel and with one per token.
pub const FORMS: &[CallForm<Problem<'static>>] = &[
    CallForm {
        name: "forward",
        one_token: false,
        prepare: |make, problem| {
            let (client, inputs) = (make.client.clone(), inputs(make, &problem, false)?);
            Ok(Box::new(move || forward(&client, &problem, &inputs).map(drop)))
        },
    },
    CallForm {
        name: "forward_token_steps",
        one_token: false,
        prepare: |make, problem| {
            let (client, inputs) = (make.client.clone(), inputs(make, &problem, true)?);
            Ok(Box::new(move || forward(&client, &problem, &inputs).map(drop)))
        },
    },
    CallForm {
        name: "backward",
        one_token: false,
        prepare: |make, problem| {
            let (client, inputs) = (make.client.clone(), inputs(make, &problem, false)?);
            let cotangents = cotangents(make, &problem)?;
            Ok(Box::new(move || {
                backward(&client, &problem, &inputs, &cotangents).map(drop)
            }))
        },
    },
    CallForm {
        name: "backward_token_steps",
        one_token: false,
        prepare: |make, problem| {
            let (client, inputs) = (make.client.clone(), inputs(make, &problem, true)?);
            let cotangents = cotangents(make, &problem)?;
            Ok(Box::new(move || {
                backward(&client, &problem, &inputs, &cotangents).map(drop)
            }))
        },
    },
];

/// A layer of S4D with so many modes.
#[allow(dead_code, reason = "benches have shapes of their own")]
pub fn s4d(time: usize, state_dim: usize) -> Problem<'static> {
    Problem {
        batch: 2,
        time,
        sequences: spillway_kernel_dsl::Sequences::Equal,
        channels: 256,
        outputs: 1,
        state_dim,
        copies: 256,
        rank: 0,
        rule: Rule::ZeroOrderHold,
        spectrum: Spectrum::ConjugatePairs,
    }
}

fn inputs(make: &Maker, problem: &Problem, token_steps: bool) -> Result<DeviceInputs, Error> {
    let (rows, channels) = (problem.rows(), problem.channels);
    let modes =
        |count: usize| -> Result<DeviceBuffer, Error> { make.constants(2 * count * problem.state_dim) };
    Ok(DeviceInputs {
        input: make.rows(rows, channels)?,
        token_step_size: if token_steps {
            Some(make.rows(rows, channels)?)
        } else {
            None
        },
        step_size: if token_steps {
            None
        } else {
            Some(make.constants(channels)?)
        },
        a: modes(problem.copies)?,
        b: modes(problem.copies)?,
        c: modes(problem.outputs * channels)?,
        low_rank: None,
        skip: Some(make.constants(problem.outputs * channels)?),
        state: Some(make.constants(problem.state_len())?),
    })
}

fn cotangents(make: &Maker, problem: &Problem) -> Result<DeviceCotangents, Error> {
    Ok(DeviceCotangents {
        out: Some(make.rows(problem.rows(), problem.outputs * problem.channels)?),
        state: Some(make.constants(problem.state_len())?),
    })
}
