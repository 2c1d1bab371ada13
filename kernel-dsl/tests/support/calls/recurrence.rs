//! The recurrence.

use spillway_kernel_dsl::Sequences;
use spillway_kernel_dsl::cube::{DType, Error};
use spillway_kernel_dsl::recurrence::cube::{
    DeviceCotangents, DeviceInputs, Plan, backward, chunked, sequential, step,
};
use spillway_kernel_dsl::recurrence::{Problem, ReadOut};
use spillway_kernel_dsl::{DecayKind, LogDecay};

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
        name: "sequential",
        one_token: false,
        prepare: |make, problem| {
            let (client, inputs) = (make.client.clone(), inputs(make, &problem)?);
            Ok(Box::new(move || {
                sequential(&client, &problem, &inputs, None).map(drop)
            }))
        },
    },
    CallForm {
        name: "chunked",
        one_token: false,
        prepare: |make, problem| {
            let (client, inputs) = (make.client.clone(), inputs(make, &problem)?);
            let plan = Plan::new(client.properties(), &problem, make.dtype)?;
            Ok(Box::new(move || {
                chunked(&client, &problem, &inputs, &plan, None).map(drop)
            }))
        },
    },
    CallForm {
        name: "backward",
        one_token: false,
        prepare: |make, problem| {
            let (client, inputs) = (make.client.clone(), inputs(make, &problem)?);
            let plan = Plan::new(client.properties(), &problem, make.dtype)?;
            let rows = problem.batch * problem.time;
            let cotangents = DeviceCotangents {
                out: make.rows(rows, problem.heads * problem.value_dim)?,
                state: None,
            };
            Ok(Box::new(move || {
                backward(&client, &problem, &inputs, &plan, None, &cotangents).map(drop)
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
    let decays = heads * problem.decay.values_per_head(key_dim);
    let bonus = problem.read_out == ReadOut::Bonus;
    Ok(DeviceInputs {
        query: make.rows(rows, groups * key_dim)?,
        key: make.rows(rows, groups * key_dim)?,
        value: make.rows(rows, heads * value_dim)?,
        log_decay: match problem.decay {
            DecayKind::None => LogDecay::None,
            DecayKind::PerHead | DecayKind::PerKey => LogDecay::Constant(make.constants(decays)?),
            DecayKind::PerHeadToken | DecayKind::PerKeyToken => {
                LogDecay::Token(make.rows_as(rows, decays, DType::F32)?)
            }
        },
        step_size: None,
        bonus: bonus.then(|| make.constants(heads * key_dim)).transpose()?,
        skip: None,
        scale: 1.0,
        sequences: Sequences::Equal,
    })
}
