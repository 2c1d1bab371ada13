//! Gradients of the recurrence through Burn's autodiff: those of the f64 definition, on every device and by every path.

#[path = "support/mod.rs"]
mod devices;

mod equivalence {
    use super::devices::{adapters, devices, tensor, values};
    use burn::tensor::{Device, Gradients, Tensor};
    use kernel_dsl::Rows;
    use kernel_dsl::recurrence::{self as kernel, Cotangents, GradientBuffers};
    use proptest::prelude::*;
    use ssm_core::{
        Dims, Form, Gates, LogDecay, ReadOut, Sequences, State, recurrence, recurrence_of_sequences,
    };

    /// A recurrence whose values are drawn from a seed, so that failures shrink over sizes only.
    #[derive(Clone, Debug)]
    struct Case {
        dims: Dims,
        decay: kernel::DecayKind,
        bonus: bool,
        step: bool,
        skip: Skip,
        /// Tokens of each sequence that are none, or which are its own in a packed row.
        layout: Layout,
        seed: u64,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Skip {
        None,
        PerHead,
        PerValue,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Layout {
        Equal,
        LeftPadded,
        Packed,
    }

    const DECAYS: [kernel::DecayKind; 5] = [
        kernel::DecayKind::None,
        kernel::DecayKind::PerHead,
        kernel::DecayKind::PerKey,
        kernel::DecayKind::PerHeadToken,
        kernel::DecayKind::PerKeyToken,
    ];

    fn case(longest: usize) -> impl Strategy<Value = Case> {
        let sizes = (1..3usize, 0..longest, 1..3usize, 1..3usize, 1..6usize, 1..6usize);
        let choices = (
            prop::sample::select(DECAYS.to_vec()),
            any::<bool>(),
            any::<bool>(),
            prop::sample::select(vec![Skip::None, Skip::PerHead, Skip::PerValue]),
            prop::sample::select(vec![Layout::Equal, Layout::LeftPadded, Layout::Packed]),
            any::<u64>(),
        );
        (sizes, choices).prop_map(|(sizes, choices)| {
            let (batch, time, groups, per_group, key_dim, value_dim) = sizes;
            let (decay, bonus, step, skip, layout, seed) = choices;
            let dims = Dims {
                batch,
                time,
                heads: groups * per_group,
                groups,
                key_dim,
                value_dim,
            };
            Case {
                dims,
                decay,
                bonus,
                step,
                skip,
                layout,
                seed,
            }
        })
    }

    /// Reproducible values in [−1, 1) (splitmix64).
    struct Values(u64);

    impl Values {
        fn next(&mut self) -> f32 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        }

        fn list(&mut self, len: usize) -> Vec<f32> {
            (0..len).map(|_| self.next()).collect()
        }
    }

    /// All values of a case as plain lists, and the sequences that it is made of.
    #[derive(Clone)]
    struct Data {
        problem: kernel::Problem,
        sequences: Sequences,
        /// Rows of the token tensors, `[batch of tensors, time]`.
        tokens: [usize; 2],
        query: Vec<f32>,
        key: Vec<f32>,
        value: Vec<f32>,
        log_decay: Vec<f32>,
        step_size: Option<Vec<f32>>,
        bonus: Option<Vec<f32>>,
        skip: Option<Vec<f32>>,
        state: Vec<f32>,
        output_cotangent: Vec<f32>,
        state_cotangent: Vec<f32>,
    }

    const SCALE: f32 = 0.5;

