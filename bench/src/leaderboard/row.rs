//! What is known of one mitigation, and of all of them.

use crate::choice::Skipped;
use crate::error::ProgramError;
use crate::settings::Settings;
use crate::trial::NONE;
use serde::{Deserialize, Serialize};
use spillway_models::Info;
use spillway_models::evaluation::wilson;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::Path;

/// Name of the file that a comparison goes on from.
pub const FILE: &str = "leaderboard.json";
/// Name of the JSON form.
const FORMAT: &str = "spillway-leaderboard";
/// What is never recommended: the model alone, what a prompt cannot be continued with, and what is there to hold others against.
const CONTROLS: [&str; 6] = [
    NONE,
    "restart",
    "c-scale",
    "ablate",
    "fitted-noise",
    "state-dtype",
];
/// Nats per token that a mitigation has to gain to be worth a try: what the table can tell.
pub const TELLING: f64 = 1e-3;
/// Version of the table that is saved: raised when a field changes its meaning or goes away.
const VERSION: u32 = 1;

/// A row of the table: what is known of one mitigation. Losses that are not finite are absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Text form; `none` is the model alone.
    pub mitigation: String,
    /// What `--mitigation` takes to have the same again: the text form, or `@` and the file that holds calibrated numbers.
    #[serde(default)]
    pub spec: String,
    /// Mean loss inside the training length T, in nats per token.
    pub inside: Option<f64>,
    /// How much larger the loss inside T is than the model's alone, in nats per token.
    pub cost: Option<f64>,
    /// Loss at the multiples of T, shortest first.
    pub lengths: Vec<AtLength>,
    /// Passkeys, shortest prompts first; empty without a tokenizer.
    pub passkeys: Vec<PasskeyScore>,
    /// Tokens per second of a prompt; `None` until it is timed, which is done last.
    #[serde(default)]
    pub prefill_tokens_per_second: Option<f64>,
    /// Tokens per second one by one, from the state after that prompt.
    #[serde(default)]
    pub decode_tokens_per_second: Option<f64>,
    /// Largest memory of one stream's state, mitigation included, in bytes.
    pub state_bytes: u64,
    /// What the mitigation counted, averaged over recurrences and streams.
    pub counts: BTreeMap<String, f64>,
    /// The numbers that were fitted, if any were.
    pub fit: Option<Fit>,
    /// Time that measuring took, added up over all that measured at a time.
    pub seconds: f64,
}

impl Row {
    /// Loss at the longest length; `None` where it is not finite.
    pub fn last_loss(&self) -> Option<f64> {
        self.lengths.last().and_then(|at| at.loss)
    }

    /// Whether its speeds are measured.
    pub fn is_timed(&self) -> bool {
        self.prefill_tokens_per_second.is_some() && self.decode_tokens_per_second.is_some()
    }

    /// Whether it is there to hold others against, or cannot be used in a prompt.
    pub fn is_control(&self) -> bool {
        CONTROLS.iter().any(|name| self.mitigation.starts_with(name))
    }

    /// Passkeys found and asked for, all lengths together.
    pub fn passkeys_found(&self) -> (u64, u64) {
        let scores = self.passkeys.iter();
        scores.fold((0, 0), |sum, score| {
            (sum.0 + score.correct, sum.1 + score.samples)
        })
    }
}

/// Numbers fitted on text that is not evaluated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fit {
    /// Text form of the mitigation with the numbers.
    pub mitigation: String,
    /// Mean loss of the samples fitted on, without and with them.
    #[serde(with = "maybe_infinite")]
    pub calibration: [f64; 2],
    /// Mean loss of the samples that the fit did not see, without and with them.
    #[serde(with = "maybe_infinite")]
    pub test: [f64; 2],
}

/// Losses of which some are not finite, which JSON says as `null`: they come back as infinite.
mod maybe_infinite {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(losses: &[f64; 2], serializer: S) -> Result<S::Ok, S::Error> {
        losses.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[f64; 2], D::Error> {
        let losses = <[Option<f64>; 2]>::deserialize(deserializer)?;
        Ok(losses.map(|loss| loss.unwrap_or(f64::INFINITY)))
    }
}

/// Loss over the last T tokens of a length.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AtLength {
    /// The length in training lengths.
    pub factor: u64,
    /// Mean loss in nats per token.
    pub loss: Option<f64>,
    /// How much larger the mean loss is than the baseline's over the same tokens, in nats per token.
    pub over_baseline: Option<f64>,
    /// Standard error of the mean, tokens taken as independent.
    pub standard_error: Option<f64>,
    /// Number of tokens that the loss is the mean over.
    pub tokens: u64,
}

/// Passkeys found at one length.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PasskeyScore {
    /// Length asked for, in tokens.
    pub length: u64,
    /// Whether that is inside the training length.
    pub inside: bool,
    /// Number of prompts, each with one passkey.
    pub samples: u64,
    /// Number of prompts whose passkey was found.
    pub correct: u64,
    /// Share of the passkeys that were found, `correct / samples`.
    pub accuracy: f64,
    /// Ends of the Wilson 95 % interval.
    pub wilson: [f64; 2],
}

