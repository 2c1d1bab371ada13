//! Kernels of state spaces on devices are those of the CPU, which computes them.

use crate::{device, ssm_kernel};

mod equivalence {
    use spillway_kernel_dsl::cauchy;
    use spillway_kernel_dsl::cube::{Client, DType, DeviceBuffer, Error};
    use spillway_kernel_dsl::vandermonde;

    use super::device::{clients, download, upload, upload_rows};
    use super::ssm_kernel::{Diagonal, LowRank};

    fn same(what: &str, client: &Client, found: &DeviceBuffer, expected: &[f32]) {
        assert_eq!(download(client, found), expected, "{what}");
    }

    #[test]
    fn vandermonde_kernels_are_those_of_the_cpu() {
        let system = Diagonal::large();
        let (results, gradients) = (system.run(), system.pull_back());
        for (_, client) in clients() {
            let inputs = system.inputs().map(
                |_, rows| upload_rows(client, &rows, DType::F32),
                |_, values| upload(client, values),
            );
            let cotangents = system.cotangents().map(
                |_, rows| rows.map(|rows| upload_rows(client, &rows, DType::F32)),
                |_, values| values.map(|values| upload(client, values)),
            );
            let found = vandermonde::cube::kernel(client, &system.problem, &inputs).expect("valid");
            same("the kernel", client, &found.kernel, &results.kernel);
            same("the response", client, &found.state_kernel, &results.state_kernel);
            same("the state", client, &found.next_state, &results.next_state);
            let found =
                vandermonde::cube::backward(client, &system.problem, &inputs, &cotangents).expect("valid");
            same("the gradient of the step", client, &found.step, &gradients.step);
            same("the gradient of A", client, &found.a, &gradients.a);
            same("the gradient of B", client, &found.b, &gradients.b);
            same("the gradient of C", client, &found.c, &gradients.c);
            same(
                "the gradient of the state",
                client,
                &found.state,
                &gradients.state,
            );
            same(
                "the gradient of the signal",
                client,
                &found.signal,
                &gradients.signal,
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