    impl Data {
        fn new(case: &Case) -> Self {
            let d = case.dims;
            let (sequences, tokens, time) = match case.layout {
                Layout::Equal => (Sequences::Equal, [d.batch, d.time], d.time),
                Layout::LeftPadded => {
                    let padding: Vec<usize> = (0..d.batch).map(|b| d.time * b / 3).collect();
                    (Sequences::left_padded(padding), [d.batch, d.time], d.time)
                }
                Layout::Packed => {
                    // Sequences of different lengths, the first of them empty.
                    let offsets: Vec<usize> = (0..=d.batch).map(|b| d.time * (b * b / 2)).collect();
                    let rows = offsets[d.batch];
                    (Sequences::packed(offsets), [1, rows], rows)
                }
            };
            let problem = kernel::Problem {
                batch: d.batch,
                time,
                heads: d.heads,
                groups: d.groups,
                key_dim: d.key_dim,
                value_dim: d.value_dim,
                decay: case.decay,
                read_out: match case.bonus {
                    true => kernel::ReadOut::Bonus,
                    false => kernel::ReadOut::Inclusive,
                },
            };
            let rows = tokens[0] * tokens[1];
            let per_token = d.heads * case.decay.values_per_head(d.key_dim);
            let decays = match case.decay {
                kernel::DecayKind::PerHeadToken | kernel::DecayKind::PerKeyToken => rows * per_token,
                _ => per_token,
            };
            let mut v = Values(case.seed);
            let states = d.batch * d.heads * d.key_dim * d.value_dim;
            Self {
                problem,
                sequences,
                tokens,
                query: v.list(rows * d.groups * d.key_dim),
                key: v.list(rows * d.groups * d.key_dim),
                value: v.list(rows * d.heads * d.value_dim),
                log_decay: v.list(decays).iter().map(|a| -0.7 * a.abs()).collect(),
                step_size: case
                    .step
                    .then(|| v.list(rows * d.heads).iter().map(|s| s.abs()).collect()),
                bonus: case.bonus.then(|| v.list(d.heads * d.key_dim)),
                skip: match case.skip {
                    Skip::None => None,
                    Skip::PerHead => Some(v.list(d.heads)),
                    Skip::PerValue => Some(v.list(d.heads * d.value_dim)),
                },
                state: v.list(states),
                output_cotangent: v.list(rows * d.heads * d.value_dim),
                state_cotangent: v.list(states),
            }
        }

        /// Sums of the sizes of the terms of every gradient, in the order of [`NAMES`]: the gradients with nothing negative to
        /// cancel.
        fn terms(&self) -> Vec<Option<Vec<f64>>> {
            let absolute = |values: &[f32]| values.iter().map(|v| v.abs()).collect::<Vec<f32>>();
            let positive = Self {
                query: absolute(&self.query),
                key: absolute(&self.key),
                value: absolute(&self.value),
                bonus: self.bonus.as_deref().map(absolute),
                skip: self.skip.as_deref().map(absolute),
                state: absolute(&self.state),
                output_cotangent: absolute(&self.output_cotangent),
                state_cotangent: absolute(&self.state_cotangent),
                ..self.clone()
            };
            positive.reference()
        }

        /// Gradients by the f64 definition, in the order of [`NAMES`].
        fn reference(&self) -> Vec<Option<Vec<f64>>> {
            let p = &self.problem;
            let rows = self.tokens[0] * self.tokens[1];
            let view = |data, cols| Rows::contiguous(data, rows, cols).expect("a full buffer");
            let view_of_sequences = match &self.sequences {
                Sequences::Equal => kernel_dsl::Sequences::Equal,
                Sequences::LeftPadded(padding) => kernel_dsl::Sequences::LeftPadded(padding),
                Sequences::Packed(offsets) => kernel_dsl::Sequences::Packed(offsets),
            };
            let inputs = kernel::Inputs {
                query: view(&self.query, p.groups * p.key_dim),
                key: view(&self.key, p.groups * p.key_dim),
                value: view(&self.value, p.heads * p.value_dim),
                log_decay: match p.decay {
                    kernel::DecayKind::None => kernel::LogDecay::None,
                    kernel::DecayKind::PerHead | kernel::DecayKind::PerKey => {
                        kernel::LogDecay::Constant(&self.log_decay)
                    }
                    kind => kernel::LogDecay::Token(view(
                        &self.log_decay,
                        p.heads * kind.values_per_head(p.key_dim),
                    )),
                },
                step_size: self.step_size.as_ref().map(|step| view(step, p.heads)),
                bonus: self.bonus.as_deref(),
                skip: self.skip.as_deref(),
                scale: SCALE,
                sequences: view_of_sequences,
            };
            let cotangents = Cotangents {
                out: view(&self.output_cotangent, p.heads * p.value_dim),
                state: Some(&self.state_cotangent),
            };
            let state: Vec<f64> = self.state.iter().map(|&h| f64::from(h)).collect();
            let mut found = GradientBuffers::<f64>::zeros(p, &inputs).expect("shapes that fit");
            kernel::reference::backward(p, &inputs, &state, &cotangents, &mut found.as_gradients())
                .expect("shapes that fit");
            vec![
                Some(found.query),
                Some(found.key),
                Some(found.value),
                found.log_decay,
                found.step_size,
                found.bonus,
                found.skip,
                Some(found.state),
            ]
        }
    }

