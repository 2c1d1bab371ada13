//! How a model does beyond its training length T: measurements that need nothing but the model and ids.
//!
//! | module | what is in it |
//! |---|---|
//! | [`positions`] | buckets of positions |
//! | [`tally`] | means kept as sums, and the mean loss of each bucket |
//! | [`streams`] | loss against position over streams of any length |
//! | [`collapse`] | the published criterion of collapse, and the excess over the end of the training length |
//! | [`diagnosis`] | where a model collapses, in which heads, and which treatment cures it |
//! | [`laws`] | laws of a length against a size of the state, fitted to few points of which often only intervals are known |
//! | [`answers`] | right answers to what a synthetic task asks |
//! | [`passkey`] | questions for hidden digits, and T_recall |
//! | [`passkey_text`] | the same in words, for models with a tokenizer |
//! | [`recall`] | does a model answer from a document, and does it gain by reading it twice? |
//! | [`quantile`], [`wilson`] | quantiles of numbers and of Student's distribution; intervals for shares of successes |
//!
//! ```
//! use spillway_models::evaluation::collapse::collapse;
//! use spillway_models::evaluation::positions::Buckets;
//! use spillway_models::evaluation::streams::{loss_by_position, spread};
//! use spillway_models::{LoadOptions, Model};
//!
//! let model = Model::shipped(&LoadOptions::default())?;
//! let ids = model.tokenizer().encode(spillway_models::shipped_text())?;
//! let streams = spread(&ids, 2, 512);
//! let curve = loss_by_position(&model, &streams, &Buckets::doubling(64, 512), None)?;
//! assert_eq!(curve.iter().map(|bucket| bucket.end).collect::<Vec<_>>(), [32, 64, 128, 256, 512]);
//! let found = collapse(&curve, 64, 2.0);
//! println!("largest loss beyond 64 tokens / largest inside: {:.2}", found.published.loss_ratio);
//! # Ok::<(), spillway_models::ModelError>(())
//! ```

pub mod answers;
pub mod collapse;
pub mod diagnosis;
pub mod laws;
pub mod passkey;
pub mod passkey_text;
pub mod positions;
pub mod quantile;
pub mod recall;
pub mod streams;
pub mod tally;
pub mod wilson;

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// JSON knows neither NaN nor infinity: both are written as `null`, which is read as NaN.
fn not_finite_is_null<'a, D: Deserializer<'a>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// As [`not_finite_is_null`] for numbers with names.
fn not_finite_are_null<'a, D: Deserializer<'a>>(deserializer: D) -> Result<BTreeMap<String, f64>, D::Error> {
    let numbers = BTreeMap::<String, Option<f64>>::deserialize(deserializer)?;
    let numbers = numbers.into_iter();
    Ok(numbers
        .map(|(name, number)| (name, number.unwrap_or(f64::NAN)))
        .collect())
}
