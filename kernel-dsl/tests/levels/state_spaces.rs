//! Time-invariant state spaces, by recurrence and by convolution.

use super::{Outcome, allowed};
use crate::layouts::Layout;
use crate::long_convolution::LongConvolution;
use crate::long_convolution_nd::LongConvolutionNd;
use crate::{linear_state_space, shift_state_space};

pub(super) fn long_convolution() -> Outcome {
    use spillway_kernel_dsl::long_convolution::{Direction, Later, Method, Problem};
    for direction in [Direction::Streamed, Direction::Both(Later::Next)] {
        // Lengths beside a power of two, and channels beside every number of lanes.
        let problem = Problem {
            batch: 2,
            time: 65,
            channels: 21,
            multiplicity: 2,
            taps: 70,
            direction,
            method: Method::Auto,
        };
        LongConvolution::example(problem, 9).check_host()?;
    }
    Ok(())
}

pub(super) fn long_convolution_nd() -> Outcome {
    use spillway_kernel_dsl::long_convolution::nd::{Axes, Axis, Method, Problem};
    let axis = |size| Axis {
        size,
        taps: size,
        later: size - 1,
    };
    // Lengths beside a power of two, and channels beside every number of lanes.
    let axes = Axes::new(&[axis(9), axis(15)]).map_err(|error| error.to_string())?;
    let problem = Problem {
        batch: 2,
        axes,
        channels: 21,
        multiplicity: 2,
        rank: 2,
        method: Method::Auto,
    };
    LongConvolutionNd::example(problem, 9).check_host()
}

pub(super) fn state_space(rank: usize, token_steps: bool) -> Outcome {
    use linear_state_space::{Data, Spec, close};
    use spillway_kernel_dsl::linear_state_space::{chunked, sequential};
    // Modes that fill no vector, and channels beyond a block.
    let data = Data::new(Spec {
        token_steps,
        ..Spec::of_model(rank, (70, 18, 21))
    });
    let (out, state) = data.by_reference();
    let forms = [
        data.run(sequential),
        data.run(|problem, inputs, outputs| chunked(problem, inputs, 24, outputs)),
    ];
    for found in forms {
        close("out", allowed(70, false), &found.0, &out)?;
        close("state", allowed(70, false), &found.1, &state)?;
    }
    data.check_gradients(allowed(70, true), &data.gradients(16))
}

pub(super) fn shift() -> Outcome {
    use linear_state_space::close;
    use shift_state_space::{Data, Spec, close_gradients};
    use spillway_kernel_dsl::shift_state_space::{convolved, sequential};
    let data = Data::new(Spec {
        batch: 2,
        time: 70,
        layout: Layout::Equal,
        channels: 18,
        outputs: 1,
        state_dim: 21,
        skip: true,
        state: true,
        state_cotangent: true,
        gap: 1,
        seed: 3,
    });
    let (out, state) = data.by_reference();
    for found in [data.run(sequential), data.run(convolved)] {
        close("out", allowed(21, false), &found.0, &out)?;
        close("state", allowed(21, false), &found.1, &state)?;
    }
    close_gradients(allowed(70, true), &data.gradients(), &data.reference_gradients())
}