    const NAMES: [&str; 8] = [
        "query",
        "key",
        "value",
        "log_decay",
        "step_size",
        "bonus",
        "skip",
        "state",
    ];

    /// The tensors of a case as leaves on a device.
    struct Leaves {
        leaves: Vec<Option<Tensor<1>>>,
        gates: Gates,
        state: State,
    }

    /// A leaf in its shape; an empty tensor where there are no values, because Burn's reshape reads 0 as "as it was".
    fn shaped<const D: usize>(flat: Option<Tensor<1>>, shape: [usize; D], device: &Device) -> Tensor<D> {
        flat.map_or_else(|| tensor(&[], shape, device), |flat| flat.reshape(shape))
    }

    impl Leaves {
        /// `twice` puts a cheap operation in front of every input: 2x of x/2, which checkpointing may recompute.
        fn new(data: &Data, device: &Device, twice: bool) -> Self {
            let p = &data.problem;
            let [batch, time] = data.tokens;
            let leaf = |values: &[f32]| {
                Some(tensor(values, [values.len()], device).require_grad()).filter(|_| !values.is_empty())
            };
            let optional = |values: &Option<Vec<f32>>| values.as_ref().and_then(|values| leaf(values));
            let leaves = vec![
                leaf(&data.query),
                leaf(&data.key),
                leaf(&data.value),
                leaf(&data.log_decay),
                optional(&data.step_size),
                optional(&data.bonus),
                optional(&data.skip),
                leaf(&data.state),
            ];
            let flat = |index: usize| -> Option<Tensor<1>> {
                let leaf = leaves[index].clone()?;
                Some(match twice {
                    true => leaf.mul_scalar(0.5).exp().log().mul_scalar(2.0),
                    false => leaf,
                })
            };
            let matrix = |index, shape| shaped::<2>(flat(index), shape, device);
            let cube = |index, shape| shaped::<3>(flat(index), shape, device);
            let tokens = |index, shape| shaped::<4>(flat(index), shape, device);
            let vector = |index| flat(index).unwrap_or_else(|| Tensor::zeros([0], device));
            let gates = Gates {
                query: tokens(0, [batch, time, p.groups, p.key_dim]),
                key: tokens(1, [batch, time, p.groups, p.key_dim]),
                value: tokens(2, [batch, time, p.heads, p.value_dim]),
                log_decay: match p.decay {
                    kernel::DecayKind::None => LogDecay::None,
                    kernel::DecayKind::PerHead => LogDecay::PerHead(vector(3)),
                    kernel::DecayKind::PerKey => LogDecay::PerKey(matrix(3, [p.heads, p.key_dim])),
                    kernel::DecayKind::PerHeadToken => {
                        LogDecay::PerHeadToken(cube(3, [batch, time, p.heads]))
                    }
                    kernel::DecayKind::PerKeyToken => {
                        LogDecay::PerKeyToken(tokens(3, [batch, time, p.heads, p.key_dim]))
                    }
                },
                step_size: data.step_size.is_some().then(|| cube(4, [batch, time, p.heads])),
                erase: ssm_core::Erase::None,
                read_out: match data.bonus.is_some() {
                    true => ReadOut::Bonus(matrix(5, [p.heads, p.key_dim])),
                    false => ReadOut::Inclusive,
                },
                skip: data.skip.is_some().then(|| vector(6)),
                scale: SCALE,
            };
            let memory = tokens(7, [p.batch, p.heads, p.key_dim, p.value_dim]);
            Self {
                leaves,
                gates,
                state: State { memory, position: 0 },
            }
        }

