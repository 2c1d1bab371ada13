//! HiPPO: systems whose state is the best approximation of everything that they have heard.
//!
//! At every time t the coefficients c_n(t) = ∫ u(s) p_n(t, s) ω(t, s) ds project the past of u on polynomials (or sinusoids)
//! p_n that are orthonormal under a measure ω of the past. Differentiated, they follow a linear system c′ = A c + B u, and the
//! past is had back as û(s) = Σ c_n p_n(t, s). Source: Gu, Dao, Ermon, Rudra, Ré, 2008.07669; time-invariant forms from Gu,
//! Johnson, Timalsina, Rudra, Ré, 2206.12037.
//!
//! With r_n = √(2n + 1), and ages a = t − s ≥ 0:
//!
//! | measure | name | A_nk | B_n | weight ω(a) | functions p_n(a) |
//! |---|---|---|---|---|---|
//! | scaled Legendre | `legs` | −r_n r_k (n > k), −(n + 1) (n = k), 0 | r_n | e^{−a} | r_n P_n(2e^{−a} − 1) |
//! | translated Legendre | `legt` | −½ r_n r_k, times (−1)^{n−k} for n < k | ½ r_n | ½ on [0, 2] | r_n P_n(1 − a) |
//! | the same, as in the LMU | `lmu` | −(2n + 1) (n < k), (2n + 1)(−1)^{n−k+1} | (2n + 1)(−1)^n | 1 on [0, 1] | P_n(2a − 1) |
//! | translated Laguerre | `lagt` | −½ (n = k), −1 (n > k), 0 | β | β² | e^{−a/2} L_n(a)/β |
//! | tilted Laguerre | `tlagt` | −(1 + β)/2 (n = k), −1 (n > k), 0 | β | β² e^{−βa} | e^{−(1−β)a/2} L_n(a)/β |
//! | generalised Laguerre | `glagt` | as `tlagt`, between scales Λ_n | see [`Measure::GeneralisedLagt`] | | |
//! | Fourier | `fourier` | turns by πn, − b bᵀ | b = (1, 0, √2, 0, √2, …) | ½ on [0, 2] | 1, √2 cos πna, √2 sin πna |
//! | Fourier on [0, 1] | `fourier2` | turns by 2πn, − 2 b bᵀ | 2b | 1 on [0, 1] | 1, √2 cos 2πna, √2 sin 2πna |
//! | decaying Fourier | `fourier_decay` | turns by πn, − ½ b bᵀ | ½ b | ½ on [0, 2] | as `fourier` |
//! | diagonal Fourier | `fourier_diag`, `foud` | turns by 2πn, − ½ I | b | e^{−a} | as `fourier2`, times e^{a/2} |
//! | diagonal scaled Legendre | `legsd` | `legs` + ½ r rᵀ | ½ r_n | e^{−a} | as `legs` (in the limit of large N) |
//!
//! `legs` is time-invariant here; with A/t and B/t it is the original, which weighs all of [0, t] alike: [`LegsScan`].
//! `legt` and the Fourier systems on [0, 2] are halved, as in the published S4 code, so that their mean age is 1 like that of
//! `legs`. Row 1 of the Fourier systems would be a sine of frequency 0: a dead state.
//!
//! | file | what is in it |
//! |---|---|
//! | [`measure`] | the measures and their matrices |
//! | [`mod@basis`] | functions, weights, and the signal that a state remembers |
//! | [`legs_scan`] | the time-varying system |
//! | [`normal_plus_low_rank`] | the forms that make S4 fast |
//! | [`orthonormal`] | systems of any measure |

pub mod basis;
pub mod legs_scan;
pub mod measure;
pub mod normal_plus_low_rank;
pub mod orthonormal;

pub use basis::{basis, reconstruct, window};
pub use legs_scan::{LegsMemory, LegsScan, LegsStart};
pub use measure::{Measure, Transition, diagonal_transition, random_transition};
pub use normal_plus_low_rank::{NormalPlusLowRank, rank_correction};
pub use orthonormal::OrthonormalPolynomials;
