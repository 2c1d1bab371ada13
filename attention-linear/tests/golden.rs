//! Retention on tensors against what flash-linear-attention computed.

// One reader of golden sets serves every crate; it looks in the folder of the crate that compiles it.
#[path = "../../kernel-dsl/tests/support/mod.rs"]
mod support;

mod golden {
    use super::support::{Case, cases};
    use attention_linear::retention;
    use burn::tensor::{Device, Tensor, TensorData};
    use ssm_core::{Form, State, recurrence};

    fn tensor(values: &[f32], shape: [usize; 4]) -> Tensor<4> {
        Tensor::from_data(TensorData::new(values.to_vec(), shape), &Device::flex())
    }

    fn values(tensor: Tensor<4>) -> Vec<f32> {
        tensor.into_data().try_to_vec::<f32>().expect("f32 tensors")
    }

    fn run(case: &Case, form: Form) -> (Vec<f32>, Vec<f32>) {
        let [b, t, h, k, v] = ["B", "T", "H", "K", "V"].map(|name| case.dim(name));
        let gates = retention::gates(
            tensor(case.input("q"), [b, t, h, k]),
            tensor(case.input("k"), [b, t, h, k]),
            tensor(case.input("v"), [b, t, h, v]),
        )
        .expect("shapes that fit");
        let mut state = State::zeros(&gates.dims(), &Device::flex());
        if let Some(h0) = case.input_if_any("h0") {
            state.memory = tensor(h0, [b, h, k, v]);
        }
        let output = recurrence(gates, &mut state, form).expect("a valid recurrence");
        (values(output), values(state.memory))
    }

    #[test]
    fn retention_computes_what_flash_linear_attention_does() {
        for case in cases("retention") {
            for form in [Form::Auto, Form::Sequential, Form::Scan { chunk_size: 16 }] {
                let (output, state) = run(&case, form);
                case.check(&format!("{form:?}"), "o", &output);
                case.check(&format!("{form:?}"), "ht", &state);
            }
        }
    }
}
