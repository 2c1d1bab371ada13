//! The operators on tensors against what other people's software computed, with gradients, on every device.

#[path = "support/mod.rs"]
mod devices;
#[path = "../../kernel-dsl/tests/support/mod.rs"]
mod support;
#[path = "support/tape.rs"]
mod tape;

mod golden {
    use super::devices::devices;
    use super::support::{Case, cases};
    use super::tape::Tape;
    use burn::tensor::Tensor;
    use burn::tensor::activation::silu;
    use ssm_core::operators::step_size;
    use ssm_core::{Form, Gates, LogDecay, ReadOut, State, recurrence};

    fn on_every_device(op: &str, run: impl Fn(&Case, &mut Tape)) {
        for (name, device) in devices() {
            for case in cases(op) {
                let mut tape = Tape::new(&case, &name, &device);
                run(&case, &mut tape);
                tape.finish();
            }
        }
    }

    fn dims<const N: usize>(case: &Case, names: [&str; N]) -> [usize; N] {
        names.map(|name| case.dim(name))
    }

    /// The gradient of a bias is a sum over tokens, whose rounding is that of its terms: ‖Σ |term|‖ / ‖Σ term‖.
    fn bias_condition(case: &Case) -> f64 {
        let (mut sizes, mut sums) = (vec![0.0; case.dim("H")], vec![0.0; case.dim("H")]);
        for row in case.gradient("dt").chunks_exact(case.dim("H")) {
            for ((size, sum), &term) in sizes.iter_mut().zip(&mut sums).zip(row) {
                *size += f64::from(term).abs();
                *sum += f64::from(term);
            }
        }
        let norm = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>().sqrt();
        (norm(&sizes) / norm(&sums)).max(1.0)
    }

    #[test]
    fn mamba_2_computes_what_mamba_ssm_does() {
        on_every_device("mamba2_ssd", |case, tape| {
            let [b, t, h, p, n, g] = dims(case, ["B", "T", "H", "P", "N", "G"]);
            let raw = tape.input("dt", [b, t, h]);
            let a: Tensor<1> = tape.input("A", [h]);
            let (step, log_decay) = match case.scalar("dt_softplus") == 1.0 {
                true => {
                    let bias = tape
                        .input_if_any("dt_bias", [h])
                        .unwrap_or_else(|| Tensor::zeros([h], tape.device()));
                    tape.condition("dt_bias", bias_condition(case));
                    let (low, high) = case.scalar_pair("dt_limit");
                    step_size(raw, bias, a.neg().log(), (low as f32, high as f32)).expect("shapes that fit")
                }
                false => (raw.clone(), raw * a.reshape([1, 1, h])),
            };
            // One value per head, or one per channel of every head.
            let skip = case.input_if_any("D").map_or(0, <[f32]>::len);
            let gates = Gates {
                query: tape.input("C", [b, t, g, n]),
                key: tape.input("B", [b, t, g, n]),
                value: tape.input("x", [b, t, h, p]),
                log_decay: LogDecay::PerHeadToken(log_decay),
                step_size: Some(step),
                read_out: ReadOut::Inclusive,
                skip: tape.input_if_any("D", [skip]),
                scale: 1.0,
            };
            let mut state = State::zeros(&gates.dims(), tape.device());
            // mamba_ssm keeps states as P×N.
            if let Some(h0) = tape.input_if_any("h0", [b, h, p, n]) {
                state.memory = h0.swap_dims(2, 3);
            }
            let output = recurrence(gates, &mut state, Form::Auto).expect("shapes that fit");
            let output = match tape.input_if_any("z", [b, t, h, p]) {
                Some(z) => output * silu(z),
                None => output,
            };
            tape.output("out", output);
            tape.output("final_state", state.memory.swap_dims(2, 3));
        });
    }
}
