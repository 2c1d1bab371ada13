//! The operators on tensors against what other people's software computed, with gradients, on every device.

#[path = "support/mod.rs"]
mod devices;
#[path = "../../kernel-dsl/tests/support/mod.rs"]
mod support;
#[path = "support/tape.rs"]
mod tape;

mod golden {
    use super::devices::{devices, tensor};
    use super::support::{Case, cases};
    use super::tape::Tape;
    use burn::tensor::Tensor;
    use burn::tensor::activation::{sigmoid, silu};
    use spillway_ssm_core::mamba3::{LastToken, SisoInputs, siso};
    use spillway_ssm_core::operators::{Pairing, RotaryPlan, rotary, step_size};
    use spillway_ssm_core::{Chunking, Dims, Gates, LogDecay, State, recurrence};

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
                log_decay: LogDecay::PerHeadToken(log_decay),
                step_size: Some(step),
                skip: tape.input_if_any("D", [skip]),
                ..Gates::new(
                    tape.input("C", [b, t, g, n]),
                    tape.input("B", [b, t, g, n]),
                    tape.input("x", [b, t, h, p]),
                )
            };
            let mut state = State::zeros(&gates.dims(), tape.device());
            // mamba_ssm keeps states as P×N.
            if let Some(h0) = tape.input_if_any("h0", [b, h, p, n]) {
                state.memory = h0.swap_dims(2, 3);
            }
            let output = recurrence(gates, &mut state, Chunking::Fastest).expect("shapes that fit");
            let output = match tape.input_if_any("z", [b, t, h, p]) {
                Some(z) => output * silu(z),
                None => output,
            };
            tape.output("out", output);
            tape.output("final_state", state.memory.swap_dims(2, 3));
        });
    }

    /// A group's keys for each of its heads.
    fn of_heads(keys: Tensor<4>, heads: usize) -> Tensor<4> {
        let [b, t, g, n] = keys.dims();
        let repeated: Tensor<5> = keys.reshape([b, t, g, 1, n]).repeat_dim(3, heads / g);
        repeated.reshape([b, t, heads, n])
    }

    #[test]
    fn mamba_3_computes_what_mamba_ssm_does() {
        on_every_device("mamba3_siso", |case, tape| {
            let [b, t, h, g, n, p, s] = dims(case, ["B", "T", "H", "G", "N", "Pd", "S"]);
            let of_time = |x: Tensor<3>| x.swap_dims(1, 2);
            let (query, key) = (tape.input("Q", [b, t, g, n]), tape.input("K", [b, t, g, n]));
            let query_bias: Tensor<4> = tape.input("Q_bias", [h, n]).reshape([1, 1, h, n]);
            let key_bias: Tensor<4> = tape.input("K_bias", [h, n]).reshape([1, 1, h, n]);
            let step = of_time(tape.input("DT", [b, h, t]));
            let angles: Tensor<4> = tape.input("Angles", [b, t, h, s]);
            let turn = angles.tanh().mul_scalar(std::f32::consts::PI) * step.clone().unsqueeze_dim::<4>(3);
            let skip = match tape.input_if_any("D", [h]) {
                Some(skip) => skip,
                None => Tensor::zeros([h], tape.device()),
            };
            let inputs = SisoInputs {
                query: of_heads(query, h) + query_bias,
                key: of_heads(key, h) + key_bias,
                value: tape.input("V", [b, t, h, p]),
                log_decay: of_time(tape.input("ADT", [b, h, t])),
                share: sigmoid(of_time(tape.input("Trap", [b, h, t]))),
                step,
                turn,
                skip: skip.reshape([1, 1, h, 1]),
            };
            let mut state = State::zeros(
                &Dims {
                    batch: b,
                    time: t,
                    heads: h,
                    groups: h,
                    key_dim: n,
                    value_dim: p,
                },
                tape.device(),
            );
            // mamba_ssm keeps states as P×N, with the last token in them.
            if let Some(memory) = tape.input_if_any("ssm0", [b, h, p, n]) {
                state.memory = memory.swap_dims(2, 3);
            }
            let zeros = |width: usize| Tensor::<3>::zeros([b, h, width], tape.device());
            let (no_key, no_value, no_weight, no_angle) = (zeros(n), zeros(p), zeros(1), zeros(s));
            let angle = tape.input_if_any("angle0", [b, h, s]).unwrap_or(no_angle);
            let mut last = LastToken {
                key: tape.input_if_any("k0", [b, h, n]).unwrap_or(no_key),
                value: tape.input_if_any("v0", [b, h, p]).unwrap_or(no_value),
                weight: no_weight,
                cosine: angle.clone().cos(),
                sine: angle.sin(),
            };
            let read_out = siso(inputs, &mut last, |gates| {
                recurrence(gates, &mut state, Chunking::Fastest)
            });
            let read_out = read_out.expect("shapes that fit");
            let output = match tape.input_if_any("Z", [b, t, h, p]) {
                Some(z) => read_out * silu(z),
                None => read_out,
            };
            tape.output("out", output);
            let last_key: Tensor<4> = last.key.clone().unsqueeze_dim(3);
            let last_value = (last.value.clone() * last.weight).unsqueeze_dim::<4>(2);
            let memory = state.memory + last_key * last_value;
            tape.output("ssm_state", memory.swap_dims(2, 3));
            tape.output("k_state", last.key);
            tape.output("v_state", last.value);
            // An angle is known but for whole turns: what is compared is how far it is from the expected one.
            let expected: Tensor<3> = tensor(case.output("angle_state"), [b, h, s], tape.device());
            let off = last.sine * expected.clone().cos() - last.cosine * expected.clone().sin();
            tape.output("angle_state", off + expected);
        });
    }

    #[test]
    fn rotary_embedding_computes_what_flash_linear_attention_does() {
        on_every_device("rotary", |case, tape| {
            let [b, t, h, d] = dims(case, ["B", "T", "H", "D"]);
            let plan = RotaryPlan {
                base: case.scalar("base") as f32,
                rotated_dim: d,
                pairing: match case.scalar("interleaved") == 0.0 {
                    true => Pairing::Halves,
                    false => Pairing::Interleaved,
                },
                scaling: None,
            };
            let positions = vec![case.scalar("offset") as u64; b];
            let input = tape.input("x", [b, t, h, d]);
            tape.output("out", rotary(input, &positions, &plan).expect("shapes that fit"));
        });
    }
}