/// Everything that a comparison has measured: the content of `leaderboard.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Leaderboard {
    /// Name of the file's format, `spillway-leaderboard`.
    pub format: &'static str,
    /// Version of the format.
    pub version: u32,
    /// Whether every row is there.
    pub complete: bool,
    /// The model that mitigations are compared on.
    pub model: Info,
    /// What decides the numbers, and what `--resume` compares.
    pub settings: Settings,
    /// Who says what the training length is.
    pub train_length_source: String,
    /// Name of the text.
    pub text: String,
    /// Tokens of it that are evaluated.
    pub text_tokens: u64,
    /// Tokens of it that mitigations are calibrated and fitted on, apart from the others.
    pub calibration_tokens: u64,
    /// The lengths, in training lengths.
    pub factors: Vec<u64>,
    /// The row that others are held against.
    pub baseline: String,
    /// Number of threads that speeds were measured with.
    pub threads: usize,
    /// The rows, the smallest loss at the longest length first.
    pub rows: Vec<Row>,
    /// Mitigations of the catalogue that were left out, each with the reason.
    pub skipped: Vec<Skipped>,
}

impl Leaderboard {
    /// The row with the smallest loss at the longest length, if that is smaller than the model's alone by [`TELLING`], a prompt can be continued
    /// with it, it is not there as a control, and it finds as many passkeys as the model alone, all lengths together.
    pub fn best(&self) -> Option<&Row> {
        let mut rows = self
            .rows
            .iter()
            .filter(|row| !row.spec.is_empty() && !row.is_control());
        rows.find(|row| self.gains(row) && self.keeps_recall(row))
    }

    /// Whether the loss at the longest length is smaller than the model's alone, by [`TELLING`].
    pub fn gains(&self, row: &Row) -> bool {
        let alone = self.row(NONE).and_then(Row::last_loss).unwrap_or(f64::INFINITY);
        row.last_loss().is_some_and(|loss| loss < alone - TELLING)
    }

    /// Whether as many passkeys are found as by the model alone, all lengths together.
    pub fn keeps_recall(&self, row: &Row) -> bool {
        let (found, asked) = row.passkeys_found();
        let alone = self.row(NONE).map(Row::passkeys_found);
        alone.is_none_or(|(by_alone, of_alone)| found * of_alone >= by_alone * asked)
    }

    /// Whether more than by chance fewer passkeys are found than by the model alone, all lengths together: Newcombe's 95 % interval of the difference lies below 0
    /// (Statistics in Medicine 17, 1998, method 10).
    pub fn loses_recall(&self, row: &Row) -> bool {
        let Some(alone) = self.row(NONE) else {
            return false;
        };
        let ((found, asked), (by_alone, of_alone)) = (row.passkeys_found(), alone.passkeys_found());
        if asked == 0 || of_alone == 0 {
            return false;
        }
        let share = |found: u64, asked: u64| found as f64 / asked as f64;
        let (with, without) = (share(found, asked), share(by_alone, of_alone));
        let above = wilson::interval(found, asked).1 - with;
        let below = without - wilson::interval(by_alone, of_alone).0;
        with - without + above.hypot(below) < 0.0
    }

    /// Without rows; lengths, text and the rest are left to the caller.
    pub fn new(model: &Info, settings: Settings) -> Self {
        Self {
            format: FORMAT,
            version: VERSION,
            complete: false,
            model: model.clone(),
            settings,
            train_length_source: String::new(),
            text: String::new(),
            text_tokens: 0,
            calibration_tokens: 0,
            factors: Vec::new(),
            baseline: String::new(),
            threads: 0,
            rows: Vec::new(),
            skipped: Vec::new(),
        }
    }

    /// Takes a row in, and everything that follows from comparing it with the others.
    pub fn add(&mut self, row: Row) {
        self.rows.push(row);
        self.settle();
    }

    /// Differences from the model alone and from the baseline, and the order.
    fn settle(&mut self) {
        let of = |name: &str| self.row(name).cloned();
        let (alone, baseline) = (of(NONE), of(&self.baseline));
        let difference = |a: Option<f64>, b: Option<f64>| Some(a? - b?);
        for row in &mut self.rows {
            row.cost = difference(row.inside, alone.as_ref().and_then(|alone| alone.inside));
            for (index, at) in row.lengths.iter_mut().enumerate() {
                let other = baseline.as_ref().and_then(|row| row.lengths.get(index)?.loss);
                at.over_baseline = difference(at.loss, other);
            }
        }
        self.rows
            .sort_by(|a, b| smaller_first(a.last_loss(), b.last_loss()));
    }

