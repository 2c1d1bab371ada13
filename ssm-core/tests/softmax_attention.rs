//! Softmax attention over a key-value cache: the kernel of the CPU and the composition of Burn's operations agree, whatever the
//! lengths of the sequences, and however tokens are split among calls.

#[path = "support/mod.rs"]
mod devices;

mod equivalence {
    use super::devices::{adapters, tensor, values};
    use burn::tensor::{Device, Tensor};
    use proptest::prelude::*;
    use spillway_ssm_core::KeyValueCache;
    use spillway_ssm_core::operators::softmax_attention;

    /// The kernel of the CPU, and the composition that other devices take.
    fn devices() -> [(&'static str, Device); 2] {
        [("flex", Device::flex()), ("autodiff", Device::flex().autodiff())]
    }

    #[derive(Clone, Debug)]
    struct Case {
        groups: usize,
        shared: usize,
        key_dim: usize,
        value_dim: usize,
        window: Option<usize>,
        seed: u32,
    }

    fn cases() -> impl Strategy<Value = Case> {
        let window = prop_oneof![Just(None), (0..40usize).prop_map(Some)];
        (1..3usize, 1..3usize, 1..6usize, 1..6usize, window, any::<u32>()).prop_map(
            |(groups, shared, key_dim, value_dim, window, seed)| Case {
                groups,
                shared,
                key_dim,
                value_dim,
                window,
                seed: seed % 1000,
            },
        )
    }

    impl Case {
        fn cache(&self, batch: usize, device: &Device) -> KeyValueCache {
            KeyValueCache::empty(
                batch,
                self.groups,
                [self.key_dim, self.value_dim],
                self.window,
                device,
            )
        }

        /// Queries, keys and values of tokens `range` of sequence `sequence`.
        fn tokens(&self, sequence: usize, range: std::ops::Range<usize>, device: &Device) -> [Tensor<4>; 3] {
            let of = |kind: usize, heads: usize, dim: usize| {
                let value = |i: usize| {
                    let at = range.start * heads * dim + i + 7919 * kind + 104_729 * sequence;
                    (at as f32 * 0.731 + self.seed as f32).sin() * 1.5
                };
                let list: Vec<f32> = (0..range.len() * heads * dim).map(value).collect();
                tensor(&list, [1, range.len(), heads, dim], device)
            };
            [
                of(0, self.groups * self.shared, self.key_dim),
                of(1, self.groups, self.key_dim),
                of(2, self.groups, self.value_dim),
            ]
        }

        fn run(&self, [q, k, v]: [Tensor<4>; 3], cache: &mut KeyValueCache) -> Vec<f32> {
            values(softmax_attention(q, k, v, 0.7, cache).expect("shapes that fit"))
        }

        /// The read-outs of tokens `range` where every value has its size for itself.
        fn terms(&self, sequence: usize, range: std::ops::Range<usize>) -> Vec<f32> {
            let device = Device::flex();
            let [q, k, v] = self.tokens(sequence, 0..range.end, &device);
            let whole = self.run([q, k, v.abs()], &mut self.cache(1, &device));
            let width = self.groups * self.shared * self.value_dim;
            whole[range.start * width..].to_vec()
        }
    }

    /// ‖found − expected‖ / ‖terms‖; infinite for NaN. A read-out is a mean of values; `terms` are the same means of their sizes,
    /// beside which rounding is small however much of the values cancels.
    fn error(found: &[f32], expected: &[f32], terms: &[f32]) -> f64 {
        assert_eq!(found.len(), expected.len(), "numbers of values");
        let square = |x: f64| x * x;
        let off: f64 = found
            .iter()
            .zip(expected)
            .map(|(&f, &e)| square(f64::from(f) - f64::from(e)))
            .sum();
        let norm: f64 = terms.iter().map(|&term| square(f64::from(term))).sum();
        match off {
            // Nothing but zeros, as in a window without tokens.
            0.0 => 0.0,
            _ if off.is_finite() => (off / norm).sqrt(),
            _ => f64::INFINITY,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_device_and_every_split_agree(case in cases(), time in 1..70usize, cuts in prop::collection::vec(0..70usize, 0..4)) {
            let host = Device::flex();
            let expected = case.run(case.tokens(0, 0..time, &host), &mut case.cache(1, &host));
            let terms = case.terms(0, 0..time);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(time)).chain([0, time]).collect();
            cuts.sort_unstable();
            for (name, device) in devices() {
                let mut cache = case.cache(1, &device);
                let found: Vec<f32> = cuts
                    .windows(2)
                    .flat_map(|pair| case.run(case.tokens(0, pair[0]..pair[1], &device), &mut cache))
                    .collect();
                let off = error(&found, &expected, &terms);
                prop_assert!(off < 1e-6, "{name}: off by {off:.1e}");
                if let Some(window) = case.window {
                    prop_assert!(cache.capacity() <= (2 * window + 2).max(32), "{name}: {} places", cache.capacity());
                }
            }
        }

        #[test]
        fn sequences_of_different_lengths_do_not_see_one_another(
            case in cases(), first in 0..50usize, second in 0..50usize, more in 1..4usize,
        ) {
            for (name, device) in devices() {
                // One by one, and then together from a saved state that both are written into.
                let mut alone = [case.cache(1, &device), case.cache(1, &device)];
                for (sequence, (cache, length)) in alone.iter_mut().zip([first, second]).enumerate() {
                    case.run(case.tokens(sequence, 0..length, &device), cache);
                }
                let mut both = KeyValueCache::stack(&alone).expect("caches of one kind");
                prop_assert_eq!(both.lengths(), [alone[0].lengths(), alone[1].lengths()].concat());
                let new = |sequence: usize, start: usize| case.tokens(sequence, start..start + more, &device);
                let (a, b) = (new(0, first), new(1, second));
                let joined: Vec<Tensor<4>> = a.iter().zip(&b).map(|(a, b)| Tensor::cat(vec![a.clone(), b.clone()], 0)).collect();
                let joined: [Tensor<4>; 3] = joined.try_into().expect("three tensors");
                let found = case.run(joined, &mut both);
                let mut expected = case.run(a, &mut alone[0]);
                expected.extend(case.run(b, &mut alone[1]));
                let terms = [case.terms(0, first..first + more), case.terms(1, second..second + more)].concat();
                let off = error(&found, &expected, &terms);
                prop_assert!(off < 1e-6, "{name}: off by {off:.1e}");
            }
        }

        #[test]
        fn a_saved_cache_goes_on(case in cases(), before in 0..70usize, after in 1..5usize) {
            for (name, device) in devices() {
                let mut cache = case.cache(1, &device);
                case.run(case.tokens(0, 0..before, &device), &mut cache);
                let mut restored = case.cache(1, &device);
                restored.restore(&cache.save()).expect("its own entries");
                prop_assert_eq!(restored.bytes(), cache.bytes());
                prop_assert_eq!(restored.save(), cache.save());
                let new = || case.tokens(0, before..before + after, &device);
                let (found, expected) = (case.run(new(), &mut restored), case.run(new(), &mut cache));
                let off = error(&found, &expected, &case.terms(0, before..before + after));
                prop_assert!(off < 1e-6, "{name}: off by {off:.1e}");
            }
        }
    }

    /// Two calls of different lengths, the second longer than the window.
    #[test]
    fn every_adapter_computes_what_the_cpu_does() {
        let case = Case {
            groups: 2,
            shared: 2,
            key_dim: 4,
            value_dim: 3,
            window: Some(3),
            seed: 5,
        };
        let run = |device: &Device| {
            let mut cache = case.cache(1, device);
            let mut out = case.run(case.tokens(0, 0..2, device), &mut cache);
            out.extend(case.run(case.tokens(0, 2..8, device), &mut cache));
            out
        };
        let (expected, terms) = (run(&Device::flex()), case.terms(0, 0..8));
        for (name, device) in adapters() {
            let off = error(&run(&device), &expected, &terms);
            assert!(off < 2e-6, "{name}: off by {off:.1e}");
        }
    }

    #[test]
    fn gradients_are_the_differences_of_the_outputs() {
        let case = Case {
            groups: 1,
            shared: 2,
            key_dim: 3,
            value_dim: 2,
            window: Some(2),
            seed: 3,
        };
        let device = Device::flex().autodiff();
        let given = case.tokens(0, 0..5, &device).map(Tensor::require_grad);
        let weigh = |output: Tensor<4>| {
            let shape = output.dims();
            let len: usize = shape.iter().product();
            let weights: Vec<f32> = (0..len).map(|i| (i as f32).cos()).collect();
            (output.clone() * tensor(&weights, shape, &output.device())).sum()
        };
        let run = |given: [Tensor<4>; 3], device: &Device| {
            let [q, k, v] = given;
            weigh(softmax_attention(q, k, v, 0.7, &mut case.cache(1, device)).expect("shapes that fit"))
        };
        let gradients = run(given.clone(), &device).backward();
        let host = Device::flex();
        for index in 0..3 {
            let gradient = values(
                given[index]
                    .grad(&gradients)
                    .expect("every input leads to the loss"),
            );
            let norm = gradient.iter().map(|g| g * g).sum::<f32>().sqrt();
            let at = |sign: f32| {
                let mut moved = case.tokens(0, 0..5, &host);
                let shape = moved[index].dims();
                let step: Vec<f32> = gradient.iter().map(|g| sign * 2e-3 * g / norm).collect();
                moved[index] = moved[index].clone() + tensor(&step, shape, &host);
                f64::from(values(run(moved, &host))[0])
            };
            let found = (at(1.0) - at(-1.0)) / 4e-3;
            let off = (found / f64::from(norm) - 1.0).abs();
            assert!(off < 1e-2, "input {index}: {found}, expected {norm}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let case = Case {
            groups: 2,
            shared: 1,
            key_dim: 2,
            value_dim: 2,
            window: None,
            seed: 1,
        };
        let device = Device::flex();
        let [q, k, v] = case.tokens(0, 0..2, &device);
        let refused = |q: &Tensor<4>, k: &Tensor<4>, cache: &mut KeyValueCache| {
            let found = softmax_attention(q.clone(), k.clone(), v.clone(), 1.0, cache);
            found.map(|_| ()).expect_err("wrong").to_string()
        };
        let mut other = KeyValueCache::empty(1, 2, [3, 2], None, &device);
        assert!(refused(&q, &k, &mut other).contains("cache of keys"));
        let short = k.clone().narrow(1, 0, 1);
        assert!(refused(&q, &short, &mut case.cache(1, &device)).contains("key"));
        let mut saved = case.cache(1, &device).save();
        saved.remove("lengths");
        let error = case
            .cache(1, &device)
            .restore(&saved)
            .expect_err("an entry is missing");
        assert!(error.to_string().contains("lengths"), "{error}");
    }
}