mod equivalence {
    use super::devices::{devices, tensor, values};
    use proptest::prelude::*;
    use spillway_kernel_dsl::Rows;
    use spillway_kernel_dsl::rotary::{Positions, Problem, reference};
    use spillway_ssm_core::operators::{Pairing, RotaryPlan, rotary};

    fn error(found: &[f32], expected: &[f64]) -> f64 {
        assert_eq!(found.len(), expected.len(), "numbers of values");
        let off: f64 = found
            .iter()
            .zip(expected)
            .map(|(&f, e)| (f64::from(f) - e).powi(2))
            .sum();
        let norm: f64 = expected.iter().map(|e| e * e).sum();
        match off.is_finite() {
            true => (off / norm.max(1e-12)).sqrt(),
            false => f64::INFINITY,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn every_sequence_is_turned_from_its_own_position(
            batch in 1..4usize, time in 0..6usize, heads in 1..4usize, pairs in 0..4usize, rest in 0..3usize,
            halves: bool, first in prop::collection::vec(0..100_000u64, 3), seed in 1..1000u32,
        ) {
            let head_dim = 2 * pairs + rest + 1;
            let pairing = if halves { Pairing::Halves } else { Pairing::Interleaved };
            let plan = RotaryPlan { base: 10_000.0, rotated_dim: 2 * pairs, pairing, scaling: None };
            let len = batch * time * heads * head_dim;
            let input: Vec<f32> = (0..len).map(|i| (i as f32 * 0.7 + seed as f32).sin()).collect();
            let problem = Problem { batch, time, heads, head_dim, rotary_dim: 2 * pairs, pairing, base: 1e4 };
            let starts: Vec<usize> = first[..batch].iter().map(|&p| p as usize).collect();
            let positions = Positions { first: Some(&starts), ..Positions::default() };
            let rows = Rows::contiguous(&input, batch * time, heads * head_dim).expect("whole rows");
            let expected = reference::rotary(&problem, &positions, rows).expect("valid");
            for (name, device) in devices() {
                let input = tensor(&input, [batch, time, heads, head_dim], &device);
                let found = rotary(input, &first[..batch], &plan).expect("shapes that fit");
                let off = error(&values(found), &expected);
                prop_assert!(off < 1e-6, "{name}: off by {off:.1e}");
            }
        }
    }

    #[test]
    fn what_cannot_be_turned_is_refused() {
        let device = burn::tensor::Device::flex();
        let plan = |rotated_dim, base| RotaryPlan {
            base,
            rotated_dim,
            pairing: Pairing::Halves,
            scaling: None,
        };
        let turned = |positions: &[u64], plan: RotaryPlan| {
            let input = tensor(&[0.0; 8], [2, 1, 1, 4], &device);
            rotary(input, positions, &plan)
                .map(|_| ())
                .expect_err("wrong")
                .to_string()
        };
        assert!(turned(&[0], plan(4, 1e4)).contains("positions"));
        assert!(turned(&[0, 0], plan(3, 1e4)).contains("even"));
        assert!(turned(&[0, 0], plan(6, 1e4)).contains("6 of 4"));
        assert!(turned(&[0, 0], plan(4, f32::NAN)).contains("NaN"));
    }
}
