//! Long convolutions agree with other people's software.

use crate::golden_convolution as convolutions;
use crate::support;

mod golden {
    use spillway_kernel_dsl::long_convolution::{
        GradientBuffers, Method, Outputs, backward, long_convolution,
    };

    use super::convolutions::Convolution;
    use super::support::cases;

    #[test]
    fn long_convolutions_agree() {
        let all = cases("fft_conv").into_iter().map(Convolution::of_s4);
        for case in all.chain(cases("fft_conv_h3").into_iter().map(Convolution::of_h3)) {
            for method in [Method::Auto, Method::Direct, Method::Fourier] {
                let problem = case.problem(method);
                let inputs = case.inputs();
                let (mut out, mut tail) = (vec![f32::NAN; problem.tokens() * problem.outputs()], Vec::new());
                let mut outputs = Outputs {
                    out: &mut out,
                    tail: &mut tail,
                };
                long_convolution(&problem, &inputs, &mut outputs).expect("valid");
                case.check_output(&format!("{method:?}"), &out);
                let mut found: GradientBuffers = GradientBuffers::zeros(&problem, &inputs);
                let cotangent = case.cotangent(&out);
                backward(
                    &problem,
                    &inputs,
                    &case.cotangents(&cotangent),
                    &mut found.as_written(),
                )
                .expect("valid");
                case.check_gradients(&format!("{method:?}"), &found);
            }
        }
    }
}
