//! The six points of the published state-capacity experiment and the laws stated for them.
//!
//! Sizes are millions of state elements of Mamba-2 models, lengths thousands of tokens; the first point, (0, 0), is no model.
//! T_forget is the shortest training length, of powers of two, at which the model no longer collapses; T_recall the longest context
//! in which it finds a passkey. Read off the figure of Chen et al., *Stuffed Mamba* (2410.07145).

use super::observation::{Observation, Point};

/// State elements in millions.
pub const SIZES: [f64; 6] = [0.0, 1.1, 1.6, 2.4, 4.8, 12.9];
/// T_forget in thousands of tokens.
pub const FORGET: [f64; 6] = [0.0, 1.0, 2.0, 8.0, 16.0, 64.0];
/// T_recall in thousands of tokens.
pub const RECALL: [f64; 6] = [0.0, 1.0, 2.0, 4.0, 16.0, 256.0];
/// The line stated for T_forget: a, b.
pub const FORGET_LINE: [f64; 2] = [5.172, -4.469];
/// The exponential stated for T_recall, a (1.365^S − 1) + b: a, b, c = ln 1.365.
pub const RECALL_EXPONENTIAL: [f64; 3] = [4.756, -0.742, 0.311_154_428_636_923_05];

/// All six as if the lengths were exact, as they were fitted.
pub fn as_fitted(lengths: &[f64; 6]) -> Vec<Point> {
    points(lengths, Observation::Exact).collect()
}

/// The five models, without the point at (0, 0).
pub fn real(lengths: &[f64; 6]) -> Vec<Point> {
    points(lengths, Observation::Exact).skip(1).collect()
}

/// The five models with what is known of them: T_forget was tried in powers of two, so that it lies in (T/2, T].
pub fn intervals(lengths: &[f64; 6]) -> Vec<Point> {
    points(lengths, Observation::halved).skip(1).collect()
}

fn points(lengths: &[f64; 6], observed: fn(f64) -> Observation) -> impl Iterator<Item = Point> {
    let pairs = SIZES.iter().zip(lengths);
    pairs.map(move |(&size, &length)| Point {
        size,
        length: observed(length),
    })
}

/// T_recall of the five models against the training length at which each no longer collapses, both in thousands of tokens: [`RECALL`] over
/// [`FORGET`]. T_recall is the longest over all training lengths, so that these points hold what is known of the two together, and no
/// more.
pub fn recall_by_training_length() -> Vec<Point> {
    let pairs = FORGET.iter().zip(&RECALL).skip(1);
    let points = pairs.map(|(&training, &recall)| Point {
        size: training,
        length: Observation::Exact(recall),
    });
    points.collect()
}

/// Share of right answers of Mamba-2 to multi-query associative recall, by elements of state: means over 4 to 256 pairs in 64 to 1,024 tokens,
/// after training on up to 64 pairs in 256. Read off a plot of Arora et al., *Zoology* (2312.04927, and its code's later runs), to ±0.03.
pub const PAIRS_MAMBA2: [(f64, f64); 4] = [(8e3, 0.52), (1.6e4, 0.69), (3.3e4, 0.79), (1e5, 0.84)];
