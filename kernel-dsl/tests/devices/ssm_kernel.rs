//! Kernels of state spaces on devices: Vandermonde kernels are the definition; Cauchy kernels those of the CPU, which computes them.

use crate::{device, ssm_kernel, support};

mod equivalence {
    use proptest::prelude::*;
    use spillway_kernel_dsl::cauchy;
    use spillway_kernel_dsl::cube::{Client, DType, DeviceBuffer, Error};
    use spillway_kernel_dsl::vandermonde::{self, Discretization};

    use super::device::{clients, download, upload, upload_rows};
    use super::ssm_kernel::{Diagonal, LowRank, ON_DEVICES, any_diagonal};
    use super::support;

    fn same(what: &str, client: &Client, found: &DeviceBuffer, expected: &[f32]) {
        assert_eq!(download(client, found), expected, "{what}");
    }

    /// On a device against the definition, forward and backward.
    fn check(client: &Client, system: &Diagonal) -> Result<(), String> {
        let inputs = system.inputs().map(
            |_, rows| upload_rows(client, &rows, DType::F32),
            |_, values| upload(client, values),
        );
        let cotangents = system.cotangents().map(
            |_, rows| rows.map(|rows| upload_rows(client, &rows, DType::F32)),
            |_, values| values.map(|values| upload(client, values)),
        );
        let download = |buffer: &DeviceBuffer| download(client, buffer);
        let found = vandermonde::cube::kernel(client, &system.problem, &inputs).expect("valid");
        let found = found
            .as_ref()
            .map(|_, rows| download(rows), |_, values| download(values));
        system.check_results(&found, ON_DEVICES)?;
        let found =
            vandermonde::cube::backward(client, &system.problem, &inputs, &cotangents).expect("valid");
        let found = found
            .as_ref()
            .map(|_, rows| download(rows), |_, values| download(values));
        system.check_gradients(&found, ON_DEVICES)
    }

    #[test]
    fn vandermonde_kernels_of_several_parts_are_the_definition() {
        for (adapter, client) in clients() {
            for discretization in [
                Discretization::ZeroOrderHold,
                Discretization::Bilinear,
                Discretization::ExponentialEuler,
            ] {
                let mut system = Diagonal::large();
                system.problem.discretization = discretization;
                check(client, &system)
                    .unwrap_or_else(|error| panic!("{adapter}, {discretization:?}: {error}"));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(support::property_cases(12))
        })]

        #[test]
        fn vandermonde_kernels_are_the_definition(system in any_diagonal(80, 6)) {
            for (_, client) in clients() {
                check(client, &system).map_err(TestCaseError::fail)?;
            }
        }
    }

    #[test]
    fn kernels_whose_phases_need_f64_are_those_of_the_cpu() {
        let problem = vandermonde::Problem {
            channels: 1,
            modes: 1,
            copies: 1,
            readouts: 1,
            batch: 0,
            length: (1 << 20) + 1,
            discretization: Discretization::ZeroOrderHold,
            mode_set: vandermonde::ModeSet::ConjugatePairs,
            steps: vandermonde::Steps::PerChannel,
        };
        let system = Diagonal::new(problem, 3);
        let (results, gradients) = (system.run(), system.pull_back());
        for (_, client) in clients() {
            let inputs = system.inputs().map(
                |_, rows| upload_rows(client, &rows, DType::F32),
                |_, values| upload(client, values),
            );
            let cotangents = vandermonde::DeviceCotangents {
                kernel: system
                    .cotangents()
                    .kernel
                    .map(|rows| upload_rows(client, &rows, DType::F32)),
                state_kernel: None,
                next_state: None,
            };
            let found = vandermonde::cube::kernel(client, &system.problem, &inputs).expect("valid");
            same("the kernel", client, &found.kernel, &results.kernel);
            let found =
                vandermonde::cube::backward(client, &system.problem, &inputs, &cotangents).expect("valid");
            same("the gradient of A", client, &found.a, &gradients.a);
            same("the gradient of C", client, &found.c, &gradients.c);
        }
    }

    #[test]
    fn vandermonde_kernels_of_other_shapes_are_refused() {
        let system = Diagonal::large();
        for (_, client) in clients() {
            let inputs = system.inputs().map(
                |_, rows| upload_rows(client, &rows, DType::F32),
                |_, values| upload(client, values),
            );
            let problem = vandermonde::Problem {
                modes: system.problem.modes + 1,
                ..system.problem
            };
            let error = vandermonde::cube::kernel(client, &problem, &inputs).expect_err("other shapes");
            assert!(matches!(error, Error::Shape(_)), "{error}");
        }
    }

    #[test]
    fn cauchy_kernels_are_those_of_the_cpu() {
        let system = LowRank::large();
        let (results, gradients) = (system.run(), system.pull_back());
        for (_, client) in clients() {
            let inputs = system.inputs().map(
                |_, rows| upload_rows(client, &rows, DType::F32),
                |_, values| upload(client, values),
            );
            let cotangents = system
                .cotangents()
                .map(|_, rows| rows.map(|rows| upload_rows(client, &rows, DType::F32)));
            let found = cauchy::cube::kernel(client, &system.problem, &inputs).expect("valid");
            same("the kernel", client, &found.kernel, &results.kernel);
            same("the response", client, &found.state_kernel, &results.state_kernel);
            let found = cauchy::cube::backward(client, &system.problem, &inputs, &cotangents).expect("valid");
            same("the gradient of the step", client, &found.step, &gradients.step);
            same("the gradient of A", client, &found.a, &gradients.a);
            same("the gradient of B", client, &found.b, &gradients.b);
            same("the gradient of P", client, &found.p, &gradients.p);
            same("the gradient of C̃", client, &found.c, &gradients.c);
            same(
                "the gradient of the state",
                client,
                &found.state,
                &gradients.state,
            );

            let problem = cauchy::Problem {
                nodes: 1,
                ..system.problem
            };
            let error =
                cauchy::cube::kernel(client, &problem, &inputs).expect_err("more positions than nodes");
            assert!(matches!(error, Error::Problem(_)), "{error}");
        }
    }
}
