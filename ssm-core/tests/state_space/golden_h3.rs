//! The H3 mixer: outputs of the authors' code.

use burn::tensor::{Device, Tensor};
use spillway_ssm_core::h3::{H3, H3Config};
use spillway_ssm_core::{Chain, Mixer};

use super::mixers::{data, expect, run, values, weights};
use super::support::cases;

#[test]
fn golden_h3_mixers() {
    let names = [
        ("q_proj.weight", "q_proj.weight"),
        ("q_proj.bias", "q_proj.bias"),
        ("k_proj.weight", "k_proj.weight"),
        ("k_proj.bias", "k_proj.bias"),
        ("v_proj.weight", "v_proj.weight"),
        ("v_proj.bias", "v_proj.bias"),
        ("shift.B", "ssm_k_kernel.kernel.B"),
        ("shift.C", "ssm_k_kernel.kernel.C"),
        ("shift_D", "ssm_k_D"),
        ("diagonal.C", "kernel.kernel.C"),
        ("diagonal.B", "kernel.kernel.B"),
        ("diagonal.log_dt", "kernel.kernel.log_dt"),
        ("diagonal.inv_A_real", "kernel.kernel.inv_A_real"),
        ("diagonal.A_imag", "kernel.kernel.A_imag"),
        ("D", "D"),
        ("out_proj.weight", "output_linear.weight"),
        ("out_proj.bias", "output_linear.bias"),
    ];
    for case in cases("h3_layer") {
        let shift = case.shape("in.ssm_k_kernel.kernel.B").to_vec();
        let config = H3Config {
            model_dim: shift[0],
            head_dim: case.number("head_dim", 1.0) as usize,
            state_dim: shift[1],
        };
        let mixer = H3::read(config, &mut weights(&case, &names)).expect("the weights fit");
        let input: Tensor<3> = Tensor::from_data(data(&case, "in.x"), &Device::flex());
        let [batch, time, _] = input.dims();
        for lengths in [vec![time], vec![1; time], vec![time - 2, 1, 1]] {
            let mut state = mixer.start(0, batch, &Chain::default(), &Device::flex());
            let found = run(&mixer, &input, &mut state, &lengths, None).expect("it fits");
            expect(&case, "the output", &values(found), "out.y");
        }
    }
}
