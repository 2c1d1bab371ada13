//! The convolution kernel of a diagonal state space: a product with a Vandermonde matrix, never formed.
//!
//! A channel h has N modes with rates λ_n and a step Δ. Discretised, mode n is x ← ā x + b̄ u, and
//!
//! ```text
//! K_l = f Re Σ_n C_n b̄_n ā_nˡ                   l < L        the kernel, for each row of C
//! S_l = f Re Σ_n C_n s_n ā_nˡ⁺¹                               what an initial state s adds to output l
//! x_L = ā_n^L s_n + Σ_l ā_n^{L−1−l} b̄_n u_l                  the state after L inputs
//! ```
//!
//! with f = 2 where each mode stands for a conjugate pair (S4D) and f = 1 where all modes are given (DSS, GSS, EMA). So the output of
//! the layer is y = K ∗ u + S. Sources: Gu et al., 2206.11893 (S4D); Gupta et al., 2203.14343 (DSS); Ma et al., 2209.10655 (EMA).
//!
//! | [`Discretization`] | ā | b̄/B |
//! |---|---|---|
//! | `ZeroOrderHold` | e^{Δλ} | (ā − 1)/λ, Δ at λ = 0 |
//! | `Bilinear` | (1 + Δλ/2)/(1 − Δλ/2) | Δ/(1 − Δλ/2) |
//! | `ExponentialEuler` | e^{Δλ} | Δ |
//! | `Softmax` | e^{Δλ} | (ā − 1)/(λ(ā^L − 1)) |
//!
//! `Softmax` is DSS: Σ_n (C_n B_n/λ_n) softmax_l(l Δλ_n), with 1/x taken as x*/(|x|² + 10⁻⁷), and with powers of e^{−Δλ} counted from
//! the end where Re λ > 0. It depends on L, so that it has no states. `ExponentialEuler` with Δ = 1 takes ā = e^λ and b̄ = B as they
//! are: Mega's EMA kernel Σ_n p_n β_n γ_n q_nˡ/√N is that with λ = ln q, B = pβ, C = γ/√N and f = 1.
//!
//! # Cost and accuracy
//! With l = Wj + i the sum is a product of two real matrices of inner size 2N,
//!
//! ```text
//! K_{Wj+i} = Re Σ_n (f C_n b̄_n ā_n^{Wj}) (ā_nⁱ)
//! ```
//!
//! with W near √L, at most 256, so that time is O(N L) multiply-adds in matrix products beside O(N √L) for the tables, and memory
//! O(N + L) for a channel. The roots ā come from f64 (a phase Δ Im λ is reduced there), and so do both tables, whose products are f64
//! until they are rounded once: no power is off by more than 10⁻¹¹ before that, at L = 65,536 too.
//!
//! On a device each unit has sixteen positions of a row, from a power whose phase is exact ([`cube`](self)); what is per mode stays in
//! f64 on the CPU.
//!
//! # Backward
//! With the cotangent κ of K, everything follows from two sums over positions, products with the same tables,
//!
//! ```text
//! G_n = Σ_l κ_l ā_nˡ        G′_n = Σ_l l κ_l ā_n^{l−1}
//! ```
//!
//! The weight w_n = C_n b̄_n has the gradient f Ḡ_n (gradients of complex numbers are those of their two real parts, and a bar over G
//! is its conjugate), and the root has f (w_n G′_n)*. The response S is the same with w_n = C_n s_n ā_n. The state x_L has
//! G and G′ of the reversed signal in place of κ, and gives the signal the gradient Re(x̄* b̄ ā^{L−1−l}), which is a kernel of weights
//! x̄* b̄ once more. The rest is per mode: the slopes of ā and b̄ by Δ and λ.

mod channel;
#[cfg(feature = "cube")]
pub mod cube;
mod discretization;
mod host;
mod problem;
mod pull_back;
pub mod reference;

pub use discretization::Discretization;
pub use host::{backward, kernel};
pub use problem::{
    Cotangents, GradientBuffers, Gradients, Inputs, ModeSet, Operands, Outputs, Problem, Results, Steps,
    VandermondeError,
};
#[cfg(feature = "cube")]
pub use problem::{DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs};
