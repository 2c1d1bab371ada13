//! Softmax attention on the CPU computes its f64 definition, however tokens are split among calls.

mod equivalence {
    use proptest::prelude::*;
    use spillway_kernel_dsl::Rows;
    use spillway_kernel_dsl::softmax_attention::{
        Inputs, Problem, SoftmaxError, reference, softmax_attention,
    };

    /// Reproducible values in [−1, 1).
    struct Values(u64);

    impl Values {
        fn list(&mut self, len: usize) -> Vec<f32> {
            let mut next = || {
                self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            };
            (0..len).map(|_| next()).collect()
        }
    }

    #[derive(Clone, Debug)]
    struct Case {
        problem: Problem,
        lengths: Vec<usize>,
        seed: u64,
    }

    fn case() -> impl Strategy<Value = Case> {
        let time = prop_oneof![0..4usize, 1..90usize];
        let length = prop_oneof![0..4usize, 1..600usize];
        let dim = prop_oneof![1..9usize, prop::sample::select(vec![16usize, 33, 64, 80])];
        let window = prop_oneof![
            Just(None),
            (0..9usize).prop_map(Some),
            (20..300usize).prop_map(Some)
        ];
        let sizes = (1..3usize, time, 1..3usize, 1..4usize, dim.clone(), dim, 0..5usize);
        (sizes, window, prop::collection::vec(length, 2), any::<u64>()).prop_map(
            |((batch, time, groups, shared, key_dim, value_dim, spare), window, lengths, seed)| {
                let lengths = lengths[..batch].to_vec();
                let longest = lengths.iter().max().map_or(0, |&longest| longest);
                let problem = Problem {
                    batch,
                    time,
                    heads: groups * shared,
                    groups,
                    key_dim,
                    value_dim,
                    capacity: longest + time + spare,
                    // Scores of a size at which some weights vanish.
                    scale: 8.0 / (key_dim as f32).sqrt(),
                    window,
                };
                Case {
                    problem,
                    lengths,
                    seed,
                }
            },
        )
    }

    struct Data {
        query: Vec<f32>,
        key: Vec<f32>,
        value: Vec<f32>,
        keys: Vec<f32>,
        values: Vec<f32>,
    }

    impl Data {
        fn new(case: &Case) -> Self {
            let p = case.problem;
            let rows = p.batch * p.time;
            let mut random = Values(case.seed);
            let mut of = |len| random.list(len);
            let (query, key) = (of(rows * p.heads * p.key_dim), of(rows * p.groups * p.key_dim));
            let value = of(rows * p.groups * p.value_dim);
            let (mut keys, mut values) = (of(p.keys_len()), of(p.values_len()));
            // What lies behind a sequence's tokens must not matter.
            for (cache, dim) in [(&mut keys, p.key_dim), (&mut values, p.value_dim)] {
                for (place, token) in cache.chunks_exact_mut(dim).enumerate() {
                    let b = place / (p.groups * p.capacity);
                    if place % p.capacity >= case.lengths[b] {
                        token.fill(f32::NAN);
                    }
                }
            }
            Self {
                query,
                key,
                value,
                keys,
                values,
            }
        }
    }

