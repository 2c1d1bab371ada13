//! Gradients of all parameters, in the order of the list: their size, and their sum over the pieces of a step.

use burn::tensor::{DType, Tensor};

use super::error::OptimizerError;
use super::host;

/// Σ g² over the values of every gradient that there is. The sum of one is NaN or infinite exactly if one of its values is: the
/// squares of finite f32 values do not leave f64.
pub(super) fn square_sums(gradients: &[Option<Tensor<1>>]) -> Vec<Option<f64>> {
    match gradients.iter().flatten().all(host::is_host) {
        true => gradients
            .iter()
            .map(|g| g.as_ref().map(host::square_sum))
            .collect(),
        false => on_the_device(gradients),
    }
}

/// As [`square_sums`], on another device: with m = max |g|, only m and Σ (g/m)² of every gradient come to the host, together. The
/// quotients keep f32 from overflowing, and from losing what is small.
fn on_the_device(gradients: &[Option<Tensor<1>>]) -> Vec<Option<f64>> {
    let has_values = |gradient: &&Tensor<1>| gradient.dims() != [0];
    let parts: Vec<Tensor<1>> = gradients
        .iter()
        .flatten()
        .filter(has_values)
        .flat_map(peak_and_sum)
        .collect();
    let read: Vec<f32> = match parts.is_empty() {
        true => Vec::new(),
        false => Tensor::cat(parts, 0).into_data().iter::<f32>().collect(),
    };
    let mut pairs = read.as_chunks::<2>().0.iter();
    let mut sum = |gradient: &Tensor<1>| match has_values(&gradient) {
        true => pairs
            .next()
            .map_or(0.0, |[peak, sum]| f64::from(*peak).powi(2) * f64::from(*sum)),
        false => 0.0,
    };
    gradients
        .iter()
        .map(|gradient| gradient.as_ref().map(&mut sum))
        .collect()
}

/// m = max |g| and Σ (g/m)².
fn peak_and_sum(gradient: &Tensor<1>) -> [Tensor<1>; 2] {
    let gradient = gradient.clone().cast(DType::F32);
    let peak = gradient.clone().max_abs();
    let quotients = gradient / peak.clone().clamp_min(f32::MIN_POSITIVE);
    [peak, quotients.square().sum()]
}

/// Sums of gradients over the pieces of one step: batches that do not fit into memory together, or segments.
///
/// Every piece gives the gradients of its *summed* loss and the sum of its targets' weights; the mean over all targets of the step
/// is then the sum of the gradients divided by the sum of the weights, however the step is cut.
#[derive(Clone, Debug, Default)]
pub struct Accumulator {
    sums: Vec<Option<Tensor<1>>>,
    weight: f64,
}

impl Accumulator {
    /// Adds the gradients of the summed loss of one piece, and the sum of its targets' weights.
    ///
    /// # Errors
    /// [`OptimizerError::Mismatch`] when there are more or fewer gradients than in the pieces before, or of another length.
    pub fn add(&mut self, gradients: Vec<Option<Tensor<1>>>, weight: f64) -> Result<(), OptimizerError> {
        self.expect(&gradients)?;
        self.weight += weight;
        if self.sums.is_empty() {
            self.sums = gradients;
            return Ok(());
        }
        for (sum, gradient) in self.sums.iter_mut().zip(gradients) {
            *sum = match (sum.take(), gradient) {
                (Some(sum), Some(gradient)) => Some(sum + gradient),
                (sum, gradient) => sum.or(gradient),
            };
        }
        Ok(())
    }

