//! Bad input is an error that names the tensor, what was expected and what was found; states are left as they were.

#[path = "support/mod.rs"]
mod devices;

use burn::tensor::{DType, Device, Tensor};
use devices::{adapters, values};
use spillway_ssm_core::{
    Chunking, Error, Gates, LogDecay, Sequences, State, recurrence, recurrence_bounded,
    recurrence_of_sequences,
};

fn gates(device: &Device) -> Gates {
    let tensor = |shape: [usize; 4]| Tensor::<4>::ones(shape, device) * 0.5;
    Gates {
        log_decay: LogDecay::PerHead(Tensor::from_floats([-0.1, -0.2], device)),
        ..Gates::new(tensor([2, 6, 1, 3]), tensor([2, 6, 1, 3]), tensor([2, 6, 2, 4]))
    }
}

/// The error of a call from a state of ones, after which the state must still be of ones.
fn refused(gates: Gates, sequences: &Sequences, state_device: &Device, chunking: Chunking) -> Error {
    let mut state = State::zeros(&gates.dims(), state_device);
    if let Sequences::Packed(offsets) = sequences {
        state.memory = Tensor::zeros([offsets.len().saturating_sub(1), 2, 3, 4], state_device);
    }
    state.memory = state.memory + 1.0;
    let before = values(state.memory.clone());
    let error =
        recurrence_of_sequences(gates, sequences, &mut state, chunking).expect_err("this cannot work");
    assert_eq!(values(state.memory), before, "{error}");
    assert_eq!(state.position, 0);
    error
}

#[test]
fn element_types_that_do_not_go_together_are_named() {
    let device = Device::flex();
    let of = |gates| refused(gates, &Sequences::Equal, &device, Chunking::Fastest).to_string();
    let mut mixed = gates(&device);
    mixed.key = mixed.key.cast(DType::BF16);
    assert_eq!(
        of(mixed),
        "key: expected elements of type f32, as query, found bf16"
    );
    let mut wide = gates(&device);
    wide.query = wide.query.cast(DType::F64);
    assert_eq!(
        of(wide),
        "query: expected elements of type f32, bf16 or f16, found f64"
    );
}

#[test]
fn a_state_that_is_not_f32_is_refused() {
    let device = Device::flex();
    let gates = gates(&device);
    let mut state = State::zeros(&gates.dims(), &device);
    state.memory = state.memory.cast(DType::F16);
    let error = recurrence(gates, &mut state, Chunking::Fastest).expect_err("a state of half precision");
    assert_eq!(
        error.to_string(),
        "state: expected elements of type f32, as all states, found f16"
    );
}

#[test]
fn tensors_that_live_apart_are_refused() {
    for (name, adapter) in adapters() {
        let mut apart = gates(&adapter);
        apart.value = gates(&Device::flex()).value;
        let error = refused(apart, &Sequences::Equal, &adapter, Chunking::Fastest);
        assert!(
            matches!(error, Error::Device { what: "value", .. }),
            "{name}: {error}"
        );
        let error = refused(
            gates(&adapter),
            &Sequences::Equal,
            &Device::flex(),
            Chunking::Fastest,
        );
        assert!(
            matches!(error, Error::Device { what: "state", .. }),
            "{name}: {error}"
        );
    }
}

#[test]
fn devices_that_checkpoint_differently_do_not_mix() {
    let (plain, balanced) = (
        Device::flex().autodiff(),
        Device::flex().autodiff().gradient_checkpointing(),
    );
    let mut mixed = gates(&plain);
    mixed.key = gates(&balanced).key;
    let error = refused(mixed, &Sequences::Equal, &plain, Chunking::Fastest);
    assert!(matches!(error, Error::Device { what: "key", .. }), "{error}");
}

#[test]
fn paddings_and_offsets_that_do_not_fit_are_named() {
    let device = Device::flex();
    let of =
        |sequences: &Sequences, chunking| refused(gates(&device), sequences, &device, chunking).to_string();
    assert_eq!(
        of(&Sequences::left_padded([7, 0]), Chunking::Fastest),
        "the padding of sequence 0 needs to be at most 6 rows, found 7"
    );
    assert_eq!(
        of(&Sequences::packed([0, 6]), Chunking::Fastest),
        "batch of packed sequences: expected shape [1], found [2]"
    );
    assert_eq!(
        of(&Sequences::left_padded([0, 0]), Chunking::Scan { chunk_size: 2 }),
        "chunking of a recurrence over padded or packed sequences: expected the fastest, sequential or chunked, found scan"
    );
    let mut packed = gates(&device);
    for tensor in [&mut packed.query, &mut packed.key, &mut packed.value] {
        *tensor = tensor.clone().narrow(0, 0, 1);
    }
    assert_eq!(
        refused(packed, &Sequences::packed([0, 5]), &device, Chunking::Fastest).to_string(),
        "offset 1 needs to be 6, found 5"
    );
}

#[test]
fn a_bounded_recurrence_says_where_it_runs() {
    let device = Device::flex().autodiff();
    let gates = gates(&device);
    let mut state = State::zeros(&gates.dims(), &device);
    state.memory = state.memory + 1.0;
    let bound = Tensor::from_floats([1.0, 1.0], &device);
    let error = recurrence_bounded(gates, &mut state, &bound).expect_err("no gradient exists");
    assert!(
        error
            .to_string()
            .starts_with("the recurrence with bounded states does not run on"),
        "{error}"
    );
    assert_eq!(values(state.memory), vec![1.0; 48]);
}
