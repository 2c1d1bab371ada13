//! Everything that can be wrong with a selective scan is named.

use spillway_kernel_dsl::Sequences;

use super::*;

const PROBLEM: Problem = Problem {
    batch: 2,
    time: 3,
    channels: 4,
    state_dim: 5,
    groups: 2,
};

fn data() -> Data {
    Data::new(PROBLEM, Layout::Equal, (0, true, true, true), 1)
}

fn forward(problem: Problem, inputs: &Inputs, state: usize, out: usize) -> String {
    let (mut state, mut out) = (vec![0.0; state], vec![0.0; out]);
    sequential(&problem, inputs, &mut state, &mut out)
        .expect_err("something is wrong")
        .to_string()
}

#[test]
fn sizes_that_cannot_be_are_named() {
    let data = data();
    let with = |problem| forward(problem, &data.inputs(), 40, 24);
    assert_eq!(
        with(Problem { groups: 3, ..PROBLEM }),
        "4 channels do not divide into 3 groups"
    );
    assert_eq!(
        with(Problem { groups: 0, ..PROBLEM }),
        "4 channels do not divide into 0 groups"
    );
    let huge = Problem {
        batch: usize::MAX / 2,
        ..PROBLEM
    };
    assert!(with(huge).contains("more values than this machine can address"));
    let mut inputs = data.inputs();
    inputs.sequences = Sequences::Packed(&[0, 3]);
    assert_eq!(
        forward(PROBLEM, &inputs, 40, 24),
        "2 sequences need 3 offsets, found 2"
    );
    let error = step(&PROBLEM, &data.inputs(), &mut [0.0; 40], &mut [0.0; 24]);
    assert_eq!(error, Err(ScanError::NotOneToken { found: 3 }));
}

#[test]
fn operands_of_the_wrong_shape_are_named() {
    let data = data();
    let with = |change: fn(&mut Inputs)| {
        let mut inputs = data.inputs();
        change(&mut inputs);
        forward(PROBLEM, &inputs, 40, 24)
    };
    const NARROW: [f32; 60] = [0.0; 60];
    fn rows(count: usize, columns: usize) -> Rows<'static> {
        Rows::contiguous(&NARROW, count, columns).expect("long enough")
    }
    assert_eq!(
        with(|i| i.input = rows(5, 4)),
        "selective scan: input needs 6 rows of 4 values, found 5 rows of 4 values"
    );
    assert_eq!(
        with(|i| i.input = rows(6, 3)),
        "selective scan: input needs 6 rows of 4 values, found 6 rows of 3 values"
    );
    assert_eq!(
        with(|i| i.step_size = rows(6, 5)),
        "selective scan: step_size needs 6 rows of 4 values, found 6 rows of 5 values"
    );
    assert_eq!(
        with(|i| i.a = &NARROW[..19]),
        "selective scan: a needs 20 values, found 19 values"
    );
    assert_eq!(
        with(|i| i.b = rows(6, 9)),
        "selective scan: b needs 6 rows of 10 values, found 6 rows of 9 values"
    );
    assert_eq!(
        with(|i| i.c = rows(4, 10)),
        "selective scan: c needs 6 rows of 10 values, found 4 rows of 10 values"
    );
    assert_eq!(
        with(|i| i.skip = Some(&NARROW[..5])),
        "selective scan: skip needs 4 values, found 5 values"
    );
    assert_eq!(
        with(|i| i.gate = Some(rows(6, 2))),
        "selective scan: gate needs 6 rows of 4 values, found 6 rows of 2 values"
    );
    let inputs = data.inputs();
    assert_eq!(
        forward(PROBLEM, &inputs, 39, 24),
        "selective scan: state needs 40 values, found 39 values"
    );
    assert_eq!(
        forward(PROBLEM, &inputs, 40, 25),
        "selective scan: out needs 24 values, found 25 values"
    );
    let error = element(&PROBLEM, &inputs, &mut [0.0; 7], &mut [0.0; 40]);
    assert_eq!(
        error.expect_err("short").to_string(),
        "selective scan: step_size_sum needs 8 values, found 7 values"
    );
    let error = element(&PROBLEM, &inputs, &mut [0.0; 8], &mut [0.0; 41]);
    assert_eq!(
        error.expect_err("long").to_string(),
        "selective scan: update needs 40 values, found 41 values"
    );
}

