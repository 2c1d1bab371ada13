//! The definition in f64.

/// Cross-entropy of one row, −log softmax(logits)\[target\].
pub fn cross_entropy(logits: &[f32], target: usize) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|&x| (f64::from(x) - f64::from(largest)).exp())
        .sum();
    f64::from(largest) + sum.ln() - f64::from(logits[target])
}

/// softmax(logits) − \[j = target\] for every class j.
pub fn backward(logits: &[f32], target: usize) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials: Vec<f64> = logits
        .iter()
        .map(|&x| (f64::from(x) - f64::from(largest)).exp())
        .collect();
    let sum: f64 = exponentials.iter().sum();
    let mut gradient: Vec<f64> = exponentials.iter().map(|e| e / sum).collect();
    let others = exponentials.iter().enumerate().filter(|&(j, _)| j != target);
    gradient[target] = -others.map(|(_, e)| e).sum::<f64>() / sum;
    gradient
}
