//! The mixers of this line on tensors against what other people's software computed, with gradients, on every device.

// One reader of golden sets and one list of devices serve every crate; sets are looked for in the folder of the crate that
// compiles this.
#[path = "../../ssm-core/tests/support/mod.rs"]
mod devices;
#[path = "../../kernel-dsl/tests/support/mod.rs"]
mod support;
#[path = "../../ssm-core/tests/support/tape.rs"]
mod tape;
#[path = "mixers/taylor.rs"]
mod taylor;

// Its layers need more than an operator's inputs.
#[path = "mixers/block_state.rs"]
mod block_state;

mod golden {
    use super::devices::devices;
    use super::support::{Case, cases};
    use super::tape::Tape;
    use burn::tensor::Tensor;
    use spillway_attention_linear::linear_attn::{self, NormalizedState};
    use spillway_attention_linear::slots::{self, AbcState, SlotGates, SlotShape, SlotState};
    use spillway_attention_linear::{based, hgrn, lightning_attn, prefix_linear_attn, rebased, retention};
    use spillway_ssm_core::{Chunking, Dims, Gates, State, recurrence};

    /// Runs every case of an operator on every device, in the forms that are different code there.
    fn on_every_device(op: &str, run: impl Fn(&Case, &mut Tape, Chunking)) {
        for (name, device) in devices() {
            let ways: &[Chunking] = match name.as_str() {
                "flex" => &[
                    Chunking::Fastest,
                    Chunking::Sequential,
                    Chunking::Scan { chunk_size: 16 },
                ],
                _ => &[Chunking::Fastest],
            };
            for case in cases(op) {
                for &chunking in ways {
                    let mut tape = Tape::new(&case, &format!("{chunking:?} on {name}"), &device);
                    run(&case, &mut tape, chunking);
                    tape.finish();
                }
            }
        }
    }

    /// The recurrence from `h0` if the case has one, else from nothing.
    fn run_gates(case: &Case, tape: &mut Tape, gates: Gates, chunking: Chunking) -> (Tensor<4>, Tensor<4>) {
        let dims = gates.dims();
        let mut state = State::zeros(&dims, tape.device());
        if case.input_if_any("h0").is_some() {
            state.memory = tape.input("h0", state.memory.dims());
        }
        let output = recurrence(gates, &mut state, chunking).expect("shapes that fit");
        (output, state.memory)
    }

    fn dims<const N: usize>(case: &Case, names: [&str; N]) -> [usize; N] {
        names.map(|name| case.dim(name))
    }

    fn query_key_value(case: &Case, tape: &mut Tape) -> [Tensor<4>; 3] {
        let [b, t, h, k, v] = dims(case, ["B", "T", "H", "K", "V"]);
        [
            tape.input("q", [b, t, h, k]),
            tape.input("k", [b, t, h, k]),
            tape.input("v", [b, t, h, v]),
        ]
    }

    #[test]
    fn retention_computes_what_flash_linear_attention_does() {
        on_every_device("retention", |case, tape, chunking| {
            let [q, k, v] = query_key_value(case, tape);
            let gates = retention::gates(q, k, v).expect("shapes that fit");
            let (output, state) = run_gates(case, tape, gates, chunking);
            tape.output("o", output);
            tape.output("ht", state);
        });
    }

    #[test]
    fn lightning_attention_computes_what_flash_linear_attention_does() {
        on_every_device("lightning_attn", |case, tape, chunking| {
            let [q, k, v] = query_key_value(case, tape);
            let (layer, layers) = (
                case.scalar("layer_idx") as usize,
                case.scalar("num_layers") as usize,
            );
            tape.output(
                "slope",
                lightning_attn::log_decay(case.dim("H"), layer, layers, tape.device()),
            );
            let gates = lightning_attn::gates(q, k, v, layer, layers).expect("shapes that fit");
            let (output, state) = run_gates(case, tape, gates, chunking);
            tape.output("o", output);
            tape.output("ht", state);
        });
    }

