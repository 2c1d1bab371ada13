//! Everything that can be wrong with a call of WKV-4 is an error that names it.

use spillway_kernel_dsl::wkv4::{
    Cotangents, Inputs, Problem, Wkv4Error, backward, element, sequential, step,
};
use spillway_kernel_dsl::{Rows, Sequences};

use super::super::layout::Layout;
use super::{Buffers, Data, NAMES, Past};

#[test]
fn everything_wrong_is_named() {
    const PROBLEM: Problem = Problem {
        batch: 2,
        time: 3,
        channels: 4,
    };
    let data = Data::new(PROBLEM, Layout::Equal, (0, Past::Empty, 1.0), 2);
    let forward = |problem: Problem, inputs: &Inputs, state: usize, out: usize| {
        let (mut state, mut out) = (vec![0.0; state], vec![0.0; out]);
        let error = sequential(&problem, inputs, &mut state, &mut out);
        error.expect_err("something is wrong").to_string()
    };
    let with = |change: fn(&mut Inputs)| {
        let mut inputs = data.inputs();
        change(&mut inputs);
        forward(PROBLEM, &inputs, 24, 24)
    };
    const ZEROS: [f32; 30] = [0.0; 30];
    fn rows(count: usize, columns: usize) -> Rows<'static> {
        Rows::contiguous(&ZEROS, count, columns).expect("long enough")
    }
    assert_eq!(
        with(|i| i.key = rows(5, 4)),
        "WKV-4: key needs 6 rows of 4 values, found 5 rows of 4 values"
    );
    assert_eq!(
        with(|i| i.value = rows(6, 3)),
        "WKV-4: value needs 6 rows of 4 values, found 6 rows of 3 values"
    );
    assert_eq!(
        with(|i| i.bonus = &ZEROS[..3]),
        "WKV-4: bonus needs 4 values, found 3 values"
    );
    assert_eq!(
        with(|i| i.log_decay = &ZEROS[..5]),
        "WKV-4: log_decay needs 4 values, found 5 values"
    );
    assert_eq!(
        with(|i| i.log_decay = &[-1.0, 0.5, 0.0, -1.0]),
        "log_decay of channel 1 needs to be 0 or less, found 0.5"
    );
    assert!(with(|i| i.log_decay = &[-1.0, -1.0, f32::NAN, 0.0]).starts_with("log_decay of channel 2"));
    assert_eq!(
        with(|i| i.sequences = Sequences::LeftPadded(&[0, 4])),
        "the padding of sequence 1 needs to be at most 3 rows, found 4"
    );
    let inputs = data.inputs();
    assert_eq!(
        forward(PROBLEM, &inputs, 23, 24),
        "WKV-4: state needs 24 values, found 23 values"
    );
    assert_eq!(
        forward(PROBLEM, &inputs, 24, 25),
        "WKV-4: out needs 24 values, found 25 values"
    );
    let huge = Problem {
        batch: usize::MAX / 2,
        ..PROBLEM
    };
    assert!(forward(huge, &inputs, 24, 24).contains("more values than this machine can address"));
    let error = step(&PROBLEM, &inputs, &mut [0.0; 24], &mut [0.0; 24]);
    assert_eq!(error, Err(Wkv4Error::NotOneToken { found: 3 }));
    let error = element(&PROBLEM, &inputs, &mut [0.0; 7], &mut [0.0; 24]);
    assert_eq!(
        error.expect_err("short").to_string(),
        "WKV-4: log_decay_sum needs 8 values, found 7 values"
    );
    let run = |cotangents: &Cotangents, cut: Option<usize>, chunk_size| {
        let mut buffers = Buffers::new(&data, 0.0);
        if let Some(cut) = cut {
            buffers.0[cut].push(0.0);
        }
        let mut into = buffers.gradients();
        let error = backward(&PROBLEM, &inputs, chunk_size, &data.state, cotangents, &mut into);
        error.expect_err("something is wrong").to_string()
    };
    for (i, (name, length)) in NAMES.iter().zip([4, 4, 24, 24, 24]).enumerate() {
        let expected = format!(
            "WKV-4: the gradient of {name} needs {length} values, found {} values",
            length + 1
        );
        assert_eq!(run(&data.cotangents(), Some(i), 8), expected);
    }
    assert_eq!(
        run(&data.cotangents(), None, 0),
        "a chunk needs at least one token, found chunk_size = 0"
    );
    let cotangents = |out, state| Cotangents { out, state };
    assert_eq!(
        run(&cotangents(rows(5, 4), None), None, 8),
        "WKV-4: the cotangent of out needs 6 rows of 4 values, found 5 rows of 4 values"
    );
    assert_eq!(
        run(&cotangents(rows(6, 5), None), None, 8),
        "WKV-4: the cotangent of out needs 6 rows of 4 values, found 6 rows of 5 values"
    );
    assert_eq!(
        run(&cotangents(rows(6, 4), Some(&ZEROS[..3])), None, 8),
        "WKV-4: the cotangent of state needs 24 values, found 3 values"
    );
}
