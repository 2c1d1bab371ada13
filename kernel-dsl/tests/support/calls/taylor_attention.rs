//! Taylor attention.

use spillway_kernel_dsl::Sequences;
use spillway_kernel_dsl::cube::Error;
use spillway_kernel_dsl::taylor_attention::Problem;
use spillway_kernel_dsl::taylor_attention::cube::{DeviceCotangents, DeviceInputs, backward, chunked, step};

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
        name: "chunked",
        one_token: false,
        prepare: |make, problem| {
            let (client, inputs) = (make.client.clone(), inputs(make, &problem)?);
            Ok(Box::new(move || {
                chunked(&client, &problem, &inputs, None).map(drop)
            }))
        },
    },
    CallForm {
        name: "backward",
        one_token: false,
        prepare: |make, problem| {
            let (client, inputs) = (make.client.clone(), inputs(make, &problem)?);
            let rows = problem.batch * problem.time;
            let cotangents = DeviceCotangents {
                out: make.rows(rows, problem.heads * problem.value_dim)?,
                state: None,
            };
            Ok(Box::new(move || {
                backward(&client, &problem, &inputs, None, &cotangents).map(drop)
            }))
        },
    },
];

fn inputs(make: &Maker, problem: &Problem) -> Result<DeviceInputs<'static>, Error> {
    let (keys, values) = (problem.heads * problem.key_dim, problem.heads * problem.value_dim);
    let rows = problem.batch * problem.time;
    let of_prefix = |cols| match problem.batch * problem.prefix {
        0 => Ok(None),
        rows => make.rows(rows, cols).map(Some),
    };
    Ok(DeviceInputs {
        query: make.rows(rows, keys)?,
        key: make.rows(rows, keys)?,
        value: make.rows(rows, values)?,
        prefix_key: of_prefix(keys)?,
        prefix_value: of_prefix(values)?,
        log_decay: None,
        sequences: Sequences::Equal,
        prefix_padding: None,
    })
}
