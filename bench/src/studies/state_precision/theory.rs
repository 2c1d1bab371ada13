//! What independent roundings would come to.
//!
//! Every token adds an error of ε times the size of the state, in a direction of its own, and the law takes errors away as it takes
//! memories away. Where a state's size is steady, the relative error after t tokens is then
//!
//! ```text
//! ε √((1 − ρ^t) / (1 − ρ)),   ρ = a²                 weighted sum: towards ε/√(1 − a²), and ε√t where nothing is forgotten
//!                             ρ = a² (1 − β(2 − β)/K)   delta rule with unit keys in random directions of R^K
//! ```
//!
//! and where the keys of a head forget differently, the mean of the squares over its rows, weighted by what they hold. The second ρ is the
//! mean of ‖(I − β k kᵀ) e‖² / ‖e‖² over directions k. ε is measured: the relative error of rounding the true state once.
//!
//! What it leaves out is what goes wrong. A change below half a unit of the last place is rounded away, every time and in the same
//! direction, if rounding is to the nearest. While the writes of a token are larger than that they dither the decay's small changes, and
//! roundings are as good as independent; once they are not, the state stands still.

/// √((1 − ρ^t)/(1 − ρ)) over the rows of a state, where `held` is ‖row‖².
pub fn growth(rho: &[f64], held: &[f64], tokens: u64) -> f64 {
    let of_row = |rho: f64| match 1.0 - rho {
        // The sum of t ones, and of what is one within rounding.
        forgotten if forgotten < 1e-15 => tokens as f64,
        forgotten => -(tokens as f64 * rho.ln()).exp_m1() / forgotten,
    };
    let whole: f64 = held.iter().sum();
    let weighted: f64 = rho.iter().zip(held).map(|(rho, held)| held * of_row(*rho)).sum();
    (weighted / whole).sqrt()
}

/// ρ of every key.
pub fn contraction(log_decays: &[f64], beta: Option<f64>) -> Vec<f64> {
    let keys = log_decays.len() as f64;
    let erased = beta.map_or(1.0, |beta| 1.0 - beta * (2.0 - beta) / keys);
    log_decays.iter().map(|log| (2.0 * log).exp() * erased).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_growth_is_that_of_a_sum_of_independent_errors() {
        let rho: f64 = 0.98;
        let by_hand: f64 = (0..50).map(|age| rho.powi(age)).sum();
        assert!((growth(&[rho], &[3.0], 50) - by_hand.sqrt()).abs() < 1e-12);
        let steady = 1.0 / (1.0 - rho).sqrt();
        assert!((growth(&[rho], &[3.0], 1 << 20) - steady).abs() < 1e-12);
        assert_eq!(growth(&[1.0, 1.0], &[1.0, 2.0], 400), 20.0);
        // A row that holds nothing adds nothing.
        assert_eq!(growth(&[1.0, 0.5], &[1.0, 0.0], 100), 10.0);
    }

    #[test]
    fn a_delta_rule_takes_errors_away_along_its_keys() {
        assert_eq!(contraction(&[0.0; 4], Some(1.0)), [0.75; 4]);
        assert_eq!(contraction(&[0.0; 4], None), [1.0; 4]);
    }
}