        fn gradients(&self, gradients: &Gradients) -> Vec<Option<Vec<f32>>> {
            self.leaves
                .iter()
                .map(|leaf| Some(values(leaf.as_ref()?.grad(gradients)?)))
                .collect()
        }
    }

    /// ⟨cotangents, outputs⟩, whose gradient is the backward pass under test.
    fn loss(data: &Data, output: Tensor<4>, state: &State) -> Tensor<1> {
        let device = output.device();
        let memory = state.memory.clone();
        let of_state = memory.clone() * tensor(&data.state_cotangent, memory.dims(), &device);
        // Burn's fusion gives a kernel the shape of an empty tensor among its operations, and then computes none of them: no
        // arithmetic on an output without values.
        match output.shape().num_elements() {
            0 => of_state.sum(),
            _ => {
                (output.clone() * tensor(&data.output_cotangent, output.dims(), &device)).sum()
                    + of_state.sum()
            }
        }
    }

    fn gradients_on(data: &Data, device: &Device, form: Form, twice: bool) -> Vec<Option<Vec<f32>>> {
        let mut leaves = Leaves::new(data, device, twice);
        let output = recurrence_of_sequences(leaves.gates.clone(), &data.sequences, &mut leaves.state, form)
            .expect("shapes that fit");
        let gradients = loss(data, output, &leaves.state).backward();
        leaves.gradients(&gradients)
    }

    /// ‖found − expected‖ / ‖terms‖; infinite for NaN. What rounding leaves is small beside the terms of a sum, however much of
    /// them cancels.
    fn error(found: &[f32], expected: &[f64], terms: &[f64]) -> f64 {
        assert_eq!(found.len(), expected.len(), "numbers of values");
        let off: f64 = found
            .iter()
            .zip(expected)
            .map(|(&f, &e)| (f64::from(f) - e).powi(2))
            .sum();
        let terms: f64 = terms.iter().map(|term| term * term).sum();
        match off {
            // Nothing but zeros, as a decay's gradient without tokens.
            0.0 => 0.0,
            _ if off.is_finite() => (off / terms).sqrt(),
            _ => f64::INFINITY,
        }
    }

    fn check(
        name: &str,
        data: &Data,
        found: &[Option<Vec<f32>>],
        expected: &[Option<Vec<f64>>],
        bound: f64,
    ) -> Result<(), TestCaseError> {
        for (index, terms) in data.terms().iter().enumerate() {
            // Without tokens an input is an empty tensor, which is no leaf here.
            let Some(expected) = expected[index].as_ref().filter(|expected| !expected.is_empty()) else {
                continue;
            };
            let terms = terms.as_ref().expect("a gradient has terms");
            let zeros = vec![0.0; expected.len()];
            let off = error(found[index].as_deref().unwrap_or(&zeros), expected, terms);
            let input = NAMES[index];
            prop_assert!(off <= bound, "gradient of {input} by {name} is off by {off:.1e}");
        }
        Ok(())
    }

    fn f64s(gradients: Vec<Option<Vec<f32>>>) -> Vec<Option<Vec<f64>>> {
        let widen = |values: Vec<f32>| values.into_iter().map(f64::from).collect();
        gradients.into_iter().map(|values| values.map(widen)).collect()
    }

