//! What a model has at its ends: step sizes before the recurrence, the loss after the head.

use spillway_kernel_dsl::cross_entropy::cube as entropy;
use spillway_kernel_dsl::cube::DType;
use spillway_kernel_dsl::step_size;

use super::CallForm;

/// Step sizes and log decays from raw values of `[tokens, heads]`.
pub const STEP_SIZE: &[CallForm<[usize; 2]>] = &[
    CallForm {
        name: "forward",
        one_token: false,
        prepare: |make, [tokens, heads]| {
            let (client, problem) = (make.client.clone(), problem([tokens, heads]));
            let inputs = raw(make, [tokens, heads])?;
            Ok(Box::new(move || {
                step_size::cube::step_size(&client, &problem, &inputs).map(drop)
            }))
        },
    },
    CallForm {
        name: "backward",
        one_token: false,
        prepare: |make, [tokens, heads]| {
            let (client, problem) = (make.client.clone(), problem([tokens, heads]));
            let inputs = raw(make, [tokens, heads])?;
            let cotangents = step_size::DeviceCotangents {
                step: Some(make.rows_as(tokens, heads, DType::F32)?),
                log_decay: Some(make.rows_as(tokens, heads, DType::F32)?),
            };
            Ok(Box::new(move || {
                step_size::cube::backward(&client, &problem, &inputs, &cotangents).map(drop)
            }))
        },
    },
];

fn problem([tokens, heads]: [usize; 2]) -> step_size::Problem {
    step_size::Problem {
        tokens,
        heads,
        limit: (0.0, f32::INFINITY),
    }
}

fn raw(
    make: &super::Maker,
    [tokens, heads]: [usize; 2],
) -> Result<step_size::DeviceInputs, spillway_kernel_dsl::cube::Error> {
    Ok(step_size::DeviceInputs {
        raw: make.rows(tokens, heads)?,
        bias: make.constants(heads)?,
        a_log: make.constants(heads)?,
    })
}

/// The loss of logits of `[tokens, classes]`; every token's target is the first class.
pub const CROSS_ENTROPY: &[CallForm<[usize; 2]>] = &[
    CallForm {
        name: "forward",
        one_token: false,
        prepare: |make, [tokens, classes]| {
            let (client, logits) = (make.client.clone(), make.rows(tokens, classes)?);
            let targets = vec![0; tokens];
            Ok(Box::new(move || {
                entropy::cross_entropy(&client, &logits, &targets).map(drop)
            }))
        },
    },
    CallForm {
        name: "backward",
        one_token: false,
        prepare: |make, [tokens, classes]| {
            let (client, logits) = (make.client.clone(), make.rows(tokens, classes)?);
            let (targets, cotangent) = (vec![0; tokens], make.constants(tokens)?);
            Ok(Box::new(move || {
                entropy::backward(&client, &logits, &targets, &cotangent).map(drop)
            }))
        },
    },
];