    #[test]
    fn linear_attention_computes_what_flash_linear_attention_does() {
        on_every_device("linear_attn", |case, tape, chunking| {
            let [q, k, v] = query_key_value(case, tape);
            let gates = linear_attn::gates(q, k, v, case.scalar("scale") as f32);
            if case.scalar("normalize") == 0.0 {
                let (output, state) = run_gates(case, tape, gates, chunking);
                tape.output("o", output);
                tape.output("ht", state);
                return;
            }
            let [b, h, k, v] = dims(case, ["B", "H", "K", "V"]);
            let mut state = NormalizedState::zeros(&gates.dims(), tape.device());
            if case.input_if_any("h0").is_some() {
                let (h0, z0) = (tape.input("h0", [b, h, k, v]), tape.input("z0", [b, h, k]));
                state = NormalizedState::new(h0, z0, 0).expect("shapes that fit");
            }
            let output =
                linear_attn::normalized(gates, 1e-10, &mut state, chunking).expect("shapes that fit");
            tape.output("o", output);
            tape.output("ht", state.memory());
            tape.output("zt", state.normalizer());
        });
    }

    #[test]
    fn based_computes_what_flash_linear_attention_does() {
        on_every_device("based", |case, tape, chunking| {
            let [q, k, v] = query_key_value(case, tape);
            let gates = based::gates(q, k, v);
            let mut state = NormalizedState::zeros(&gates.dims(), tape.device());
            if case.has_output("phi_q") {
                tape.output("phi_q", gates.query.clone());
            }
            let output = match case.scalar("use_norm") == 1.0 {
                true => {
                    linear_attn::normalized(gates, based::EPS, &mut state, chunking).expect("shapes that fit")
                }
                false => {
                    // The states are those of the normalised form either way.
                    linear_attn::normalized(gates.clone(), based::EPS, &mut state, chunking)
                        .expect("shapes that fit");
                    run_gates(case, tape, gates, chunking).0
                }
            };
            tape.output("o", output);
            // HazyResearch keeps the state as V×D.
            tape.output("kv_T", state.memory().swap_dims(2, 3));
            tape.output("k_T", state.normalizer());
        });
    }

