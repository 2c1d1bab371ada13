//! The recurrence on every device equals the reference.

#[path = "support/device.rs"]
mod device;
mod support;

mod equivalence {
    #[path = "../equivalence/data.rs"]
    #[allow(dead_code)]
    mod data;

    use data::{Data, any_spec};
    use kernel_dsl::cube::{Client, DType, DeviceBuffer, Limits};
    use kernel_dsl::recurrence::cube::{DeviceInputs, DeviceLogDecay, Outputs, Plan, chunked, sequential};
    use kernel_dsl::recurrence::{LogDecay, reference};
    use proptest::prelude::*;

    use super::device::{clients, download, upload, upload_rows};
    use super::support::relative_error;

    /// Allowed relative error in f32, times √(tokens + 1).
    const TOLERANCE: f64 = 1e-6;

    fn config(cases: u32) -> ProptestConfig {
        ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(cases)
        }
    }

    fn device_inputs<'a>(client: &Client, data: &'a Data, dtype: DType) -> DeviceInputs<'a> {
        let inputs = data.inputs();
        let rows = |rows| upload_rows(client, rows, dtype);
        let gates = |rows| upload_rows(client, rows, DType::F32);
        DeviceInputs {
            query: rows(&inputs.query),
            key: rows(&inputs.key),
            value: rows(&inputs.value),
            log_decay: match &inputs.log_decay {
                LogDecay::None => DeviceLogDecay::None,
                LogDecay::Constant(values) => DeviceLogDecay::Constant(upload(client, values)),
                LogDecay::Token(rows) => DeviceLogDecay::Token(gates(rows)),
            },
            step_size: inputs.step_size.as_ref().map(gates),
            bonus: inputs.bonus.map(|bonus| upload(client, bonus)),
            skip: inputs.skip.map(|skip| upload(client, skip)),
            scale: inputs.scale,
            sequences: inputs.sequences,
        }
    }

    fn by_reference(data: &Data) -> (Vec<f64>, Vec<f64>) {
        let mut state: Vec<f64> = data.state.iter().map(|x| f64::from(*x)).collect();
        let mut out = vec![f64::NAN; data.out_len()];
        reference::recurrence(&data.problem, &data.inputs(), &mut state, &mut out).expect("valid");
        (out, state)
    }

    fn check(name: &str, time: usize, found: &[f32], expected: &[f64]) -> Result<(), TestCaseError> {
        let error = relative_error(found, expected);
        let allowed = TOLERANCE * (time as f64 + 1.0).sqrt();
        // Written so that NaN fails.
        let close = error <= allowed;
        prop_assert!(close, "{name} is off by {error:.2e}, allowed {allowed:.2e}");
        Ok(())
    }

    /// The form of a test, from a state.
    type Form = fn(&Client, &Data, &DeviceInputs, &DeviceBuffer) -> Outputs;

    fn by_tokens(client: &Client, data: &Data, inputs: &DeviceInputs, state: &DeviceBuffer) -> Outputs {
        sequential(client, &data.problem, inputs, Some(state)).expect("valid")
    }

    fn by_chunks<const SIZE: usize>(
        client: &Client,
        data: &Data,
        inputs: &DeviceInputs,
        state: &DeviceBuffer,
    ) -> Outputs {
        let plan = Plan::exact(&Limits::of(client), SIZE).expect("it fits");
        chunked(client, &data.problem, inputs, &plan, Some(state)).expect("valid")
    }

    fn equals_the_reference(name: &str, form: Form, data: &Data) -> Result<(), TestCaseError> {
        let (out, state) = by_reference(data);
        for (device, client) in clients() {
            let inputs = device_inputs(client, data, DType::F32);
            let start = upload(client, &data.state);
            let found = form(client, data, &inputs, &start);
            let time = data.problem.time;
            check(
                &format!("output of {name} on {device}"),
                time,
                &download(client, &found.out),
                &out,
            )?;
            check(
                &format!("state of {name} on {device}"),
                time,
                &download(client, &found.state),
                &state,
            )?;
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(config(40))]

        #[test]
        fn token_by_token_equals_the_reference(spec in any_spec(40)) {
            equals_the_reference("tokens", by_tokens, &Data::new(&spec))?;
        }

        #[test]
        fn chunks_equal_the_reference(spec in any_spec(100)) {
            let data = Data::new(&spec);
            equals_the_reference("chunks of 16", by_chunks::<16>, &data)?;
            equals_the_reference("chunks of 32", by_chunks::<32>, &data)?;
        }
    }
}