    fn rows(values: &[f32], rows: usize, cols: usize) -> Rows<'_> {
        Rows::contiguous(values, rows, cols).expect("whole rows")
    }

    fn inputs<'a>(p: &Problem, data: &'a Data, lengths: &'a [usize]) -> Inputs<'a> {
        let count = p.batch * p.time;
        Inputs {
            query: rows(&data.query, count, p.heads * p.key_dim),
            key: rows(&data.key, count, p.groups * p.key_dim),
            value: rows(&data.value, count, p.groups * p.value_dim),
            lengths,
        }
    }

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
        #![proptest_config(ProptestConfig { cases: crate::support::property_cases(256), failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_stream_of_blocks_is_the_definition(case in case()) {
            let (p, mut data) = (case.problem, Data::new(&case));
            let (mut keys, mut values) = (data.keys.clone(), data.values.clone());
            let expected = reference::softmax_attention(&p, &inputs(&p, &data, &case.lengths), &keys, &values);
            let expected = expected.expect("valid");
            let mut out = vec![f32::NAN; expected.len()];
            softmax_attention(&p, &inputs(&p, &data, &case.lengths), &mut keys, &mut values, &mut out)
                .expect("valid");
            let off = error(&out, &expected);
            // Scores of size 8 round by 8 units of their last place.
            prop_assert!(off < 4e-6, "off by {off:.1e}");
            // The tokens at hand now lie in the cache.
            data.keys = keys;
            for (b, length) in case.lengths.iter().enumerate() {
                for t in 0..p.time {
                    let row = rows(&data.key, p.batch * p.time, p.groups * p.key_dim).row(b * p.time + t);
                    for (group, key) in row.chunks_exact(p.key_dim).enumerate() {
                        let place = (b * p.groups + group) * p.capacity + length + t;
                        prop_assert_eq!(&data.keys[place * p.key_dim..][..p.key_dim], key);
                    }
                }
            }
        }

        #[test]
        fn splitting_a_sequence_anywhere_keeps_the_outputs(case in case(), at in 0.0..1.0f64) {
            let mut p = case.problem;
            p.batch = 1;
            let lengths = &case.lengths[..1];
            let one = Case { problem: p, lengths: lengths.to_vec(), seed: case.seed };
            let data = Data::new(&one);
            let run = |problem: &Problem, keys: &mut Vec<f32>, values: &mut Vec<f32>, start: usize, length: usize| {
                let part = |values: &[f32], cols: usize| values[start * cols..(start + problem.time) * cols].to_vec();
                let data = Data {
                    query: part(&data.query, p.heads * p.key_dim),
                    key: part(&data.key, p.groups * p.key_dim),
                    value: part(&data.value, p.groups * p.value_dim),
                    keys: Vec::new(),
                    values: Vec::new(),
                };
                let mut out = vec![f32::NAN; problem.time * p.heads * p.value_dim];
                softmax_attention(problem, &inputs(problem, &data, &[length]), keys, values, &mut out).expect("valid");
                out
            };
            let (mut keys, mut values) = (data.keys.clone(), data.values.clone());
            let whole = run(&p, &mut keys, &mut values, 0, lengths[0]);
            let split = (at * p.time as f64) as usize;
            let (mut keys, mut values) = (data.keys.clone(), data.values.clone());
            let first = Problem { time: split, ..p };
            let second = Problem { time: p.time - split, ..p };
            let mut parts = run(&first, &mut keys, &mut values, 0, lengths[0]);
            parts.extend(run(&second, &mut keys, &mut values, split, lengths[0] + split));
            let expected: Vec<f64> = whole.iter().map(|&x| f64::from(x)).collect();
            let off = error(&parts, &expected);
            prop_assert!(off < 4e-6, "off by {off:.1e}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let p = Problem {
            batch: 1,
            time: 1,
            heads: 2,
            groups: 1,
            key_dim: 2,
            value_dim: 2,
            capacity: 2,
            scale: 1.0,
            window: None,
        };
        let case = Case {
            problem: p,
            lengths: vec![1],
            seed: 1,
        };
        let data = Data::new(&case);
        let run = |p: &Problem, lengths: &[usize]| {
            let (mut keys, mut values) = (data.keys.clone(), data.values.clone());
            let mut out = vec![0.0; 4];
            softmax_attention(
                p,
                &inputs(&case.problem, &data, lengths),
                &mut keys,
                &mut values,
                &mut out,
            )
        };
        assert_eq!(run(&p, &[1]), Ok(()));
        let full = SoftmaxError::Full {
            capacity: 2,
            sequence: 0,
            needed: 3,
        };
        assert_eq!(run(&p, &[2]), Err(full));
        let groups = SoftmaxError::Groups { heads: 2, groups: 3 };
        assert_eq!(run(&Problem { groups: 3, ..p }, &[1]), Err(groups));
        assert_eq!(
            run(&Problem { key_dim: 0, ..p }, &[1]),
            Err(SoftmaxError::Zero { what: "key_dim" })
        );
        let error = run(&Problem { heads: 4, ..p }, &[1])
            .expect_err("queries of 2 heads")
            .to_string();
        assert!(
            error.contains("query needs 1 rows of 8 values, found 1 rows of 4 values"),
            "{error}"
        );
    }
}
