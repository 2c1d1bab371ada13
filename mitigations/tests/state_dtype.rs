//! States that are stored in fewer bits, against a loop of one token after another that rounds by hand.

mod common;

use burn::tensor::{Device, Tensor, TensorData};
use common::brute::{Layer, layer};
use common::{joined, parse, values};
use proptest::prelude::*;
use spillway_mitigations::Mitigation;
use spillway_mitigations::state_dtype::StateDtype;
use spillway_mitigations::state_dtype::storage::{Draws, ElementType, Rounding, Scale, Storage};
use spillway_ssm_core::{Chain, Rule, SiteState, State};

fn start(chain: &Chain, layer: &Layer) -> SiteState {
    let device = Device::flex();
    SiteState {
        state: layer.site().empty_state(layer.dims.batch, &device),
        interventions: chain.start(&layer.site(), layer.dims.batch, &device),
    }
}

/// Read-outs and the last state of calls of these lengths, and of one for the rest.
fn run(mitigation: &Mitigation, layer: &Layer, splits: &[usize]) -> (Vec<f32>, Vec<f32>) {
    let (chain, gates) = (mitigation.chain(), layer.gates());
    let mut state = start(&chain, layer);
    let (mut outputs, mut done) = (Vec::new(), 0usize);
    for length in splits.iter().copied().chain([usize::MAX]) {
        let end = layer.dims.time.min(done.saturating_add(length));
        let call = gates.slice(done..end).expect("a range inside");
        let output = chain.run(&layer.site(), call, &mut state, layer.chunking);
        if end > done {
            outputs.push(output.expect("gates that fit"));
        }
        done = end;
    }
    (joined(outputs), values(&state.state.memory))
}

/// The same of the plain recurrence, one token to a call, whose state is rounded by hand after each.
fn by_hand(dtype: &StateDtype, layer: &Layer) -> (Vec<f32>, Vec<f32>) {
    let (chain, gates, dims) = (Chain::default(), layer.gates(), layer.dims);
    let mut state = start(&chain, layer);
    let mut outputs = Vec::new();
    for t in 0..dims.time {
        let call = gates.slice(t..t + 1).expect("a range inside");
        let output = chain.run(&layer.site(), call, &mut state, layer.chunking);
        outputs.push(output.expect("gates that fit"));
        round(dtype, layer, t, &mut state.state);
    }
    (joined(outputs), values(&state.state.memory))
}

fn round(dtype: &StateDtype, layer: &Layer, t: usize, state: &mut State) {
    let shape = state.memory.dims();
    let size = layer.dims.key_dim * layer.dims.value_dim;
    let mut memory = values(&state.memory);
    for (index, head) in memory.chunks_mut(size).enumerate() {
        let head_of_layer = layer.first_head + index % layer.dims.heads;
        let mut rounding = match dtype.stochastic {
            None => Rounding::Nearest,
            Some(seed) => Rounding::Stochastic(Draws::new(seed, 1, head_of_layer as u64, t as u64)),
        };
        dtype.storage.store(head, layer.dims.value_dim, &mut rounding);
    }
    state.memory = Tensor::from_data(TensorData::new(memory, shape), &Device::flex());
}

fn dtype() -> impl Strategy<Value = StateDtype> {
    let elements = [
        ElementType::Bf16,
        ElementType::F16,
        ElementType::Fp8E4m3,
        ElementType::Fp8E5m2,
        ElementType::Int8,
    ];
    let storages: Vec<Storage> = elements
        .into_iter()
        .flat_map(|element| {
            let scales = Storage::scales(element).iter();
            scales.map(move |scale| Storage {
                element,
                scale: *scale,
            })
        })
        .collect();
    let stochastic = prop_oneof![Just(None), (0..5u64).prop_map(Some)];
    (prop::sample::select(storages), stochastic).prop_map(|(storage, stochastic)| StateDtype {
        storage,
        stochastic,
        chunk: None,
    })
}

fn written(dtype: &StateDtype) -> Mitigation {
    use spillway_ssm_core::Intervention;
    parse(&dtype.text())
}

/// Bits, so that a NaN is what it is.
fn bits((outputs, state): (Vec<f32>, Vec<f32>)) -> Vec<u32> {
    outputs.into_iter().chain(state).map(f32::to_bits).collect()
}

mod equivalence {
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

