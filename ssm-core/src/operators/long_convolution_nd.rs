//! Convolution of every channel over one to three axes.

use crate::backend::host::{expect_finite, is_host};
use crate::backend::{Input, Spec, over_rows, run};
use crate::error::{Error, Result};
use crate::gates::expect_shape;
use crate::operators::long_convolution::{self, Later, LongConvolutionInputs, long_convolution};
use burn::tensor::Tensor;
use spillway_kernel_dsl::long_convolution::nd as kernel;
pub use spillway_kernel_dsl::long_convolution::nd::Method;

/// An axis of what is convolved, and the kernels along it.
#[derive(Clone, Debug)]
pub struct AxisKernel {
    /// Number of positions along the axis.
    pub size: usize,
    /// k, `[rank, multiplicity, channels, taps]`; the first tap meets the position itself.
    pub kernel: Tensor<4>,
    /// k′, `[rank, multiplicity, channels, later taps]`; the first tap meets the next position.
    pub later_kernel: Option<Tensor<4>>,
}

/// `y[p] = Σ_r Σ_l k_1[r, l_1] … k_D[r, l_D] u[p − l] + D u[p]` per channel over the positions p of one to three axes, where positions
/// outside of the axes are 0, and k\[−1 − s\] = k′\[s\].
///
/// Output m of channel h is column m·channels + h. Positions are one axis of the tensor, the last of `axes` fastest. The kernel of a state
/// space on every axis (Nguyen et al., *S4ND*, 2210.06583, section 3). On the CPU it is one operator; on other devices long convolutions
/// along one axis after another.
///
/// # Shapes
/// `input` `[batch, positions, channels]`; `skip` `[multiplicity, channels]`; the result `[batch, positions, multiplicity · channels]`.
///
/// # Errors
/// [`Error::Value`] for no axes or more than three, for no taps, and for a kernel or a skip that is not finite; [`Error::Shape`] where
/// kernels differ or positions are not those of the axes; [`Error::Device`], [`Error::DType`] and [`Error::Kernel`].
pub fn long_convolution_nd(
    input: Tensor<3>,
    axes: Vec<AxisKernel>,
    skip: Option<Tensor<2>>,
    method: Method,
) -> Result<Tensor<3>> {
    let some = |kernel: &Tensor<4>| kernel.dims()[3] > 0;
    let axes: Vec<AxisKernel> = axes
        .into_iter()
        .map(|axis| AxisKernel {
            later_kernel: axis.later_kernel.filter(some),
            ..axis
        })
        .collect();
    let plan = plan(&axes)?;
    let [batch, positions, channels] = input.dims();
    let [rank, multiplicity] = [0, 1].map(|axis| axes[0].kernel.dims()[axis]);
    expect_shape(
        "input of a long convolution over several axes",
        &[batch, plan.positions(), channels],
        &[batch, positions, channels],
    )?;
    for axis in &axes {
        for kernel in std::iter::once(&axis.kernel).chain(&axis.later_kernel) {
            let taps = kernel.dims()[3];
            expect_shape(
                "kernel of a long convolution over several axes",
                &[rank, multiplicity, channels, taps],
                &kernel.dims(),
            )?;
        }
    }
    if let Some(skip) = &skip {
        expect_shape(
            "skip of a long convolution over several axes",
            &[multiplicity, channels],
            &skip.dims(),
        )?;
    }
    if !is_host([&input.device().inner()]) {
        return axis_by_axis(input, axes, skip);
    }
    let kernel = Tensor::cat(axes.into_iter().flat_map(in_order).collect(), 3);
    expect_finite("kernel of a long convolution over several axes", &kernel)?;
    if let Some(skip) = &skip {
        expect_finite("skip of a long convolution over several axes", skip)?;
    }
    let operator = LongConvolutionNd { axes: plan, method };
    let found = run(
        operator,
        kernel::Operands {
            input: input.into(),
            kernel: kernel.into(),
            skip: skip.map(Input::from),
        },
    )?;
    Ok(Tensor::from_dispatch(found.out))
}

/// The sizes of the axes and the taps along them.
fn plan(axes: &[AxisKernel]) -> Result<kernel::Axes> {
    let axes: Vec<kernel::Axis> = axes
        .iter()
        .map(|axis| kernel::Axis {
            size: axis.size,
            taps: axis.kernel.dims()[3],
            later: axis.later_kernel.as_ref().map_or(0, |kernel| kernel.dims()[3]),
        })
        .collect();
    kernel::Axes::new(&axes).map_err(|error| Error::Value {
        what: "axes of a long convolution",
        expected: "1 to 3, with at least 1 tap on each",
        found: error.to_string(),
    })
}

/// The taps of an axis from the lag furthest ahead to the one furthest back.
fn in_order(axis: AxisKernel) -> impl Iterator<Item = Tensor<4>> {
    let later = axis.later_kernel.map(|kernel| kernel.flip([3]));
    later.into_iter().chain([axis.kernel])
}

