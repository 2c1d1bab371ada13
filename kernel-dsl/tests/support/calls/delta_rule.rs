//! The delta rule.

use spillway_kernel_dsl::DecayKind;
use spillway_kernel_dsl::Sequences;
use spillway_kernel_dsl::cube::{DType, Error};
use spillway_kernel_dsl::delta_rule::cube::{
    DeviceCotangents, DeviceInputs, DeviceTransition, backward, forward, step,
};
use spillway_kernel_dsl::delta_rule::{Problem, TransitionKind};

use super::{CallForm, Maker};

/// Every form. A step goes on from a state, the others begin without one.
pub const FORMS: &[CallForm<Problem>] = &[
    CallForm {
        name: "step",
        one_token: true,
        prepare: |make, problem| {
            let (client, inputs) = (make.client.clone(), inputs(make, &problem)?);
            let state = make.constants(problem.state_len())?;
            Ok(Box::new(move || {
                step(&client, &problem, &inputs, Some(&state)).map(drop)
            }))
        },
    },
    CallForm {
        name: "forward",
        one_token: false,
        prepare: |make, problem| {
            let (client, inputs) = (make.client.clone(), inputs(make, &problem)?);
            Ok(Box::new(move || {
                forward(&client, &problem, &inputs, None).map(drop)
            }))
        },
    },
    CallForm {
        name: "backward",
        one_token: false,
        prepare: |make, problem| {
            let (client, inputs) = (make.client.clone(), inputs(make, &problem)?);
            let cotangents = DeviceCotangents {
                out: make.rows(problem.batch * problem.time, problem.heads * problem.value_dim)?,
                state: None,
            };
            Ok(Box::new(move || {
                backward(&client, &problem, &inputs, None, &cotangents).map(drop)
            }))
        },
    },
];

fn inputs(make: &Maker, problem: &Problem) -> Result<DeviceInputs<'static>, Error> {
    let Problem {
        heads,
        groups,
        key_dim,
        value_dim,
        ..
    } = *problem;
    let rows = problem.batch * problem.time;
    let key = || make.rows(rows, groups * key_dim);
    let decays = heads * problem.decay.values_per_head(key_dim);
    Ok(DeviceInputs {
        query: key()?,
        key: key()?,
        value: make.rows(rows, heads * value_dim)?,
        transition: match problem.transition {
            TransitionKind::Delta => DeviceTransition::Delta {
                beta: make.rows_as(rows, heads, DType::F32)?,
            },
            TransitionKind::LowRank => DeviceTransition::LowRank { p: key()?, b: key()? },
        },
        log_decay: (problem.decay != DecayKind::None)
            .then(|| make.rows_as(rows, decays, DType::F32))
            .transpose()?
            .into(),
        scale: 1.0,
        sequences: Sequences::Equal,
    })
}
