//! What a network of diffusion is trained by.
//!
//! ```text
//! L = mean (ε − ε̂)² + λ T · KL(q(x_{t−1} | x_t, x_0) ‖ N(μ, σ²))
//! ln σ² = (1 + v)/2 ln β_t + (1 − v)/2 ln β̃_t
//! ```
//!
//! μ is that of ε̂ without its gradient, so that the second part trains v alone. At the first step there is −ln p(x_0) in the place of the
//! divergence; images are taken for continuous, so that it is a density. Nats per pixel. Source: Nichol & Dhariwal (2102.09672),
//! equations 15 and 16, with λ = 0.001.

use std::f64::consts::PI;

use burn::tensor::{Tensor, TensorData};

use super::schedule::Noise;

/// Noisy images, and how they came to be.
pub(super) struct Noised<'a> {
    /// x_0, x_t and ε, `[batch, pixels, 1]`.
    pub(super) image: Tensor<3>,
    pub(super) noisy: Tensor<3>,
    pub(super) noise: Tensor<3>,
    /// The step of each.
    pub(super) steps: &'a [Noise],
}

impl<'a> Noised<'a> {
    /// Images with this noise at these steps.
    pub(super) fn new(image: Tensor<3>, noise: Tensor<3>, steps: &'a [Noise]) -> Self {
        let kept = per_image(steps, |step| step.kept.sqrt(), &image);
        let added = per_image(steps, |step| (1.0 - step.kept).sqrt(), &image);
        Self {
            noisy: image.clone() * kept + noise.clone() * added,
            image,
            noise,
            steps,
        }
    }

    /// L of the network's answers, `[1]`; `weight` is λ T.
    pub(super) fn loss(&self, [predicted, variance]: [Tensor<3>; 2], weight: f64) -> Tensor<1> {
        let off = self.noise.clone() - predicted.clone();
        let plain = (off.clone() * off).mean();
        let bound = self.bound(predicted.detach(), variance).mean();
        plain + bound.mul_scalar(weight)
    }

    /// The divergence of every pixel.
    fn bound(&self, predicted: Tensor<3>, variance: Tensor<3>) -> Tensor<3> {
        let of = |value: fn(&Noise) -> f64| per_image(self.steps, value, &self.image);
        let image = (self.noisy.clone() - predicted * of(|step| (1.0 - step.kept).sqrt()))
            * of(|step| 1.0 / step.kept.sqrt());
        let mean_of = |image: Tensor<3>| {
            image * of(|step| step.posterior_mean()[0])
                + self.noisy.clone() * of(|step| step.posterior_mean()[1])
        };
        let log_variance = log_variance(self.steps, variance);
        // Where the first step leads, x_0 itself is what is expected.
        let (first, later) = (
            of(|step| f64::from(u8::from(step.kept_before == 1.0))),
            of(|step| f64::from(u8::from(step.kept_before < 1.0))),
        );
        let expected = self.image.clone() * first.clone() + mean_of(self.image.clone()) * later.clone();
        let off = expected - mean_of(image);
        let squares = off.clone() * off * log_variance.clone().neg().exp();
        let log_posterior = of(|step| step.log_posterior);
        let spread = (log_posterior.clone() - log_variance.clone()).exp() - log_posterior - 1.0;
        let density = first * (2.0 * PI).ln();
        (log_variance + squares + spread * later + density).mul_scalar(0.5)
    }
}

/// ln σ² of every pixel from v.
pub(super) fn log_variance(steps: &[Noise], variance: Tensor<3>) -> Tensor<3> {
    let most = per_image(steps, |step| step.beta.ln(), &variance);
    let least = per_image(steps, |step| step.log_posterior, &variance);
    let share = (variance + 1.0).mul_scalar(0.5);
    least.clone() + share * (most - least)
}

/// A number of the step of each image, `[batch, 1, 1]`, where `like` is.
pub(super) fn per_image(steps: &[Noise], value: impl Fn(&Noise) -> f64, like: &Tensor<3>) -> Tensor<3> {
    let values: Vec<f32> = steps.iter().map(|step| value(step) as f32).collect();
    let data = TensorData::new(values, [steps.len(), 1, 1]);
    Tensor::from_data(data, &like.device())
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::train::diffusion::schedule::{NoiseKind, NoiseSchedule};

    const PIXELS: usize = 5;

    fn numbers(salt: usize) -> Vec<f32> {
        (0..2 * PIXELS)
            .map(|i| (1.7 * (i + 10 * salt) as f32).sin())
            .collect()
    }

    fn tensor(values: Vec<f32>) -> Tensor<3> {
        Tensor::from_data(TensorData::new(values, [2, PIXELS, 1]), &Device::flex())
    }

    /// The divergence of two normal distributions, or the density of one, by their definitions.
    #[test]
    fn the_loss_is_the_mean_square_and_the_divergence() {
        let schedule = NoiseSchedule::new(NoiseKind::Cosine, 20).unwrap();
        for chosen in [[0, 7], [19, 1]] {
            let steps = chosen.map(|t| *schedule.step(t));
            let (image, noise, predicted, v) = (numbers(0), numbers(1), numbers(2), numbers(3));
            let noised = Noised::new(tensor(image.clone()), tensor(noise.clone()), &steps);
            let found = noised.loss([tensor(predicted.clone()), tensor(v.clone())], 3.0);
            let found = f64::from(found.into_scalar::<f32>());
            let mut expected = 0.0;
            for i in 0..2 * PIXELS {
                let (t, step) = (chosen[i / PIXELS], &steps[i / PIXELS]);
                let [image, noise, predicted, v] =
                    [&image, &noise, &predicted, &v].map(|of| f64::from(of[i]));
                let alpha = 1.0 - step.beta;
                let noisy = step.kept.sqrt() * image + (1.0 - step.kept).sqrt() * noise;
                let mean = (noisy - step.beta / (1.0 - step.kept).sqrt() * predicted) / alpha.sqrt();
                let log_variance = (1.0 + v) / 2.0 * step.beta.ln() + (1.0 - v) / 2.0 * step.log_posterior;
                let variance = log_variance.exp();
                let bound = if t == 0 {
                    0.5 * ((2.0 * PI * variance).ln() + (image - mean).powi(2) / variance)
                } else {
                    let known = (noisy - step.beta / (1.0 - step.kept).sqrt() * noise) / alpha.sqrt();
                    let posterior = step.beta * (1.0 - step.kept_before) / (1.0 - step.kept);
                    0.5 * ((variance / posterior).ln() + (posterior + (known - mean).powi(2)) / variance
                        - 1.0)
                };
                expected += ((noise - predicted).powi(2) + 3.0 * bound) / (2 * PIXELS) as f64;
            }
            assert!(
                (found / expected - 1.0).abs() < 2e-4,
                "{chosen:?}: {found}, {expected}"
            );
        }
    }
}
