//! Images out of noise.
//!
//! ```text
//! x̂ = (x_t − √(1 − ᾱ_t) ε̂)/√ᾱ_t, perhaps kept within [−1, 1]
//! DDPM  x_{t−1} = c_0 x̂ + c_t x_t + σ z                          ln σ² between ln β_t and ln β̃_t, as v says
//! DDIM  x_{t−1} = √ᾱ_{t−1} x̂ + √(1 − ᾱ_{t−1} − σ²) ε̂ + σ z       σ = η √((1 − ᾱ_{t−1})/(1 − ᾱ_t)) √(1 − ᾱ_t/ᾱ_{t−1})
//! ```
//!
//! z is standard normal noise, and 0 at the last step. With guidance g the noise is ε̂(none) + g (ε̂(class) − ε̂(none)). Sources: Ho et al.
//! (2006.11239), algorithm 2; Song et al. (2010.02502), equation 12; Ho & Salimans (2207.12598), equation 6 with g = 1 + w.

use burn::tensor::{Device, Tensor, TensorData};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;

use super::loss::{log_variance, per_image};
use super::network::DiffusionNetwork;
use super::schedule::{Noise, NoiseSchedule};
use crate::error::ModelError;
use crate::train::error::TrainError;

/// What tells the noise of images, and the variance of the next step: ε̂ and v, in the shape of the images.
pub trait Denoiser {
    /// ε̂ and v of `[batch, pixels, 1]` images at a time and of these classes.
    ///
    /// # Errors
    /// [`ModelError::Layer`] for what it cannot read.
    fn denoise(&self, x: Tensor<3>, time: f64, classes: &[Option<u32>])
    -> Result<[Tensor<3>; 2], ModelError>;
}

impl Denoiser for DiffusionNetwork {
    fn denoise(
        &self,
        x: Tensor<3>,
        time: f64,
        classes: &[Option<u32>],
    ) -> Result<[Tensor<3>; 2], ModelError> {
        let times = vec![time; classes.len()];
        Ok(self.forward(x, &times, classes)?)
    }
}

/// How a step is taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampler {
    /// With noise of the learnt variance.
    Ddpm,
    /// With η of the noise; 0 for none, so that images are a function of what they begin with.
    Ddim(f64),
}

/// Which images are drawn, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleOptions {
    /// How a step is taken.
    pub sampler: Sampler,
    /// The class of each image, or none.
    pub classes: Vec<Option<u32>>,
    /// g; 1 for none.
    pub guidance: f64,
    /// Whether x̂ is kept within [−1, 1].
    pub clipped: bool,
    /// Seed of all noise.
    pub seed: u64,
}

/// Images `[images, pixels, 1]` out of noise, by all steps of `schedule`.
///
/// # Errors
/// [`TrainError::Field`] for an η that is not from 0 to 1 or a guidance that is no number; the denoiser's.
pub fn sample(
    denoiser: &dyn Denoiser,
    schedule: &NoiseSchedule,
    pixels: usize,
    options: &SampleOptions,
    device: &Device,
) -> Result<Tensor<3>, TrainError> {
    if let Sampler::Ddim(eta) = options.sampler
        && !(0.0..=1.0).contains(&eta)
    {
        return Err(TrainError::field("eta", "from 0 to 1", eta));
    }
    if !options.guidance.is_finite() {
        return Err(TrainError::field("guidance", "a finite number", options.guidance));
    }
    let shape = [options.classes.len(), pixels, 1];
    let mut rng = StdRng::seed_from_u64(options.seed);
    let mut x = normal(&mut rng, shape, device);
    if shape[0] * shape[1] == 0 {
        return Ok(x);
    }
    for index in (0..schedule.count()).rev() {
        let step = *schedule.step(index);
        let [noise, variance] = guided(denoiser, x.clone(), &step, options)?;
        let fresh = match index {
            0 => None,
            _ => Some(normal(&mut rng, shape, device)),
        };
        x = stepped(x, [noise, variance], &step, options, fresh);
    }
    Ok(x)
}

/// Standard normal noise of this shape.
pub(super) fn normal(rng: &mut StdRng, shape: [usize; 3], device: &Device) -> Tensor<3> {
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| rng.sample::<f32, _>(StandardNormal))
        .collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// ε̂ with guidance, and v.
fn guided(
    denoiser: &dyn Denoiser,
    x: Tensor<3>,
    step: &Noise,
    options: &SampleOptions,
) -> Result<[Tensor<3>; 2], ModelError> {
    let [noise, variance] = denoiser.denoise(x.clone(), step.time, &options.classes)?;
    if options.guidance == 1.0 || options.classes.iter().all(Option::is_none) {
        return Ok([noise, variance]);
    }
    let [plain, _] = denoiser.denoise(x, step.time, &vec![None; options.classes.len()])?;
    let noise = plain.clone() + (noise - plain).mul_scalar(options.guidance);
    Ok([noise, variance])
}

