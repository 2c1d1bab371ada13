//! Diffusion of small images: a stack of [DiffuSSM blocks](spillway_ssm_core::diffussm) learns what noise was added to an image, and draws new
//! ones by taking noise away.
//!
//! ```text
//! x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε               network(x_t, t, class) = ε̂, v
//! L = mean (ε − ε̂)² + λ T · KL                 the second part for the variance alone
//! ```
//!
//! | module | what is in it |
//! |---|---|
//! | `schedule` | ᾱ, and what follows from it at every step |
//! | `network` | images in and out, time and class as a condition |
//! | `loss` | the two parts |
//! | `sampler` | DDPM and DDIM, with guidance |
//! | `trainer` | a step, the running mean of the weights, snapshots |
//!
//! Images are read pixel by pixel, row after row, without patches. Sources: Ho et al. (2006.11239); Nichol & Dhariwal (2102.09672) for the
//! variance; Song et al. (2010.02502) for DDIM; Ho & Salimans (2207.12598) for guidance; Yan et al. (2311.18257) for the blocks.

mod loss;
mod network;
mod sampler;
mod schedule;
mod trainer;

pub use network::{DiffusionNetwork, DiffusionNetworkConfig};
pub use sampler::{Denoiser, SampleOptions, Sampler, sample};
pub use schedule::{NoiseKind, NoiseSchedule};
pub use trainer::{DiffusionConfig, DiffusionStep, DiffusionTrainer};