    /// How much the sum over K² features magnifies rounding where (q·k)² is small beside |q|² |k|², which the file's software
    /// squares directly: the root mean square over all tokens of Σ |q|² |k|² / Σ (q·k)².
    fn square_condition(case: &Case) -> f64 {
        let [b, t, h, k] = dims(case, ["B", "T", "H", "K"]);
        let (queries, keys) = (case.input("q"), case.input("k"));
        let row = |of: &'_ [f32], b, t, h| -> Vec<f64> {
            let start = ((b * case.dim("T") + t) * case.dim("H") + h) * k;
            of[start..start + k].iter().map(|&x| f64::from(x)).collect()
        };
        let inner = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
        let mut squares = 0.0;
        for (b, t, h) in (0..b).flat_map(|b| (0..t).flat_map(move |t| (0..h).map(move |h| (b, t, h)))) {
            let query = row(queries, b, t, h);
            let (mut sizes, mut weights) = (0.0, 0.0);
            for key in (0..=t).map(|t| row(keys, b, t, h)) {
                sizes += inner(&query, &query) * inner(&key, &key);
                weights += inner(&query, &key).powi(2);
            }
            squares += (sizes / weights).powi(2);
        }
        f64::sqrt(squares / (b * t * h) as f64).max(1.0)
    }

    #[test]
    fn rebased_computes_what_flash_linear_attention_does() {
        on_every_device("rebased", |case, tape, chunking| {
            let [q, k, v] = query_key_value(case, tape);
            let condition = square_condition(case);
            for name in ["o", "q", "k", "v"] {
                tape.condition(name, condition);
            }
            let gates = rebased::gates(q, k, v);
            let mut state = NormalizedState::zeros(&gates.dims(), tape.device());
            let output =
                linear_attn::normalized(gates, rebased::EPS, &mut state, chunking).expect("shapes that fit");
            tape.output("o", output);
        });
    }

    #[test]
    fn prefix_linear_attention_computes_what_hazyresearch_does() {
        on_every_device("jrt_prefix_linear_attn", |case, tape, chunking| {
            let [b, t, e, h, f, v] = dims(case, ["B", "T", "E", "H", "F", "V"]);
            let (q, mut k) = (tape.input("q", [b, t, h, f]), tape.input("k", [b, t, h, f]));
            let value = tape.input("v", [b, t, h, v]);
            let mut k_enc = tape.input("k_enc", [b, e, h, f]);
            let v_enc = tape.input("v_enc", [b, e, h, v]);
            if let Some(mask) = case.input_if_any("mask") {
                // The peer zeroes masked keys before the feature map, in both branches.
                let mask = crate::devices::tensor(mask, [b, t, 1, 1], tape.device());
                k = k * mask.clone();
                k_enc = k_enc * mask.narrow(1, 0, e);
            }
            let dims = Dims {
                batch: b,
                time: t,
                heads: h,
                groups: h,
                key_dim: 1 + f + f * f,
                value_dim: v,
            };
            let mut state = NormalizedState::zeros(&dims, tape.device());
            prefix_linear_attn::read_prefix(k_enc, v_enc, &mut state, chunking).expect("shapes that fit");
            let eps = case.scalar("eps") as f32;
            let output =
                prefix_linear_attn::attend(q, k, value, eps, &mut state, chunking).expect("shapes that fit");
            tape.output("o", output);
            tape.output("kv_state", state.memory().swap_dims(2, 3));
            tape.output("k_state", state.normalizer());
        });
    }

    #[test]
    fn hgrn_computes_what_flash_linear_attention_does() {
        on_every_device("hgrn", |case, tape, chunking| {
            let [b, t, d] = dims(case, ["B", "T", "D"]);
            let (x, g) = (tape.input("x", [b, t, d]), tape.input("g", [b, t, d]));
            let gates = hgrn::gates(x, g).expect("shapes that fit");
            let (output, state) = run_gates(case, tape, gates, chunking);
            tape.output("o", output);
            tape.output("ht", state);
        });
    }

    fn slot_state(case: &Case, tape: &mut Tape) -> SlotState {
        let [b, h, k, v, m] = dims(case, ["B", "H", "K", "V", "M"]);
        let shape = SlotShape {
            batch: b,
            heads: h,
            key_dim: k,
            slots: m,
            value_dim: v,
        };
        let mut state = SlotState::zeros(shape, tape.device());
        if case.input_if_any("hk0").is_some() {
            state.keys = tape.input("hk0", [b, h, k, m]);
            state.values = tape.input("hv0", [b, h, m, v]);
        }
        state
    }

    #[test]
    fn gated_slot_attention_computes_what_flash_linear_attention_does() {
        on_every_device("gsa", |case, tape, chunking| {
            let [b, t, hq, h, k, v, m] = dims(case, ["B", "T", "HQ", "H", "K", "V", "M"]);
            let gates = SlotGates {
                query: tape.input("q", [b, t, hq, k]),
                key: tape.input("k", [b, t, h, k]),
                value: tape.input("v", [b, t, h, v]),
                write: tape.input("s", [b, t, h, m]),
                log_decay: tape.input("g", [b, t, h, m]),
            };
            let mut state = slot_state(case, tape);
            let output = slots::gated_slot_attention(gates, &mut state, chunking).expect("shapes that fit");
            tape.output("o", output);
            tape.output("hk", state.keys);
            tape.output("hv", state.values);
        });
    }

    #[test]
    fn attention_with_bounded_memory_computes_what_flash_linear_attention_does() {
        on_every_device("abc", |case, tape, chunking| {
            let [b, t, h, m] = dims(case, ["B", "T", "H", "M"]);
            let [q, k, v] = query_key_value(case, tape);
            let logits = tape.input("s", [b, t, h, m]);
            let mut state = AbcState {
                slots: slot_state(case, tape),
                log_normalizer: None,
            };
            let output = slots::abc(q, k, v, logits, &mut state, chunking).expect("shapes that fit");
            tape.output("o", output);
            tape.output("hk", state.slots.keys);
            tape.output("hv", state.slots.values);
        });
    }
}
