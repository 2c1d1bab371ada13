//! The convolution kernel of a state space that is diagonal plus low rank (S4): its generating function at roots of unity, by
//! Cauchy sums and Woodbury's identity.
//!
//! A channel has the state matrix A = diag(λ) − P P*, with N stored modes of N conjugate pairs and P of rank r, discretised by the
//! bilinear rule with a step Δ. Its kernel and its response to an initial state s are
//!
//! ```text
//! K_l = C Āˡ B̄        S_l = C Āˡ⁺¹ s            Ā = (I − ΔA/2)⁻¹(I + ΔA/2), B̄ = (I − ΔA/2)⁻¹ ΔB
//! ```
//!
//! where products run over both members of every pair. What is stored is C̃ = C(I − Ā^M) for M nodes, as checkpoints do;
//! [`truncation`] goes from one to the other. Source: Gu et al., 2111.00396, appendix C.
//!
//! # Forward
//! At ω = e^{−iθ}, θ = 2πj/M, the generating function is Σ_l K_l ωˡ = 2Δ C̃ (2(1 − ω) − Δ(1 + ω)A)⁻¹ B. With s = sin θ/2, c = cos θ/2
//! and μ = Δλ/2 both 1 − ω and 1 + ω have the factor e^{−iθ/2}, which leaves
//!
//! ```text
//! K̂ = Δ e^{iθ/2} (k₀₀ − k₀₁ g (I + g k₁₁)⁻¹ k₁₀)                              g = Δ c
//! k(x, y) = Σ_n ½ [x_n y_n/(is − cμ_n) + the same of the conjugates]
//!         = Σ_n (i s Re v_n − c Re(v_n μ_n*))/(c²|μ_n|² − s² − 2isc Re μ_n)   v_n = x_n y_n
//! ```
//!
//! for k₀₀ = k(C̃, B), k₀₁ = k(C̃, P), k₁₀ = k(P*, B) and k₁₁ = k(P*, P), (1 + r)² sums where there is one row of C. Nothing divides by
//! 1 + ω, so that the node ω = −1 of an even M is like any other. The kernel is the inverse transform of the K̂ of half the nodes, cut
//! to the length wanted. The response is the kernel of B′ = s/Δ + A s/2 in place of B.
//!
//! Time is O(M N) for the sums, in blocks of SIMD lanes over nodes, plus O(M log M); memory O(M + N) for a channel. Sums and transforms
//! run in f64: at a node near the frequency of a slowly decaying mode, c|μ| − s cancels, and f32 would keep three digits of it.
//!
//! # Backward
//! The cotangent of K̂_j is κ̂_j/M for the transform κ̂ of the kernel's, twice that at nodes with a conjugate twin. Let E be e^{−iθ/2}Δ
//! times it, X = (I + g k₁₁)⁻¹, Y = X k₁₀, and ᴴ the conjugate transpose. Then
//!
//! ```text
//! k̄₀₀ = E        k̄₀₁ = −g E Yᴴ        Ȳ = −g k₀₁ᴴ E        k̄₁₀ = Xᴴ Ȳ        k̄₁₁ = −g k̄₁₀ Yᴴ
//! ```
//!
//! and g and the factor Δ have what follows from the product rule. With D for the denominator of a sum's term and τ for k̄ at a node,
//! the gradients of the term are
//!
//! ```text
//! by Re v:        s (τ_i e_r − τ_r e_i)                     e = 1/D
//! by Re(v μ*):    −c (τ_r e_r + τ_i e_i)
//! by D:           −(e²)* ē                                  ē the gradient by e
//! by |μ|², Re μ:  c² Re D̄,  −2sc Im D̄                       D̄ the gradient by D
//! ```
//!
//! from which those of C̃, B, P and μ follow by v = x y, and μ = Δλ/2.

#[cfg(feature = "cube")]
pub mod cube;
mod dense;
mod discrete;
mod host;
mod problem;
pub mod reference;
pub mod truncation;

pub use host::{backward, kernel};
pub use problem::{
    CauchyError, Cotangents, GradientBuffers, Gradients, Inputs, Operands, Outputs, Problem, Results,
};
#[cfg(feature = "cube")]
pub use problem::{DeviceCotangents, DeviceGradients, DeviceInputs, DeviceOutputs};
