//! Convolution of every channel with a kernel of its own, as long as the sequence.
//!
//! ```text
//! y[b, t, (m, h)] = Σ_s K[m, h, s] u[b, t − s, h]  +  Σ_s K′[m, h, s] u[b, t + o + s, h]  +  D[m, h] u[b, t, h]  +  r[b, t, (m, h)]
//! ```
//!
//! Each input channel h has `multiplicity` outputs, of which output m of channel h is column m·channels + h. Tokens before the first and
//! after the last are 0, so that taps which reach past them add nothing: a kernel longer than the sequence never wraps. The *later* kernel
//! K′ is there in both directions only; its first tap meets the next token (o = 1, state-spaces/s4) or the token itself (o = 0, H3's
//! reversed kernel). r is a *response*, as a linear system gives to its state before the first token; y takes it as it is.
//!
//! It is the convolutional view of a time-invariant state space. Source: Gu, Goel & Ré, 2111.00396, section 2.4; in both directions: Goel et
//! al., 2202.09729, section 4; Fu et al., 2212.14052, section 3.
//!
//! # Streams
//!
//! A causal convolution of T taps can be computed in pieces, by overlap-add: the *tail* Z `[batch, taps − 1, outputs]` holds what the
//! tokens so far add to the outputs of the next T − 1. With the tail Z of the piece before, a piece of L tokens gives
//!
//! ```text
//! p[t] = Σ_s K[s] u[t − s] + Z[t],    t = 0 … L + T − 2;        y[t] = p[t] + D u[t] + r[t],    Z′[j] = p[L + j]
//! ```
//!
//! # Backward
//!
//! Let `Ȳ[t]` be the cotangent of y for t < L and that of Z′ behind it, and ȳ the first L of it. Then
//!
//! ```text
//! ū[t] = Σ_{m, s} K[s] Ȳ[t + s] + Σ_{m, s} K′[s] ȳ[t − o − s] + Σ_m D ȳ[t],      r̄ = ȳ,      Z̄[t] = Ȳ[t]
//! K̄[s] = Σ_{b, t} u[t] Ȳ[t + s],      K̄′[s] = Σ_{b, t} u[t + o + s] ȳ[t],      D̄ = Σ_{b, t} u[t] ȳ[t]
//! ```
//!
//! # Transforms of half the length
//!
//! A product of polynomials modulo z^N + 1 with real coefficients, N = 2M, is one modulo z^M − i with complex ones, because
//! z^N + 1 = (z^M − i)(z^M + i) and the two factors hold conjugates. Modulo z^M − i, x becomes x_n + i x_{n+M}; the factor e^{iπn/N} then
//! makes it a cyclic convolution. So a real convolution of N places is
//!
//! ```text
//! y_n + i y_{n+M} = e^{−iπn/N} FFT⁻¹_M( FFT_M( e^{iπn/N} (x_n + i x_{n+M}) ) ∘ FFT_M( e^{iπn/N} (k_n + i k_{n+M}) ) )
//! ```
//!
//! with no pairing of frequencies anywhere, and places behind N come back with the sign changed, which is how taps for later tokens are
//! written: tap −d at place N − d, negative. The roots of z^M = i lie on the unit circle, so the conjugate of a transform belongs to the
//! signal in reverse, and correlations are products with conjugates.
//!
//! # More dimensions
//!
//! [`nd`] convolves over two or three axes. The transform works on points along one axis, channels beside each other. A convolution over
//! several axes takes the half length on one of them; points are complex afterwards, and every further axis is a plain transform of a
//! zero-padded length with the same passes and without the factors e^{iπn/N}.

#[cfg(feature = "cube")]
pub mod cube;
mod host;
pub mod nd;
mod problem;
pub mod reference;

pub use host::{backward, long_convolution};
pub use problem::{
    Cotangents, Direction, GradientBuffers, Gradients, Inputs, Later, LongConvolutionError, Method, Operands,
    Outputs, Problem, Results,
};
#[cfg(feature = "cube")]
pub use problem::{DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs};