    fn expect(&self, gradients: &[Option<Tensor<1>>]) -> Result<(), OptimizerError> {
        let (expected, found) = (self.sums.len(), gradients.len());
        if expected != 0 && expected != found {
            return Err(OptimizerError::mismatch(
                "accumulated gradients",
                format!("{expected}, as before"),
                found,
            ));
        }
        let pairs = self.sums.iter().zip(gradients).enumerate();
        for (index, pair) in pairs {
            if let (Some(sum), Some(gradient)) = pair
                && sum.dims() != gradient.dims()
            {
                return Err(OptimizerError::mismatch(
                    format!("accumulated gradient {index}"),
                    format!("{:?} values, as before", sum.dims()),
                    format!("{:?}", gradient.dims()),
                ));
            }
        }
        Ok(())
    }

    /// The sums so far, in the order of the list.
    pub(in crate::train) fn sums(&self) -> &[Option<Tensor<1>>] {
        &self.sums
    }

    /// Puts other sums, of another weight, in the place of these.
    pub(in crate::train) fn replace(&mut self, sums: Vec<Option<Tensor<1>>>, weight: f64) {
        *self = Self { sums, weight };
    }

    /// The sum of the weights so far.
    pub fn weight(&self) -> f64 {
        self.weight
    }

    /// The gradients of the mean over all targets.
    ///
    /// # Errors
    /// [`OptimizerError::Weight`] unless the weights have a positive, finite sum.
    pub fn mean(self) -> Result<Vec<Option<Tensor<1>>>, OptimizerError> {
        let weight = self.weight;
        if !(weight.is_finite() && weight > 0.0) {
            return Err(OptimizerError::Weight { found: weight });
        }
        let mean = |sum: Tensor<1>| match host::is_host(&sum) {
            true => host::divided(sum, weight),
            false => sum.div_scalar(weight),
        };
        Ok(self.sums.into_iter().map(|sum| sum.map(mean)).collect())
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn tensor(values: &[f32]) -> Tensor<1> {
        Tensor::from_floats(values, &Device::flex())
    }

    #[test]
    fn both_ways_of_summing_squares_agree() {
        let waves: Vec<f32> = (0..1003).map(|i| (i as f32 * 0.37).sin()).collect();
        let gradients = [
            Some(tensor(&waves)),
            None,
            Some(tensor(&[])),
            Some(tensor(&[0.0; 5])),
            // The squares are beyond f32, upwards and downwards.
            Some(tensor(&[3e30, -4e30])),
            Some(tensor(&[3e-30, 4e-30])),
        ];
        let expected: f64 = waves.iter().map(|v| f64::from(*v).powi(2)).sum();
        for found in [square_sums(&gradients), on_the_device(&gradients)] {
            let root = |index: usize| f64::sqrt(found[index].unwrap());
            // A thousand f32 additions on the device, eight lanes of f64 on the host.
            assert!((root(0) / expected.sqrt() - 1.0).abs() < 1e-5, "{found:?}");
            assert_eq!((found[1], found[2], found[3]), (None, Some(0.0), Some(0.0)));
            assert!((root(4) / 5e30 - 1.0).abs() < 1e-6, "{found:?}");
            assert!((root(5) / 5e-30 - 1.0).abs() < 1e-6, "{found:?}");
        }
        assert!((square_sums(&gradients)[0].unwrap() / expected - 1.0).abs() < 1e-13);
    }

    #[test]
    fn a_sum_is_finite_if_and_only_if_all_values_are() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let gradients = [Some(tensor(&[1.0, bad, 2.0])), Some(tensor(&[f32::MAX; 9]))];
            for found in [square_sums(&gradients), on_the_device(&gradients)] {
                assert!(
                    !found[0].unwrap().is_finite() && found[1].unwrap().is_finite(),
                    "{found:?}"
                );
            }
        }
    }

    #[test]
    fn pieces_of_other_numbers_or_lengths_are_refused() {
        let mut sums = Accumulator::default();
        sums.add(vec![Some(tensor(&[1.0])), None], 1.0).unwrap();
        assert!(sums.add(vec![None], 1.0).is_err());
        assert!(sums.add(vec![Some(tensor(&[1.0, 2.0])), None], 1.0).is_err());
        assert_eq!(sums.weight(), 1.0);
    }
}