#[test]
fn gradients_and_cotangents_of_the_wrong_shape_are_named() {
    let data = data();
    let run = |data: &Data, cotangents: &Cotangents, cut: Option<usize>, chunk_size| {
        let mut buffers = Buffers::new(data, 0.0);
        if let Some(cut) = cut {
            buffers.0[cut].push(0.0);
        }
        let inputs = data.inputs();
        backward(
            &PROBLEM,
            &inputs,
            chunk_size,
            &data.state,
            cotangents,
            &mut buffers.gradients(),
        )
        .expect_err("something is wrong")
        .to_string()
    };
    for (i, (name, length)) in NAMES.iter().zip([24, 24, 20, 60, 60, 4, 24, 40]).enumerate() {
        let expected = format!(
            "selective scan: the gradient of {name} needs {length} values, found {} values",
            length + 1
        );
        assert_eq!(run(&data, &data.cotangents(), Some(i), 8), expected);
    }
    assert_eq!(
        run(&data, &data.cotangents(), None, 0),
        "a chunk needs at least one token, found chunk_size = 0"
    );
    let out = |rows, columns| Cotangents {
        out: Rows::contiguous(&[0.0; 30], rows, columns).expect("long enough"),
        state: None,
    };
    assert_eq!(
        run(&data, &out(5, 4), None, 8),
        "selective scan: the cotangent of out needs 6 rows of 4 values, found 5 rows of 4 values"
    );
    assert_eq!(
        run(&data, &out(6, 5), None, 8),
        "selective scan: the cotangent of out needs 6 rows of 4 values, found 6 rows of 5 values"
    );
    let cotangents = Cotangents {
        state: Some(&[0.0; 3]),
        ..data.cotangents()
    };
    assert_eq!(
        run(&data, &cotangents, None, 8),
        "selective scan: the cotangent of state needs 40 values, found 3 values"
    );
    let without = Data {
        gate: None,
        ..data.clone()
    };
    let mut buffers = Buffers::new(&data, 0.0);
    let error = backward(
        &PROBLEM,
        &without.inputs(),
        8,
        &data.state,
        &data.cotangents(),
        &mut buffers.gradients(),
    );
    assert_eq!(
        error.expect_err("no gate").to_string(),
        "selective scan: the gradient of gate needs none, found 24 values"
    );
}

#[test]
fn values_that_would_grow_are_named_on_request() {
    let good = data();
    assert_eq!(PROBLEM.check_values(&good.inputs()), Ok(()));
    let mut data = good.clone();
    data.a[7] = 0.5;
    let error = PROBLEM.check_values(&data.inputs()).expect_err("positive");
    assert_eq!(
        error.to_string(),
        "a of channel 1 and state value 2 needs to be 0 or less, found 0.5"
    );
    data.a[7] = f32::NAN;
    assert!(PROBLEM.check_values(&data.inputs()).is_err());
    let mut data = good;
    data.step_size[9] = -0.25;
    let error = PROBLEM.check_values(&data.inputs()).expect_err("negative");
    assert_eq!(
        error.to_string(),
        "step_size of row 2 and channel 1 needs to be 0 or more, found -0.25"
    );
    data.step_size[9] = f32::NAN;
    assert!(PROBLEM.check_values(&data.inputs()).is_err());
    // Padding is no token.
    let mut inputs = data.inputs();
    inputs.sequences = Sequences::LeftPadded(&[3, 0]);
    assert_eq!(PROBLEM.check_values(&inputs), Ok(()));
}

#[test]
fn a_nan_never_passes_unseen() {
    let fields: [fn(&mut Data) -> &mut [f32]; 5] = [
        |data| &mut data.input,
        |data| &mut data.step_size,
        |data| &mut data.a,
        |data| &mut data.b,
        |data| &mut data.state,
    ];
    for field in fields {
        let mut data = data();
        field(&mut data)[0] = f32::NAN;
        let (out, state) = data.run();
        assert!(out[0].is_nan() && state[0].is_nan());
    }
}