    /// The largest of 47,000 gradients was off by 1.6e-6 of its terms.
    const BOUND: f64 = 5e-6;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn autodiff_gives_the_gradients_of_the_definition(case in case(40), chunk_size in 1..20usize) {
            let data = Data::new(&case);
            let expected = data.reference();
            let device = Device::flex().autodiff();
            for form in [Form::Auto, Form::Sequential, Form::Chunked { chunk_size }] {
                let found = gradients_on(&data, &device, form, false);
                check(&format!("{form:?}"), &data, &found, &expected, BOUND)?;
            }
        }

        #[test]
        fn checkpointing_changes_no_gradient(case in case(20)) {
            let data = Data::new(&case);
            let plain = Device::flex().autodiff();
            let balanced = Device::flex().autodiff().gradient_checkpointing();
            let found = gradients_on(&data, &plain, Form::Auto, true);
            prop_assert_eq!(&gradients_on(&data, &balanced, Form::Auto, true), &found);
            check("recomputed inputs", &data, &found, &data.reference(), 10.0 * BOUND)?;
        }

        #[test]
        fn segments_chained_by_their_states_have_the_gradients_of_the_whole(
            case in case(40),
            cut in 0.0..=1.0f64,
        ) {
            let data = Data::new(&Case { layout: Layout::Equal, ..case });
            let device = Device::flex().autodiff();
            let whole = gradients_on(&data, &device, Form::Auto, false);
            let mut leaves = Leaves::new(&data, &device, false);
            let time = data.problem.time;
            let cut = (time as f64 * cut) as usize;
            let (gates, state) = (leaves.gates.clone(), &mut leaves.state);
            let parts = [gates.slice(0..cut), gates.slice(cut..time)].map(|part| {
                recurrence(part.expect("a range inside"), state, Form::Auto).expect("shapes that fit")
            });
            let output = match time {
                0 => parts[0].clone(),
                _ => Tensor::cat(parts.into_iter().filter(|part| part.dims()[1] > 0).collect(), 1),
            };
            let gradients = loss(&data, output, &leaves.state).backward();
            let found = leaves.gradients(&gradients);
            // Both are f32 sums within the bound of the definition, in different orders.
            check("segments", &data, &found, &f64s(whole), 2.0 * BOUND)?;
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_adapter_gives_the_gradients_of_the_definition(case in case(24)) {
            let data = Data::new(&case);
            let expected = data.reference();
            for (name, device) in adapters() {
                let found = gradients_on(&data, &device.autodiff(), Form::Auto, false);
                check(&name, &data, &found, &expected, 10.0 * BOUND)?;
            }
        }
    }

    /// Without tokens the state is its own gradient's only way, beside an output that has no values: Burn's fusion once took
    /// the empty output's cotangent into one kernel with the state's, and computed neither.
    #[test]
    fn without_tokens_the_cotangent_of_the_state_comes_back_as_it_is() {
        for (batch, value_dim) in [(1, 1), (1, 2), (2, 1), (2, 3)] {
            for decay in DECAYS {
                let data = Data::new(&Case {
                    dims: Dims {
                        batch,
                        time: 0,
                        heads: 1,
                        groups: 1,
                        key_dim: 1,
                        value_dim,
                    },
                    decay,
                    bonus: false,
                    step: false,
                    skip: Skip::None,
                    layout: Layout::Equal,
                    seed: 816_381,
                });
                for (name, device) in devices() {
                    let found = gradients_on(&data, &device.autodiff(), Form::Auto, false);
                    assert_eq!(
                        found[7].as_ref(),
                        Some(&data.state_cotangent),
                        "{decay:?} on {name}"
                    );
                }
            }
        }
    }

    fn example() -> Data {
        Data::new(&Case {
            dims: Dims {
                batch: 2,
                time: 7,
                heads: 2,
                groups: 1,
                key_dim: 3,
                value_dim: 4,
            },
            decay: kernel::DecayKind::PerHeadToken,
            bonus: false,
            step: true,
            skip: Skip::PerHead,
            layout: Layout::Equal,
            seed: 7,
        })
    }

