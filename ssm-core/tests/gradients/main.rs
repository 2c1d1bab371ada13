//! Gradients of the recurrence through Burn's autodiff: those of the f64 definition, on every device and by every path.

mod case;
#[path = "../support/mod.rs"]
mod devices;
#[path = "../support/random.rs"]
mod random;

mod equivalence {
    use super::case::{Case, DECAYS, Data, Layout, NAMES, SCALE, Skip, case};
    use super::devices::{adapters, devices, tensor, values};
    use burn::tensor::{Device, Gradients, Tensor};
    use proptest::prelude::*;
    use spillway_ssm_core::{
        Chunking, Dims, Gates, LogDecay, ReadOut, State, recurrence, recurrence_of_sequences,
    };

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
                    spillway_kernel_dsl::DecayKind::None => LogDecay::None,
                    spillway_kernel_dsl::DecayKind::PerHead => LogDecay::PerHead(vector(3)),
                    spillway_kernel_dsl::DecayKind::PerKey => {
                        LogDecay::PerKey(matrix(3, [p.heads, p.key_dim]))
                    }
                    spillway_kernel_dsl::DecayKind::PerHeadToken => {
                        LogDecay::PerHeadToken(cube(3, [batch, time, p.heads]))
                    }
                    spillway_kernel_dsl::DecayKind::PerKeyToken => {
                        LogDecay::PerKeyToken(tokens(3, [batch, time, p.heads, p.key_dim]))
                    }
                },
                step_size: data.step_size.is_some().then(|| cube(4, [batch, time, p.heads])),
                erase: spillway_ssm_core::Erase::None,
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

    fn gradients_on(data: &Data, device: &Device, chunking: Chunking, twice: bool) -> Vec<Option<Vec<f32>>> {
        let mut leaves = Leaves::new(data, device, twice);
        let output =
            recurrence_of_sequences(leaves.gates.clone(), &data.sequences, &mut leaves.state, chunking)
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
            for chunking in [Chunking::Fastest, Chunking::Sequential, Chunking::Chunked { chunk_size }] {
                let found = gradients_on(&data, &device, chunking, false);
                check(&format!("{chunking:?}"), &data, &found, &expected, BOUND)?;
            }
        }

        #[test]
        fn checkpointing_changes_no_gradient(case in case(20)) {
            let data = Data::new(&case);
            let plain = Device::flex().autodiff();
            let balanced = Device::flex().autodiff().gradient_checkpointing();
            let found = gradients_on(&data, &plain, Chunking::Fastest, true);
            prop_assert_eq!(&gradients_on(&data, &balanced, Chunking::Fastest, true), &found);
            check("recomputed inputs", &data, &found, &data.reference(), 10.0 * BOUND)?;
        }

        #[test]
        fn segments_chained_by_their_states_have_the_gradients_of_the_whole(
            case in case(40),
            cut in 0.0..=1.0f64,
        ) {
            let data = Data::new(&Case { layout: Layout::Equal, ..case });
            let device = Device::flex().autodiff();
            let whole = gradients_on(&data, &device, Chunking::Fastest, false);
            let mut leaves = Leaves::new(&data, &device, false);
            let time = data.problem.time;
            let cut = (time as f64 * cut) as usize;
            let (gates, state) = (leaves.gates.clone(), &mut leaves.state);
            let parts = [gates.slice(0..cut), gates.slice(cut..time)].map(|part| {
                recurrence(part.expect("a range inside"), state, Chunking::Fastest).expect("shapes that fit")
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
                let found = gradients_on(&data, &device.autodiff(), Chunking::Fastest, false);
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
                    let found = gradients_on(&data, &device.autodiff(), Chunking::Fastest, false);
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
            decay: spillway_kernel_dsl::DecayKind::PerHeadToken,
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
        recurrence(leaves.gates.clone(), &mut leaves.state, Chunking::Fastest).expect("shapes that fit");
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
            recurrence(leaves.gates.clone(), &mut leaves.state, Chunking::Fastest).expect("shapes that fit");
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
        let output =
            recurrence(leaves.gates.clone(), &mut state, Chunking::Fastest).expect("shapes that fit");
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
        let output = recurrence(gates, &mut state, Chunking::Fastest).expect("shapes that fit");
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
        let output = recurrence(gates, &mut state, Chunking::Fastest).expect("types that go together");
        assert_eq!(output.dtype(), DType::BF16);
        assert_eq!(state.memory.dtype(), DType::F32);
        let gradients = loss(&data, output.cast(DType::F32), &state).backward();
        check("bf16", &data, &leaves.gradients(&gradients), &expected, 2e-2)
            .expect("gradients close to f64's");
    }
}
