//! Convolution of every channel over one to three axes, with a kernel that is a sum of outer products of kernels along the axes.
//!
//! ```text
//! y[b, p, (m, h)] = Σ_l K[m, h, l] u[b, p − l, h] + D[m, h] u[b, p, h]        K[m, h, l] = Σ_r Π_i k_i[r, m, h, l_i]
//! ```
//!
//! p and l are positions and lags on all axes; positions outside of the axes are 0, so that nothing wraps around. Axis i has taps for the
//! lags −later … taps − 1: those of negative lags meet later positions. Positions are rows, the last axis fastest. It is the convolutional
//! view of a state space on each axis. Source: Nguyen et al., *S4ND* (2210.06583), section 3.
//!
//! # Forms
//!
//! A term of the sum over r is a convolution along one axis after another, x_i = k_i ∗ x_{i−1} from x_0 = u, which costs what its axes
//! cost, each tap by tap or by transforms. A transform over all axes at once costs the same for any rank, on axes that are padded with as
//! many zeros as taps reach. Which of them is taken follows from the sizes.
//!
//! # Backward
//!
//! With the cotangent x̄_D = ȳ of every term and correlations along axis i,
//!
//! ```text
//! k̄_i[l] = Σ_{b, p} x_{i−1}[p − l] x̄_i[p],      x̄_{i−1}[p] = Σ_l k_i[l] x̄_i[p + l],      ū = Σ_{r, m} x̄_0 + Σ_m D ȳ
//! ```
//!
//! and where K is transformed as a whole, k̄_i\[r\] is K̄ summed with the other factors of its term.

mod problem;
pub mod reference;

pub use super::host::nd::{backward, long_convolution};
pub use problem::{
    Axes, Axis, Cotangents, GradientBuffers, Gradients, Inputs, LongConvolutionNdError, Method, Operands,
    Outputs, Problem, Results,
};
#[cfg(feature = "cube")]
pub use problem::{DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs};