        #[test]
        fn a_state_is_stored_after_every_token_however_the_calls_are_split(layer in layer(), dtype in dtype()) {
            if layer.kind.rule() == Rule::Mean {
                return Ok(());
            }
            let expected = bits(by_hand(&dtype, &layer));
            let mitigation = written(&dtype);
            for splits in [layer.splits.as_slice(), &[], &vec![1; layer.dims.time]] {
                prop_assert_eq!(&bits(run(&mitigation, &layer, splits)), &expected, "{}", &mitigation);
            }
        }

        #[test]
        fn between_two_chunks_nothing_is_rounded(layer in layer(), dtype in dtype()) {
            if layer.kind.rule() == Rule::Mean {
                return Ok(());
            }
            let chunk = Some(layer.dims.time as u64 + 1);
            let longer = written(&StateDtype { chunk, ..dtype });
            prop_assert_eq!(bits(run(&longer, &layer, &[])), bits(run(&parse("none"), &layer, &[])));
        }

        #[test]
        fn at_the_end_of_a_chunk_the_state_is_stored(layer in layer(), dtype in dtype()) {
            if layer.kind.rule() == Rule::Mean {
                return Ok(());
            }
            let time = layer.dims.time;
            let once = written(&StateDtype { chunk: Some(time as u64), ..dtype.clone() });
            let (outputs, mut state) = {
                let chain = Chain::default();
                let mut state = start(&chain, &layer);
                let output = chain.run(&layer.site(), layer.gates(), &mut state, layer.chunking);
                (values(&output.expect("gates that fit")), state.state)
            };
            round(&dtype, &layer, time - 1, &mut state);
            prop_assert_eq!(bits(run(&once, &layer, &[])), bits((outputs, values(&state.memory))));
        }

        #[test]
        fn f32_is_what_states_are_computed_in(layer in layer()) {
            if layer.kind.rule() == Rule::Mean {
                return Ok(());
            }
            let same = run(&parse("state-dtype:f32"), &layer, &layer.splits);
            prop_assert_eq!(bits(same), bits(run(&parse("none"), &layer, &layer.splits)));
        }

        #[test]
        fn a_state_is_bounded_and_then_stored_wherever_it_is_written(layer in layer(), bound in 0.1..2.0f64) {
            if layer.kind.rule() == Rule::Mean {
                return Ok(());
            }
            let expected = bits(run(&parse(&format!("state-dtype:f16+state-norm:{bound}")), &layer, &[]));
            let other = parse(&format!("state-norm:{bound}+state-dtype:f16"));
            prop_assert_eq!(other.to_string(), format!("state-dtype:f16+state-norm:{bound}"));
            prop_assert_eq!(bits(run(&other, &layer, &layer.splits)), expected);
        }

        #[test]
        fn a_reset_empties_what_was_stored(layer in layer(), n in 1..20usize) {
            if layer.kind.rule() == Rule::Mean {
                return Ok(());
            }
            let chained = parse(&format!("reset:{n}+state-dtype:bf16,rounding=stochastic"));
            let whole = bits(run(&chained, &layer, &[]));
            prop_assert_eq!(bits(run(&chained, &layer, &layer.splits)), whole);
        }
    }
}

#[test]
fn a_sequence_is_rounded_alike_in_any_company() {
    let dtype = StateDtype {
        stochastic: Some(4),
        ..StateDtype::new(ElementType::Bf16)
    };
    let mut state = [0.123_456_79f32; 2 * 3 * 4];
    for head in state.chunks_mut(12) {
        dtype.storage.store(head, 4, &mut dtype.rounding(0, 0, 17));
    }
    assert_eq!(state[..12], state[12..]);
}

#[test]
fn a_weighted_mean_is_refused() {
    let site = spillway_ssm_core::Site {
        rule: Rule::Mean,
        ..spillway_ssm_core::Site::weighted_sum(2, 4, 1, 3)
    };
    let refused = parse("state-dtype:bf16").chain().check(&site);
    let message = refused.expect_err("a mean").to_string();
    assert!(
        message.contains("state-dtype:bf16") && message.contains("use a model"),
        "{message}"
    );
}

#[test]
fn scales_are_those_of_the_type() {
    assert_eq!(Storage::new(ElementType::Int8).scale, Scale::Head);
    assert_eq!(Storage::scales(ElementType::F16), [Scale::None]);
}