/// [`long_convolution_nd`] as long convolutions along one axis after another, each of all other positions side by side.
fn axis_by_axis(input: Tensor<3>, axes: Vec<AxisKernel>, skip: Option<Tensor<2>>) -> Result<Tensor<3>> {
    let [batch, positions, channels] = input.dims();
    let [rank, multiplicity, ..] = axes[0].kernel.dims();
    let columns = rank * multiplicity * channels;
    let sizes: Vec<usize> = axes.iter().map(|axis| axis.size).collect();
    if batch * positions * columns == 0 {
        return Ok(Tensor::zeros(
            [batch, positions, multiplicity * channels],
            &input.device(),
        ));
    }
    let mut found = input.clone();
    for (index, axis) in axes.into_iter().enumerate() {
        let outer = batch * sizes[..index].iter().product::<usize>();
        let inner: usize = sizes[index + 1..].iter().product();
        let [.., width] = found.dims();
        // The first axis makes of a channel one for every term and output; those behind it have kernels of their own for each.
        let shape = |taps: usize| [columns / width, width, taps];
        let of = |kernel: Tensor<4>| {
            let taps = kernel.dims()[3];
            kernel.reshape(shape(taps))
        };
        let lines = found
            .reshape([outer, axis.size, inner, width])
            .swap_dims(1, 2)
            .reshape([outer * inner, axis.size, width]);
        let later = axis.later_kernel.as_ref().map_or(0, |kernel| kernel.dims()[3]);
        let taps = axis.kernel.dims()[3].max(later);
        let inputs = LongConvolutionInputs {
            input: lines,
            kernel: of(to_length(axis.kernel, taps)),
            later_kernel: axis
                .later_kernel
                .map(|kernel| (Later::Next, of(to_length(kernel, taps)))),
            skip: None,
            response: None,
        };
        found = long_convolution(inputs, long_convolution::Method::Auto)?
            .reshape([outer, inner, axis.size, columns])
            .swap_dims(1, 2)
            .reshape([batch, positions, columns]);
    }
    let outputs = multiplicity * channels;
    let sum: Tensor<3> = found
        .reshape([batch, positions, rank, outputs])
        .sum_dim(2)
        .reshape([batch, positions, outputs]);
    Ok(match skip {
        None => sum,
        Some(skip) => {
            let skipped = input.repeat_dim(2, multiplicity) * skip.reshape([1, 1, outputs]);
            sum + skipped
        }
    })
}

/// So many taps, with zeros behind those that there are.
fn to_length(kernel: Tensor<4>, taps: usize) -> Tensor<4> {
    let [rank, multiplicity, channels, found] = kernel.dims();
    match found < taps {
        false => kernel,
        true => {
            let device = kernel.device();
            let behind = Tensor::zeros([rank, multiplicity, channels, taps - found], &device);
            Tensor::cat(vec![kernel, behind], 3)
        }
    }
}

/// What of a convolution is not a tensor.
#[derive(Debug)]
struct LongConvolutionNd {
    axes: kernel::Axes,
    method: Method,
}

impl LongConvolutionNd {
    fn problem(&self, inputs: &kernel::Operands<Vec<usize>, Vec<usize>>) -> kernel::Problem {
        kernel::Problem {
            batch: inputs.input[0],
            axes: self.axes,
            channels: inputs.input[2],
            multiplicity: inputs.kernel[1],
            rank: inputs.kernel[0],
            method: self.method,
        }
    }

    fn results(&self, inputs: kernel::Operands<Spec, Spec>) -> kernel::Results<Spec> {
        let dtype = inputs.input.dtype;
        let problem = self.problem(&inputs.map(|_, spec| spec.shape, |_, spec| spec.shape));
        kernel::Results {
            out: Spec::new([problem.batch, problem.positions(), problem.outputs()], dtype),
        }
    }
}

/// Tensors of a device go through [`axis_by_axis`] and never come here.
#[cfg(feature = "cube")]
fn only_on_the_host<T>() -> Result<T, spillway_kernel_dsl::cube::Error> {
    Err(spillway_kernel_dsl::cube::Error::Capability {
        capability: "long convolution over several axes as one kernel",
        needed_for: "a call that does not go along one axis after another",
    })
}

over_rows! {
    LongConvolutionNd, "long_convolution_nd", kernel;
    inputs<R, V>;
    output<R>;
    host: {
        forward(_, problem, inputs, found): kernel::long_convolution(problem, inputs, found),
        backward(_, problem, inputs, cotangents, found): kernel::backward(problem, inputs, cotangents, found),
    }
    device: {
        forward(_, _, _, _): only_on_the_host(),
        backward(_, _, _, _, _): only_on_the_host(),
    }
}
