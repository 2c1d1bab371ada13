//! Rotary embedding: host and devices against the definition, and all against other people's software.

use crate::{device, layouts, support};

mod equivalence {
    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use spillway_kernel_dsl::Rows;
    use spillway_kernel_dsl::cube::DType;
    use spillway_kernel_dsl::rotary::cube::DeviceAngles;
    use spillway_kernel_dsl::rotary::{self, Pairing, Positions, Problem, RotaryError};

    use super::device::{clients, download, upload_rows};
    use super::layouts::{Layout, any_layout};
    use super::support::differences::{compare, inner};
    use super::support::relative_error;

    /// Allowed relative error.
    const TOLERANCE: f64 = 5e-7;

    fn config(cases: u32) -> ProptestConfig {
        ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(crate::support::property_cases(cases))
        }
    }

    #[derive(Clone, Debug)]
    struct Turn {
        problem: Problem,
        layout: Layout,
        first: Option<Vec<usize>>,
        rows: usize,
        gap: usize,
        x: Vec<f32>,
    }

    impl Turn {
        fn positions(&self) -> Positions<'_> {
            Positions {
                sequences: self.layout.sequences(),
                first: self.first.as_deref(),
            }
        }

        fn input(&self) -> Rows<'_> {
            let cols = self.problem.heads * self.problem.head_dim;
            Rows::new(&self.x, self.rows, cols, cols + self.gap).expect("whole rows")
        }

        /// Output, and the gradient by an input for which the input serves as cotangent.
        fn expected(&self) -> [Vec<f64>; 2] {
            let (positions, input) = (self.positions(), self.input());
            [
                rotary::reference::rotary(&self.problem, &positions, input).expect("valid"),
                rotary::reference::backward(&self.problem, &positions, input).expect("valid"),
            ]
        }

        fn len(&self) -> usize {
            self.rows * self.problem.heads * self.problem.head_dim
        }
    }

    fn any_turn(time: usize) -> impl Strategy<Value = Turn> {
        let shape = (0..4_usize, 0..time, 1..4_usize, 0..20_usize, 0..4_usize);
        let rest = (any::<[bool; 2]>(), 0..4_usize, any::<u64>());
        (shape, rest)
            .prop_flat_map(|(shape, rest)| (Just(shape), Just(rest), any_layout(shape.0, shape.1)))
            .prop_map(
                |((batch, time, heads, pairs, others), ([halves, later], gap, seed), layout)| {
                    let problem = Problem {
                        batch,
                        time: layout.time(time),
                        heads,
                        head_dim: 2 * pairs + others,
                        rotary_dim: 2 * pairs,
                        pairing: if halves {
                            Pairing::Halves
                        } else {
                            Pairing::Interleaved
                        },
                        base: 10_000.0,
                    };
                    let rows = layout.sequences().rows(batch, problem.time);
                    let mut rng = StdRng::seed_from_u64(seed);
                    let cols = heads * problem.head_dim + gap;
                    Turn {
                        problem,
                        layout,
                        first: later.then(|| (0..batch).map(|_| rng.random_range(0..2_000_000)).collect()),
                        rows,
                        gap,
                        x: (0..rows * cols).map(|_| rng.random_range(-2.0..2.0)).collect(),
                    }
                },
            )
    }

    proptest! {
        #![proptest_config(config(200))]

        #[test]
        fn rotation_equals_its_definition(case in any_turn(150)) {
            let [out, gradient] = case.expected();
            let mut found = vec![f32::NAN; case.len()];
            rotary::rotary(&case.problem, &case.positions(), case.input(), &mut found).expect("valid");
            let error = relative_error(&found, &out);
            prop_assert!(error <= TOLERANCE, "off by {:e}", error);
            rotary::backward(&case.problem, &case.positions(), case.input(), &mut found).expect("valid");
            let error = relative_error(&found, &gradient);
            prop_assert!(error <= TOLERANCE, "off by {:e}", error);
        }

        #[test]
        fn the_gradient_of_a_rotation_is_that_of_its_definition(case in any_turn(5), seed in any::<u64>()) {
            let case = Turn { gap: 0, x: case.x[..case.len()].to_vec(), ..case };
            let mut rng = StdRng::seed_from_u64(seed);
            let cotangent: Vec<f32> = (0..case.len()).map(|_| rng.random_range(-1.0..1.0)).collect();
            let by_out = Turn { x: cotangent.clone(), ..case.clone() };
            let [_, gradient] = by_out.expected();
            let result = compare("the input", &case.x, &gradient, |x| {
                inner(&cotangent, &Turn { x: x.to_vec(), ..case.clone() }.expected()[0])
            });
            result.map_err(TestCaseError::fail)?;
        }

        #[test]
        fn turning_back_undoes_a_turn(case in any_turn(40)) {
            let mut turned = vec![f32::NAN; case.len()];
            rotary::rotary(&case.problem, &case.positions(), case.input(), &mut turned).expect("valid");
            let cols = case.problem.heads * case.problem.head_dim;
            let view = Rows::contiguous(&turned, case.rows, cols).expect("whole rows");
            let mut back = vec![f32::NAN; case.len()];
            rotary::backward(&case.problem, &case.positions(), view, &mut back).expect("valid");
            let sequences = case.layout.sequences();
            for b in 0..case.problem.batch {
                for row in sequences.span(b, case.problem.time) {
                    let wide: Vec<f64> = case.input().row(row).iter().map(|&x| f64::from(x)).collect();
                    let error = relative_error(&back[row * cols..(row + 1) * cols], &wide);
                    prop_assert!(error <= TOLERANCE, "row {} is off by {:e}", row, error);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(config(20))]

        #[test]
        fn rotation_on_devices_equals_its_definition(case in any_turn(40)) {
            let [out, gradient] = case.expected();
            for (name, client) in clients() {
                let angles = DeviceAngles::new(client, &case.problem, &case.positions()).expect("valid");
                let input = upload_rows(client, &case.input(), DType::F32);
                let found = rotary::cube::rotary(client, &angles, &input).expect("valid");
                let error = relative_error(&download(client, &found), &out);
                prop_assert!(error <= TOLERANCE, "output on {} is off by {:e}", name, error);
                let found = rotary::cube::backward(client, &angles, &input).expect("valid");
                let error = relative_error(&download(client, &found), &gradient);
                prop_assert!(error <= TOLERANCE, "gradient on {} is off by {:e}", name, error);
            }
        }
    }

    #[test]
    fn wrong_shapes_are_named() {
        let problem = Problem {
            batch: 1,
            time: 2,
            heads: 1,
            head_dim: 4,
            rotary_dim: 3,
            pairing: Pairing::Halves,
            base: 10_000.0,
        };
        let run = |problem: &Problem, first: &[usize]| {
            let positions = Positions {
                first: Some(first),
                ..Positions::default()
            };
            let view = Rows::contiguous(&[0.0; 8], 2, 4).expect("whole rows");
            rotary::rotary(problem, &positions, view, &mut [0.0; 8])
        };
        let (head_dim, found) = (4, 3);
        assert_eq!(run(&problem, &[0]), Err(RotaryError::Dim { head_dim, found }));
        let problem = Problem {
            rotary_dim: 4,
            ..problem
        };
        assert_eq!(
            run(&problem, &[0, 0])
                .expect_err("two positions of one sequence")
                .to_string(),
            "rotary embedding: first positions needs 1 values, found 2 values"
        );
        let backwards = Problem {
            base: -1.0,
            ..problem
        };
        assert_eq!(run(&backwards, &[0]), Err(RotaryError::Base(-1.0)));
        let longer = Problem { time: 3, ..problem };
        let error = run(&longer, &[0])
            .expect_err("two rows are not three")
            .to_string();
        assert!(
            error.contains("needs 3 rows of 4 values, found 2 rows of 4 values"),
            "{error}"
        );
    }
}

mod golden {
    use spillway_kernel_dsl::Rows;
    use spillway_kernel_dsl::rotary::{Pairing, Positions, Problem, backward, rotary};

    use super::support::cases;

    #[test]
    fn rotary_embedding_agrees() {
        for case in cases("rotary") {
            let (batch, time, heads, head_dim) = (case.dim("B"), case.dim("T"), case.dim("H"), case.dim("D"));
            let problem = Problem {
                batch,
                time,
                heads,
                head_dim,
                rotary_dim: head_dim,
                pairing: if case.scalar("interleaved") == 0.0 {
                    Pairing::Halves
                } else {
                    Pairing::Interleaved
                },
                base: case.scalar("base"),
            };
            let first = vec![case.scalar("offset") as usize; batch];
            let positions = Positions {
                first: Some(&first),
                ..Positions::default()
            };
            let view = |values| Rows::contiguous(values, batch * time, heads * head_dim).expect("whole rows");
            let mut found = vec![f32::NAN; case.input("x").len()];
            rotary(&problem, &positions, view(case.input("x")), &mut found).expect("valid");
            case.check("rotary", "out", &found);
            backward(&problem, &positions, view(case.cotangent("out")), &mut found).expect("valid");
            case.check_gradient("rotary", "x", &found);
        }
    }
}