    /// The row with this text form.
    pub fn row(&self, mitigation: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.mitigation == mitigation)
    }

    /// As [`Self::row`], to be changed.
    pub fn row_mut(&mut self, mitigation: &str) -> Option<&mut Row> {
        self.rows.iter_mut().find(|row| row.mitigation == mitigation)
    }

    /// Takes over the rows of an interrupted comparison.
    ///
    /// # Errors
    /// [`ProgramError::Usage`] for other settings, [`ProgramError::File`] and [`ProgramError::Content`] for a file that cannot
    /// be read.
    pub fn resume(&mut self, path: &Path) -> Result<(), ProgramError> {
        let text = spillway_models::input::read_text(path, spillway_models::input::MAX_SETTINGS)
            .map_err(ProgramError::file("read", path))?;
        let saved = Saved::parse(path, &text)?;
        saved.settings.expect(&self.settings)?;
        self.rows = saved.rows;
        self.settle();
        Ok(())
    }
}

/// What an interrupted comparison goes on from.
#[derive(Debug, Deserialize)]
pub struct Saved {
    version: u32,
    settings: Settings,
    factors: Vec<u64>,
    rows: Vec<Row>,
}

impl Saved {
    /// The rows in the text of a file.
    ///
    /// # Errors
    /// [`ProgramError::Content`] for a text of another kind or version, and for rows of other lengths than it names.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ProgramError> {
        let content = |expected: String, found: String| ProgramError::content(path, expected, found);
        let saved: Self =
            serde_json::from_str(text).map_err(|error| content("a leaderboard".into(), error.to_string()))?;
        if saved.version != VERSION {
            return Err(content(format!("version {VERSION}"), saved.version.to_string()));
        }
        let fits = |row: &&Row| {
            row.lengths
                .iter()
                .map(|at| at.factor)
                .eq(saved.factors.iter().copied())
        };
        match saved.rows.iter().find(|row| !fits(row)) {
            Some(row) => Err(content(
                format!("a loss at each of {:?} training lengths", saved.factors),
                format!("other lengths for {}", row.mitigation),
            )),
            None => Ok(saved),
        }
    }
}

/// A loss that is not a number comes last.
fn smaller_first(a: Option<f64>, b: Option<f64>) -> Ordering {
    let rank = |value: Option<f64>| value.unwrap_or(f64::INFINITY);
    rank(a).total_cmp(&rank(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A row with this loss at the longest length, and so many of 40 passkeys found, half of them beyond T.
    fn row(mitigation: &str, loss: f64, correct: u64) -> Row {
        let score = |inside: bool, correct: u64| json!({ "length": 64, "inside": inside, "samples": 20, "correct": correct, "accuracy": 0.0, "wilson": [0.0, 1.0] });
        let passkeys = [
            score(true, correct.min(20)),
            score(false, correct.saturating_sub(20)),
        ];
        let row = json!({
            "mitigation": mitigation, "spec": mitigation, "inside": 1.0, "cost": null, "fit": null, "counts": {},
            "lengths": [{ "factor": 2, "loss": loss, "over_baseline": null, "standard_error": null, "tokens": 64 }],
            "passkeys": passkeys, "prefill_tokens_per_second": 1.0, "decode_tokens_per_second": 1.0, "state_bytes": 1, "seconds": 1.0,
        });
        serde_json::from_value(row).expect("a row")
    }

    fn board_of(rows: &[Row]) -> Leaderboard {
        let model = spillway_models::Model::shipped(&spillway_models::LoadOptions::default())
            .expect("the shipped model");
        let settings = Settings {
            program: String::new(),
            model: String::new(),
            text: String::new(),
            fingerprint: 0,
            dtype: String::new(),
            device: String::new(),
            length: 128,
            train_length: 64,
            streams: Vec::new(),
            mitigations: Vec::new(),
        };
        let mut board = Leaderboard::new(model.info(), settings);
        rows.iter().for_each(|row| board.add(row.clone()));
        board
    }

    fn best_of(rows: &[Row]) -> Option<String> {
        board_of(rows).best().map(|row| row.mitigation.clone())
    }

    #[test]
    fn no_cure_is_called_one_that_loses_what_the_model_recalls() {
        let alone = row("none", 2.0, 35);
        let (window, forget) = (row("window:64", 1.5, 36), row("forget:0.9", 1.2, 21));
        assert_eq!(
            best_of(&[alone.clone(), window.clone(), forget.clone()]).as_deref(),
            Some("window:64")
        );
        // What the model never found is not lost.
        let forgetful = row("none", 2.0, 0);
        assert_eq!(
            best_of(&[forgetful, window.clone(), row("forget:0.9", 1.2, 0)]).as_deref(),
            Some("forget:0.9")
        );
        // Nothing to cure.
        let well = row("none", 1.1, 35);
        assert_eq!(best_of(&[well, window, forget.clone()]), None);
        assert_eq!(best_of(&[alone.clone(), row("restart:64", 1.0, 35)]), None);
        assert_eq!(
            best_of(&[
                alone.clone(),
                row("c-scale:0.75", 1.5, 35),
                row("remember:0.75", 1.9999, 35)
            ]),
            None
        );
        // Five passkeys of forty may be chance, fourteen are not.
        let fewer = row("window:64", 1.5, 30);
        let board = board_of(&[alone, fewer.clone(), forget.clone()]);
        assert!(!board.keeps_recall(&fewer) && !board.loses_recall(&fewer) && board.loses_recall(&forget));
        assert_eq!(board.best(), None);
    }
}
