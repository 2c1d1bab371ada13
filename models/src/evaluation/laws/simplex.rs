//! Minimising a function of two to four numbers without derivatives.
//!
//! Source: Nelder & Mead, *A simplex method for function minimization*, The Computer Journal 7 (1965); with the usual
//! coefficients 1, 2, ½, ½, and begun anew around the best point until that gains nothing, which takes it out of a collapsed
//! simplex.

const MOST_STEPS: usize = 400;
/// Searches of a thorough minimisation at most, each begun anew at the best point so far.
pub const THOROUGH: usize = 4;
/// Differences of values, and of log-likelihoods in particular, below this mean nothing.
const TOLERANCE: f64 = 1e-9;

/// The lowest point found from `start` in at most `searches` searches, with edges of the first simplex of these lengths, and the value
/// there. Values that are not numbers count as +∞.
pub fn minimise(
    function: &dyn Fn(&[f64]) -> f64,
    start: &[f64],
    edges: &[f64],
    searches: usize,
) -> (Vec<f64>, f64) {
    let value = |point: &[f64]| {
        let value = function(point);
        if value.is_nan() { f64::INFINITY } else { value }
    };
    let mut best = (start.to_vec(), value(start));
    for _ in 0..searches {
        let found = search(&value, &best.0, edges);
        let gain = best.1 - found.1;
        if found.1 <= best.1 {
            best = found;
        }
        // An infinite start less an infinite end is no number, and no gain.
        if gain.is_nan() || gain < TOLERANCE {
            break;
        }
    }
    best
}

fn search(value: &dyn Fn(&[f64]) -> f64, start: &[f64], edges: &[f64]) -> (Vec<f64>, f64) {
    let mut simplex = vec![(start.to_vec(), value(start))];
    for (axis, edge) in edges.iter().enumerate() {
        let mut corner = start.to_vec();
        corner[axis] += edge;
        let height = value(&corner);
        simplex.push((corner, height));
    }
    for _ in 0..MOST_STEPS {
        simplex.sort_by(|a, b| a.1.total_cmp(&b.1));
        let spread = simplex[simplex.len() - 1].1 - simplex[0].1;
        if spread < TOLERANCE && size(&simplex) < 1e-6 {
            break;
        }
        step(value, &mut simplex);
    }
    simplex.sort_by(|a, b| a.1.total_cmp(&b.1));
    simplex.swap_remove(0)
}

/// Largest extent along an axis, relative to the best point.
fn size(simplex: &[(Vec<f64>, f64)]) -> f64 {
    let best = &simplex[0].0;
    let relative = |point: &[f64]| {
        let parts = point.iter().zip(best);
        parts
            .map(|(a, b)| (a - b).abs() / b.abs().max(1.0))
            .fold(0.0, f64::max)
    };
    simplex
        .iter()
        .map(|(point, _)| relative(point))
        .fold(0.0, f64::max)
}

/// Replaces the worst corner of a sorted simplex, or draws all of it towards the best.
fn step(value: &dyn Fn(&[f64]) -> f64, simplex: &mut [(Vec<f64>, f64)]) {
    let last = simplex.len() - 1;
    let axes = simplex[0].0.len();
    let centre: Vec<f64> = (0..axes)
        .map(|axis| simplex[..last].iter().map(|corner| corner.0[axis]).sum::<f64>() / last as f64)
        .collect();
    let worst = simplex[last].clone();
    let along = |factor: f64| {
        let parts = centre.iter().zip(&worst.0);
        let point: Vec<f64> = parts
            .map(|(centre, worst)| centre + factor * (worst - centre))
            .collect();
        let height = value(&point);
        (point, height)
    };
    let reflected = along(-1.0);
    if reflected.1 < simplex[0].1 {
        let expanded = along(-2.0);
        simplex[last] = if expanded.1 < reflected.1 {
            expanded
        } else {
            reflected
        };
        return;
    }
    if reflected.1 < simplex[last - 1].1 {
        simplex[last] = reflected;
        return;
    }
    let contracted = along(if reflected.1 < worst.1 { -0.5 } else { 0.5 });
    if contracted.1 < worst.1.min(reflected.1) {
        simplex[last] = contracted;
        return;
    }
    let best = simplex[0].0.clone();
    for corner in &mut simplex[1..] {
        for (coordinate, best) in corner.0.iter_mut().zip(&best) {
            *coordinate = best + 0.5 * (*coordinate - best);
        }
        corner.1 = value(&corner.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curved_valley_is_followed_to_its_lowest_point() {
        let rosenbrock = |p: &[f64]| (1.0 - p[0]).powi(2) + 100.0 * (p[1] - p[0] * p[0]).powi(2);
        let (point, value) = minimise(&rosenbrock, &[-1.2, 1.0], &[0.3, 0.3], THOROUGH);
        assert!(value < 1e-9, "{value} at {point:?}");
        assert!((point[0] - 1.0).abs() < 1e-4 && (point[1] - 1.0).abs() < 1e-4);
    }

    #[test]
    fn walls_and_functions_without_a_number_end_the_search() {
        let wall = |p: &[f64]| if p[0] < 1.0 { f64::NAN } else { p[0] * p[0] };
        let (point, value) = minimise(&wall, &[3.0], &[0.5], THOROUGH);
        assert!(
            (point[0] - 1.0).abs() < 1e-3 && (value - 1.0).abs() < 1e-3,
            "{point:?}"
        );
        let (_, value) = minimise(&|_: &[f64]| f64::NAN, &[0.0, 0.0], &[1.0, 1.0], THOROUGH);
        assert_eq!(value, f64::INFINITY);
    }
}
