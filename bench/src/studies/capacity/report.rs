//! Everything that a page of the experiment shows: `results.json`.

use super::analysis::{Analysis, Laws, Resampling};
use super::pairs::{PairsReport, PairsSetting};
use super::result::{RunResult, VERSION};
use super::threshold::Quantity;
use serde::{Deserialize, Serialize};
use spillway_models::evaluation::laws::published;

/// How the sweep was made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Setting {
    /// Name of the configuration.
    pub name: String,
    /// The command that made the report.
    pub command: String,
    /// Text of the sweep's configuration file.
    pub configuration: String,
    /// Trainings that it asks for.
    pub planned: usize,
    /// The tasks, in the order of the configuration.
    pub tasks: Vec<TaskSetting>,
    /// A model has collapsed if the largest loss, or perplexity, beyond the training length is over this many times the largest inside.
    pub collapse_ratio: f64,
    /// Number of resamples of the bootstrap, and their seed.
    pub resampling: Resampling,
    /// Where and when; none before the first training.
    pub record: Option<Record>,
}

/// What of a task the page says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskSetting {
    /// Name of the task.
    pub name: String,
    /// What is read, in words.
    pub data: String,
    /// How retention begins, in words.
    pub initialisation: String,
    /// Whether that is the published one.
    pub standard: bool,
    /// When and from what the state is widened, in words; none where it is not.
    pub expansion: Option<String>,
    /// How pairs are asked for; none where they are not.
    pub pairs: Option<PairsSetting>,
}

/// Where, when and how long.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Name of the processor, and the number of its cores.
    pub machine: String,
    /// Day of the first training: `2026-01-31`.
    pub date: String,
    /// Seconds that the sweep took, over all its pieces.
    pub seconds: f64,
    /// Trainings at a time.
    pub workers: usize,
    /// Sum of the machine's load averages as each training ended.
    pub load_sum: f64,
    /// Number of load averages that `load_sum` is the sum of.
    pub load_samples: usize,
}

impl Record {
    /// The machine's mean load; none where the system does not tell it.
    pub fn load(&self) -> Option<f64> {
        (self.load_samples > 0).then(|| self.load_sum / self.load_samples as f64)
    }

    /// Whether others had the machine too: a load of more than half a process over the sweep's own.
    pub fn was_shared(&self) -> bool {
        self.load().is_some_and(|load| load > self.workers as f64 + 0.5)
    }
}

/// The laws of the published points, once more.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Published {
    /// Which published lengths the laws are fitted to, and how these are taken.
    pub name: String,
    /// Whether they are T_forget.
    pub forget: bool,
    /// The laws, sizes in millions of state elements and lengths in thousands of tokens.
    pub laws: Laws,
}

/// What is to be said, in sentences.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Findings {
    /// What the trainings show.
    pub supported: Vec<String>,
    /// What the trainings do not show.
    pub unsupported: Vec<String>,
    /// What the published points show, fitted once more.
    pub published: Vec<String>,
}

/// Everything that the page of a sweep shows: the content of `results.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CapacityReport {
    /// Version of the file.
    pub version: u32,
    /// How the sweep was made.
    pub setting: Setting,
    /// Every training that is done.
    pub runs: Vec<RunResult>,
    /// Thresholds of each task, and the laws fitted to them.
    pub analyses: Vec<Analysis>,
    /// Pairs of keys and values: how many are held, and how far they are found.
    #[serde(skip_serializing_if = "PairsReport::is_empty")]
    pub pairs: PairsReport,
    /// Laws fitted once more to the published points, for each way of taking these.
    pub published: Vec<Published>,
    /// What all this supports and what it does not.
    pub findings: Findings,
}

impl CapacityReport {
    /// Computes everything from the trainings; the sentences are left to [`findings`](super::findings).
    pub fn new(setting: Setting, runs: Vec<RunResult>) -> Self {
        let ratio = setting.collapse_ratio;
        let analyses = setting.tasks.iter().flat_map(|task| {
            let analysis = |quantity| Analysis::new(&runs, &task.name, quantity, ratio, setting.resampling);
            Quantity::ALL.into_iter().filter_map(analysis).collect::<Vec<_>>()
        });
        let analyses: Vec<Analysis> = analyses.collect();
        let asked = setting.tasks.iter();
        let asked: Vec<(&str, &PairsSetting)> = asked
            .filter_map(|task| Some((task.name.as_str(), task.pairs.as_ref()?)))
            .collect();
        let pairs = PairsReport::new(&asked, &runs, setting.resampling);
        let published = refitted(setting.resampling);
        Self {
            version: VERSION,
            setting,
            runs,
            analyses,
            pairs,
            published,
            findings: Findings::default(),
        }
    }

    /// Whether every training is done.
    pub fn is_complete(&self) -> bool {
        self.runs.len() >= self.setting.planned
    }

    /// The analyses that laws are drawn and judged of: all but the stricter reading of passkeys.
    pub fn analyses_of_laws(&self) -> impl Iterator<Item = &Analysis> {
        let judged = |analysis: &&Analysis| analysis.quantity != Quantity::RecallWilson;
        self.analyses.iter().filter(judged)
    }

    /// The published T_forget of the five models, as intervals.
    pub fn published_forget(&self) -> Option<&Published> {
        by_name(&self.published, INTERVALS)
    }

    /// The published T_recall of the five models.
    pub fn published_recall(&self) -> Option<&Published> {
        by_name(&self.published, RECALL_REAL)
    }
}

/// The published points that are taken in this way.
pub fn by_name<'a>(published: &'a [Published], name: &str) -> Option<&'a Published> {
    published.iter().find(|published| published.name == name)
}

/// Names of the ways to take the published points.
pub const AS_FITTED: &str = "T_forget, six points as published";
/// The published T_forget without the artificial point.
pub const REAL: &str = "T_forget, the five models";
const INTERVALS: &str = "T_forget, the five models, each within (T/2, T]";
/// The published recall lengths.
pub const RECALL_AS_FITTED: &str = "T_recall, six points as published";
/// The published T_recall without the artificial point.
pub const RECALL_REAL: &str = "T_recall, the five models";

fn refitted(resampling: Resampling) -> Vec<Published> {
    let (forget, recall) = (&published::FORGET, &published::RECALL);
    let of = |name: &str, forget, points| Published {
        name: name.into(),
        forget,
        laws: Laws::new(points, resampling),
    };
    vec![
        of(AS_FITTED, true, published::as_fitted(forget)),
        of(REAL, true, published::real(forget)),
        of(INTERVALS, true, published::intervals(forget)),
        of(RECALL_AS_FITTED, false, published::as_fitted(recall)),
        of(RECALL_REAL, false, published::real(recall)),
    ]
}
