//! Long convolutions on every device agree with other people's software.

use crate::golden_convolution as convolutions;
use crate::{device, support};

mod golden {
    use spillway_kernel_dsl::cube::DType;
    use spillway_kernel_dsl::long_convolution::cube::{backward, long_convolution};
    use spillway_kernel_dsl::long_convolution::{DeviceCotangents, GradientBuffers, Method};

    use super::convolutions::Convolution;
    use super::device::{clients, download, upload, upload_rows};
    use super::support::cases;

    #[test]
    fn long_convolutions_agree() {
        let all = cases("fft_conv").into_iter().map(Convolution::of_s4);
        for case in all.chain(cases("fft_conv_h3").into_iter().map(Convolution::of_h3)) {
            for (name, client) in clients() {
                for method in [Method::Direct, Method::Fourier] {
                    let name = format!("{method:?} on {name}");
                    let problem = case.problem(method);
                    let inputs = case.inputs().map(
                        |_, rows| upload_rows(client, &rows, DType::F32),
                        |_, values| upload(client, values),
                    );
                    let found = long_convolution(client, &problem, &inputs).expect("valid");
                    let out = download(client, &found.out);
                    case.check_output(&name, &out);
                    let cotangent = case.cotangent(&out);
                    let cotangents = DeviceCotangents {
                        out: case
                            .cotangents(&cotangent)
                            .out
                            .map(|rows| upload_rows(client, &rows, DType::F32)),
                        tail: None,
                    };
                    let found = backward(client, &problem, &inputs, &cotangents).expect("valid");
                    let found: GradientBuffers = found.map(
                        |_, buffer| download(client, &buffer),
                        |_, buffer| download(client, &buffer),
                    );
                    case.check_gradients(&name, &found);
                }
            }
        }
    }
}
