//! Means over seeds, with 95 % intervals.

use serde::Serialize;
use spillway_models::evaluation::quantile::student;

/// One number of each of several trainings that differ in their seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The numbers, in the order of the seeds.
    pub values: Vec<f64>,
    /// Mean of the values; not a number where one of them is not.
    pub mean: f64,
    /// mean ± t s / √n, with s² = Σ(x − mean)² / (n − 1) and t the 97.5 % quantile of Student's distribution of n − 1 degrees of
    /// freedom; absent below two numbers, and where one is not finite.
    pub interval: Option<[f64; 2]>,
}

/// Which side of 0 an interval lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The whole interval lies below.
    Below,
    /// 0 is in it.
    Both,
    /// The whole interval lies above.
    Above,
    /// There is no interval.
    Unknown,
}

impl Estimate {
    /// Mean and interval of `values`.
    pub fn of(values: Vec<f64>) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let half = student(values.len().saturating_sub(1)) * (squares / (n - 1.0) / n).sqrt();
        Self {
            interval: (values.len() > 1 && half.is_finite()).then_some([mean - half, mean + half]),
            values,
            mean,
        }
    }

    /// Which side of 0 the interval lies on.
    pub fn side(&self) -> Side {
        match self.interval {
            None => Side::Unknown,
            Some([low, _]) if low > 0.0 => Side::Above,
            Some([_, high]) if high < 0.0 => Side::Below,
            Some(_) => Side::Both,
        }
    }

    /// The mean alone, or with its interval: `1.52 (1.50 to 1.54)`.
    pub fn text(&self) -> String {
        let interval = self
            .interval
            .map(|[low, high]| format!(" ({} to {})", signed(low), signed(high)));
        signed(self.mean) + &interval.unwrap_or_default()
    }
}

/// Two decimals, with a minus of its proper width and never before a zero.
fn signed(value: f64) -> String {
    let text = format!("{:.2}", value.abs());
    match value {
        v if !v.is_finite() => "not finite".into(),
        v if v < 0.0 && text != "0.00" => format!("\u{2212}{text}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_those_of_student() {
        let estimate = Estimate::of(vec![1.0, 2.0, 3.0]);
        let [low, high] = estimate.interval.expect("three numbers");
        // s = 1, t(2) = 4.302653, half the width 4.302653 / √3.
        assert!((estimate.mean - 2.0).abs() < 1e-12);
        assert!((high - low - 2.0 * 4.302_652_729_7 / 3.0_f64.sqrt()).abs() < 1e-9);
        assert_eq!(estimate.side(), Side::Both);
        assert_eq!(Estimate::of(vec![1.0, 1.1, 0.9]).side(), Side::Above);
        assert_eq!(Estimate::of(vec![-1.0, -1.1, -0.9]).side(), Side::Below);
        // 40 and 120 degrees of freedom: 2.021 and 1.980 in every table.
        assert!((student(40) - 2.021).abs() < 1e-3 && (student(120) - 1.980).abs() < 1e-3);
    }

    #[test]
    fn one_number_or_none_that_is_finite_has_no_interval() {
        for values in [vec![1.0], vec![], vec![1.0, f64::NAN], vec![1.0, f64::INFINITY]] {
            let estimate = Estimate::of(values);
            assert_eq!((estimate.interval, estimate.side()), (None, Side::Unknown));
        }
        assert_eq!(Estimate::of(vec![1.25]).text(), "1.25");
        assert_eq!(Estimate::of(vec![f64::NAN]).text(), "not finite");
        assert_eq!(Estimate::of(vec![-0.004, -0.004]).text(), "0.00 (0.00 to 0.00)");
    }
}