/// One step of the sampler: x_{t−1} from x_t and the network's answers to it.
fn stepped(
    x: Tensor<3>,
    [noise, variance]: [Tensor<3>; 2],
    step: &Noise,
    options: &SampleOptions,
    fresh: Option<Tensor<3>>,
) -> Tensor<3> {
    let (kept, before) = (step.kept, step.kept_before);
    let mut image = (x.clone() - noise.clone().mul_scalar((1.0 - kept).sqrt())).div_scalar(kept.sqrt());
    if options.clipped {
        image = image.clamp(-1.0, 1.0);
    }
    let (mean, deviation) = match options.sampler {
        Sampler::Ddpm => {
            let [of_image, of_noisy] = step.posterior_mean();
            let steps = vec![*step; x.dims()[0]];
            let deviation = log_variance(&steps, variance).mul_scalar(0.5).exp();
            (image.mul_scalar(of_image) + x.mul_scalar(of_noisy), deviation)
        }
        Sampler::Ddim(eta) => {
            let noise = match options.clipped {
                // The noise that leads from what was clipped to x_t.
                true => (x.clone() - image.clone().mul_scalar(kept.sqrt())).div_scalar((1.0 - kept).sqrt()),
                false => noise,
            };
            let sigma = eta * ((1.0 - before) / (1.0 - kept) * (1.0 - kept / before)).sqrt();
            let rest = (1.0 - before - sigma * sigma).max(0.0).sqrt();
            let deviation = per_image(&vec![*step; x.dims()[0]], |_| sigma, &x);
            (
                image.mul_scalar(before.sqrt()) + noise.mul_scalar(rest),
                deviation,
            )
        }
    };
    match fresh {
        Some(fresh) => mean + fresh * deviation,
        None => mean,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::diffusion::schedule::NoiseKind;

    /// The best answer where pixels are independent, of mean m and deviation s: E[ε | x_t], and v for the variance of x_{t−1} given x_t
    /// left at that of known images.
    struct Gaussian {
        mean: f64,
        deviation: f64,
        schedule: NoiseSchedule,
    }

    impl Denoiser for Gaussian {
        fn denoise(&self, x: Tensor<3>, time: f64, _: &[Option<u32>]) -> Result<[Tensor<3>; 2], ModelError> {
            let step = self.schedule.step(time as usize);
            let spread = step.kept * self.deviation.powi(2) + 1.0 - step.kept;
            let noise =
                (x.clone() - step.kept.sqrt() * self.mean).mul_scalar((1.0 - step.kept).sqrt() / spread);
            Ok([noise, x.ones_like().neg()])
        }
    }

    fn moments(x: Tensor<3>) -> (f64, f64) {
        let values: Vec<f64> = x.into_data().iter::<f32>().map(f64::from).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
        (mean, variance.sqrt())
    }

    fn options(sampler: Sampler) -> SampleOptions {
        SampleOptions {
            sampler,
            classes: vec![None; 20],
            guidance: 1.0,
            clipped: false,
            seed: 3,
        }
    }

    /// 8,000 pixels tell a mean within 0.005 and a deviation within 0.004 (one standard error of s = 0.45).
    #[test]
    fn with_the_best_answers_both_samplers_draw_the_distribution_that_there_is() {
        let schedule = NoiseSchedule::new(NoiseKind::Linear, 400).unwrap();
        let best = Gaussian {
            mean: 0.3,
            deviation: 0.45,
            schedule: schedule.clone(),
        };
        let device = Device::flex();
        for sampler in [Sampler::Ddpm, Sampler::Ddim(0.0), Sampler::Ddim(1.0)] {
            let drawn = sample(&best, &schedule, 400, &options(sampler), &device).unwrap();
            let (mean, deviation) = moments(drawn);
            assert!((mean - 0.3).abs() < 0.025, "{sampler:?}: mean {mean}");
            assert!(
                (deviation - 0.45).abs() < 0.025,
                "{sampler:?}: deviation {deviation}"
            );
        }
        // Without noise, a tenth of the steps leads near to where all of them do.
        let all = sample(&best, &schedule, 400, &options(Sampler::Ddim(0.0)), &device).unwrap();
        let some = schedule.spaced(40).unwrap();
        let some = sample(&best, &some, 400, &options(Sampler::Ddim(0.0)), &device).unwrap();
        let (_, off) = moments(all.clone() - some);
        assert!(off < 0.03, "{off}");
        let again = sample(&best, &schedule, 400, &options(Sampler::Ddim(0.0)), &device).unwrap();
        assert_eq!(all.into_data(), again.into_data());
    }

    #[test]
    fn what_is_clipped_stays_within_bounds_and_options_out_of_range_are_refused() {
        let schedule = NoiseSchedule::new(NoiseKind::Cosine, 30).unwrap();
        let wide = Gaussian {
            mean: 0.0,
            deviation: 3.0,
            schedule: schedule.clone(),
        };
        let device = Device::flex();
        for sampler in [Sampler::Ddpm, Sampler::Ddim(0.0), Sampler::Ddim(0.5)] {
            let clipped = SampleOptions {
                clipped: true,
                ..options(sampler)
            };
            let drawn = sample(&wide, &schedule, 9, &clipped, &device).unwrap();
            let values: Vec<f32> = drawn.into_data().iter::<f32>().collect();
            assert!(values.iter().all(|value| value.abs() <= 1.0 + 1e-5), "{values:?}");
        }
        for (wrong, field) in [
            (options(Sampler::Ddim(1.5)), "eta"),
            (
                SampleOptions {
                    guidance: f64::NAN,
                    ..options(Sampler::Ddpm)
                },
                "guidance",
            ),
        ] {
            let error = sample(&wide, &schedule, 9, &wrong, &device).unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
        }
        let none = SampleOptions {
            classes: Vec::new(),
            ..options(Sampler::Ddpm)
        };
        assert_eq!(
            sample(&wide, &schedule, 9, &none, &device).unwrap().dims(),
            [0, 9, 1]
        );
    }
}