    #[test]
    fn a_loss_of_the_final_state_alone_reaches_every_input_that_it_depends_on() {
        let mut data = example();
        data.output_cotangent.fill(0.0);
        let expected = data.reference();
        let device = Device::flex().autodiff();
        let mut leaves = Leaves::new(&data, &device, false);
        recurrence(leaves.gates.clone(), &mut leaves.state, Form::Auto).expect("shapes that fit");
        let memory = leaves.state.memory.clone();
        let cotangent = tensor(&data.state_cotangent, memory.dims(), &device);
        let gradients = (memory * cotangent).sum().backward();
        let found = leaves.gradients(&gradients);
        check("the state alone", &data, &found, &expected, BOUND).expect("the definition's gradients");
        assert!(found[1].is_some() && found[7].is_some());
    }

    #[test]
    fn a_loss_of_the_output_alone_takes_the_state_for_free() {
        let mut data = example();
        data.state_cotangent.fill(0.0);
        let expected = data.reference();
        let device = Device::flex().autodiff();
        let mut leaves = Leaves::new(&data, &device, false);
        let output =
            recurrence(leaves.gates.clone(), &mut leaves.state, Form::Auto).expect("shapes that fit");
        let cotangent = tensor(&data.output_cotangent, output.dims(), &device);
        let gradients = (output * cotangent).sum().backward();
        let found = leaves.gradients(&gradients);
        check("the output alone", &data, &found, &expected, BOUND).expect("the definition's gradients");
    }

    #[test]
    fn a_detached_state_lets_no_gradient_through() {
        let data = example();
        let device = Device::flex().autodiff();
        let leaves = Leaves::new(&data, &device, false);
        let mut state = leaves.state.clone().detach();
        let output = recurrence(leaves.gates.clone(), &mut state, Form::Auto).expect("shapes that fit");
        let gradients = output.sum().backward();
        let found = leaves.gradients(&gradients);
        assert!(found[7].is_none(), "the initial state must have no gradient");
        assert!(found[0].is_some(), "the query must have one");
    }

    #[test]
    fn constants_of_the_inner_device_need_no_gradient() {
        let data = example();
        let device = Device::flex().autodiff();
        let leaves = Leaves::new(&data, &device, false);
        let gates = Gates {
            key: leaves.gates.key.clone().inner(),
            ..leaves.gates.clone()
        };
        let mut state = State::zeros(&gates.dims(), &Device::flex());
        let output = recurrence(gates, &mut state, Form::Auto).expect("shapes that fit");
        let found = leaves.gradients(&output.sum().backward());
        assert!(found[1].is_none() && found[0].is_some());
        assert!(
            state.memory.device().is_autodiff(),
            "the state went through the graph"
        );
    }

    #[test]
    fn half_precision_inputs_give_gradients_of_their_own_type() {
        use burn::tensor::DType;
        let data = example();
        let expected = data.reference();
        let device = Device::flex().autodiff();
        let leaves = Leaves::new(&data, &device, false);
        let half = |x: Tensor<4>| x.cast(DType::BF16);
        let gates = Gates {
            query: half(leaves.gates.query.clone()),
            key: half(leaves.gates.key.clone()),
            value: half(leaves.gates.value.clone()),
            ..leaves.gates.clone()
        };
        let mut state = leaves.state.clone();
        let output = recurrence(gates, &mut state, Form::Auto).expect("types that go together");
        assert_eq!(output.dtype(), DType::BF16);
        assert_eq!(state.memory.dtype(), DType::F32);
        let gradients = loss(&data, output.cast(DType::F32), &state).backward();
        check("bf16", &data, &leaves.gradients(&gradients), &expected, 2e-2)
            .expect("gradients close to f64's");
    }
}
