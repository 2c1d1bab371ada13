//! Pictures about pairs.

use super::super::pairs::PairsReport;
use super::super::pairs::arms::Arm;
use super::super::pairs::held::{Held, HeldAt, Reached, TaskPairs, is_reached};
use super::{Placed, Section, law_layers, length_axis, octaves, placed, slug};
use crate::kit::axis::{Axis, Scale};
use crate::kit::chart::{Chart, Layer, aside};
use crate::kit::format::{bytes as in_bytes, count};
use crate::kit::ink::{Ink, Mark, Stroke};
use crate::studies::results::distinct;
use spillway_models::evaluation::laws::Observation;
use spillway_models::evaluation::laws::published::{PAIRS_MAMBA2, recall_by_training_length};

/// Tokens in a unit of the published lengths.
const PUBLISHED_LENGTH: f64 = 1024.0;

/// Every picture that the results allow.
pub(super) fn pictures(report: &PairsReport) -> Vec<Placed> {
    let mut pictures = Vec::new();
    for task in &report.tasks {
        for held in &task.held {
            pictures.push(shares(task, held));
            pictures.push(pairs_held(task, held));
        }
        pictures.extend(reach_by_pairs(task));
        if task.held.len() > 1 {
            pictures.push(reach_by_training_length(task));
        }
    }
    pictures.extend(report.arms.iter().map(arm));
    if !report.is_empty() {
        pictures.push(beside_published(report));
    }
    pictures
}

fn bytes_axis((low, high): (f64, f64)) -> Axis {
    Axis::new("state S (bytes, f32)", Scale::Binary).range(low, high)
}

fn pairs_axis((low, high): (f64, f64)) -> Axis {
    Axis::new("pairs of keys and values", Scale::Binary).range(low, high)
}

fn share_axis() -> Axis {
    Axis::new("share of right answers", Scale::Linear).range(0.0, 1.0)
}

/// `task-t64`, as part of a file name.
fn place(task: &TaskPairs, train_length: u64) -> String {
    format!("{}-t{train_length}", slug(&task.task))
}

/// The models of each state size together, the smallest first.
fn by_size(models: &[Held]) -> Vec<&[Held]> {
    models.chunk_by(|a, b| a.state == b.state).collect()
}

/// Mean over models of the share at each number of pairs.
fn mean_shares(models: &[Held]) -> Vec<(f64, f64)> {
    let counts = distinct(
        models
            .iter()
            .flat_map(|model| model.shares.iter().map(|share| share.0 as u64)),
    );
    let mean = |pairs: u64| {
        let here = models.iter().flat_map(|model| &model.shares);
        let here: Vec<f64> = here
            .filter(|share| share.0 as u64 == pairs)
            .map(|share| share.1)
            .collect();
        (pairs as f64, here.iter().sum::<f64>() / here.len().max(1) as f64)
    };
    counts.into_iter().map(mean).collect()
}

fn shares(task: &TaskPairs, held: &HeldAt) -> Placed {
    let sizes = by_size(&held.models);
    let mut layers = vec![Layer::Level(task.setting.accuracy, "held".into())];
    for (index, models) in sizes.iter().enumerate() {
        let name = format!("{}, {} seeds", in_bytes(models[0].bytes), models.len());
        layers.push(Layer::line(
            name,
            mean_shares(models),
            Stroke::in_order(index, sizes.len()),
        ));
    }
    let counts: Vec<f64> = mean_shares(&held.models).iter().map(|share| share.0).collect();
    let guess = counts
        .iter()
        .map(|pairs| (*pairs, task.setting.chance(*pairs as usize)));
    layers.push(Layer::line(
        "a guess among the values that were read",
        guess.collect(),
        Stroke::BASELINE,
    ));
    let chart = Chart {
        x: pairs_axis(octaves(counts.into_iter()).unwrap_or((1.0, 2.0))),
        y: share_axis(),
        exponential: None,
        layers,
    };
    let title = format!(
        "Pairs answered, task {}, T = {}",
        task.task,
        count(held.train_length)
    );
    let caption = "Share of the keys whose value is named, by number of pairs in sequences as long as those of the training: means over seeds, \
                   by bytes of state.";
    let file = format!("pairs-answered-{}", place(task, held.train_length));
    placed(&file, Section::Pairs, (title, caption.into()), chart.draw())
}

/// Lower and upper end of what intervals hold.
fn ends(intervals: impl Iterator<Item = Observation>) -> impl Iterator<Item = f64> {
    intervals.flat_map(|interval| match interval {
        Observation::Within { low, high } => [low, high.unwrap_or(0.0)],
        Observation::Exact(value) => [value; 2],
    })
}

/// An interval at a place, moved aside for its seed; none where nothing was reached.
fn bar(interval: Observation, x: f64, (seed, of): (usize, usize), name: &str, ink: Ink) -> Option<Layer> {
    let Observation::Within { low, high } = interval else {
        return None;
    };
    (low > 0.0).then(|| Layer::Interval {
        name: name.into(),
        x: x * (0.1 * aside(seed, of)).exp2(),
        low: Some(low),
        high,
        ink,
        mark: Mark::nth(seed),
    })
}

fn pairs_held(task: &TaskPairs, held: &HeldAt) -> Placed {
    let (models, laws) = (&held.models, &held.laws);
    let seeds = distinct(models.iter().map(|model| model.seed));
    let sizes = octaves(models.iter().map(|model| model.bytes as f64)).unwrap_or((1.0, 2.0));
    let sizes = (sizes.0 / 2.0, sizes.1 * 2.0);
    let counts = octaves(ends(models.iter().map(|model| model.interval))).unwrap_or((1.0, 2.0));
    let mut layers = law_layers(laws, sizes);
    if let Some(one) = models.first() {
        // As many pairs as state values of a channel: what one product of keys can tell apart exactly.
        let per_value = one.bytes as f64 / one.state.d_state as f64;
        let line = [sizes.0, sizes.1].map(|size| (size, size / per_value));
        layers.push(Layer::line("as many as d_state", line.to_vec(), Stroke::BASELINE));
    }
    let bars = models.iter().filter_map(|model| {
        let seed = seeds.iter().position(|seed| *seed == model.seed).unwrap_or(0);
        let name = "an interval of one seed";
        bar(
            model.interval,
            model.bytes as f64,
            (seed, seeds.len()),
            name,
            Ink::Text,
        )
    });
    layers.extend(bars);
    let chart = Chart {
        x: bytes_axis(sizes),
        y: length_axis("pairs held".into(), (counts.0 / 2.0, counts.1 * 2.0)),
        exponential: None,
        layers,
    };
    let title = format!(
        "Pairs held at {:.0} %, task {}, T = {}",
        100.0 * task.setting.accuracy,
        task.task,
        count(held.train_length)
    );
    let caption = format!(
        "Each bar is the interval that the numbers tried leave for one state size and seed; an arrow is an end that the training length has no \
         room for. Trainings that did not learn the task are left out. Lines: the better error model of each law, with the {} by which it is \
         behind the best; band: 95 % of the bootstrap resamples of the best. Dotted: as many pairs as state values of a channel.",
        laws.criterion_name(),
    );
    let file = format!("pairs-held-{}", place(task, held.train_length));
    placed(&file, Section::Pairs, (title, caption), chart.draw())
}

/// The middle of what several models reach: the geometric mean of their lower ends; none where one reaches nothing.
fn middle<'a>(models: impl Iterator<Item = &'a Reached>) -> Option<f64> {
    let logs: Vec<f64> = models
        .filter_map(|model| match model.interval {
            Observation::Within { low, .. } if is_reached(model.interval) => Some(low.ln()),
            _ => None,
        })
        .collect();
    (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp())
}

/// T_recall by number of pairs, a picture for each training length.
fn reach_by_pairs(task: &TaskPairs) -> Vec<Placed> {
    let groups: Vec<_> = task.reach.chunk_by(|a, b| a.state == b.state).collect();
    let draw = |length: u64| {
        let mut layers = vec![Layer::Level(length as f64, "training length".into())];
        for (index, group) in groups.iter().enumerate() {
            let points = group.iter().filter_map(|reach| {
                let models = reach.models.iter().filter(|model| model.train_length == length);
                Some((reach.pairs as f64, middle(models)?))
            });
            let name = in_bytes(group[0].bytes);
            let stroke = Stroke::in_order(index, groups.len());
            layers.push(Layer::line(name, points.collect(), stroke));
        }
        let counts = octaves(task.reach.iter().map(|reach| reach.pairs as f64)).unwrap_or((1.0, 2.0));
        let intervals = task.reach.iter().flat_map(|reach| &reach.models);
        let lengths = ends(intervals.map(|model| model.interval)).chain([length as f64]);
        let chart = Chart {
            x: pairs_axis(counts),
            y: length_axis("T_recall (tokens)".into(), octaves(lengths).unwrap_or((1.0, 2.0))),
            exponential: None,
            layers,
        };
        let title = format!(
            "T_recall by number of pairs, task {}, T = {}",
            task.task,
            count(length)
        );
        let caption = "Longest length up to which so many pairs are answered, by bytes of state: the geometric mean over the seeds that \
                       answer them at any length. What is asked is longer with more pairs, so that curves begin higher on the right.";
        let file = format!("pairs-reach-{}", place(task, length));
        placed(&file, Section::Pairs, (title, caption.into()), chart.draw())
    };
    task.held.iter().map(|held| draw(held.train_length)).collect()
}

/// T_recall of the largest state by training length, beside the published models.
fn reach_by_training_length(task: &TaskPairs) -> Placed {
    let largest = task.reach.iter().map(|reach| reach.bytes).max().unwrap_or(0);
    let of_size: Vec<_> = task.reach.iter().filter(|reach| reach.bytes == largest).collect();
    let mut layers = Vec::new();
    for (index, reach) in of_size.iter().enumerate() {
        let points = reach.lengths().into_iter().filter_map(|length| {
            let models = reach.models.iter().filter(|model| model.train_length == length);
            Some((length as f64, middle(models)?))
        });
        let name = format!("{} pairs", reach.pairs);
        layers.push(Layer::line(
            name,
            points.collect(),
            Stroke::in_order(index, of_size.len()),
        ));
    }
    let published = recall_by_training_length().into_iter().map(|point| {
        (
            PUBLISHED_LENGTH * point.size,
            PUBLISHED_LENGTH * point.length.representative(),
        )
    });
    let published: Vec<(f64, f64)> = published.collect();
    let ours: Vec<(f64, f64)> = layers.iter().flat_map(places).collect();
    let all = || ours.iter().chain(&published);
    let x = octaves(all().map(|point| point.0)).unwrap_or((1.0, 2.0));
    let y = octaves(all().map(|point| point.1)).unwrap_or((1.0, 2.0));
    layers.push(Layer::line(
        "as long as the training",
        vec![(x.0, x.0), (x.1, x.1)],
        Stroke::BASELINE,
    ));
    layers.push(Layer::Dots {
        name: "published: one passkey".into(),
        points: published,
        ink: Ink::Series(0),
        mark: Mark::nth(0),
    });
    let chart = Chart {
        x: length_axis("training length T (tokens)".into(), x),
        y: length_axis("T_recall (tokens)".into(), y),
        exponential: None,
        layers,
    };
    let title = format!(
        "T_recall by training length, task {}, {}",
        task.task,
        in_bytes(largest)
    );
    let caption = "Geometric mean over seeds of the longest length up to which so many pairs are answered, for the largest state. Of the published \
                   models, T_recall of one passkey at the training length at which each no longer collapses: another task, and states of 1.1 to \
                   12.9 million elements.";
    let file = format!("pairs-by-training-{}", slug(&task.task));
    placed(&file, Section::Pairs, (title, caption.into()), chart.draw())
}

fn places(layer: &Layer) -> Vec<(f64, f64)> {
    match layer {
        Layer::Line { points, .. } => points.clone(),
        _ => Vec::new(),
    }
}

fn arm(arm: &Arm) -> Placed {
    let lengths = distinct(arm.differences.iter().map(|difference| difference.train_length));
    let mut layers = vec![Layer::Level(0.0, "the same".into())];
    for (index, length) in lengths.iter().enumerate() {
        let here = arm
            .differences
            .iter()
            .filter(|difference| difference.train_length == *length);
        let stroke = Stroke::nth(index);
        let x = |bytes: u64| bytes as f64 * (0.15 * aside(index, lengths.len())).exp2();
        let points = here
            .clone()
            .map(|difference| (x(difference.bytes), 100.0 * difference.difference.mean));
        layers.push(Layer::line(
            format!("T = {}", count(*length)),
            points.collect(),
            stroke,
        ));
        let bars = here.filter_map(|difference| {
            let ends = difference.difference.interval?.map(|end| 100.0 * end);
            Layer::bar(x(difference.bytes), ends, stroke)
        });
        layers.extend(bars);
    }
    let sizes = octaves(arm.differences.iter().map(|difference| difference.bytes as f64));
    let (low, high) = sizes.unwrap_or((1.0, 2.0));
    let chart = Chart {
        x: bytes_axis((low / 2.0, high * 2.0)),
        y: Axis::new("difference (points of percent)", Scale::Linear),
        exponential: None,
        layers,
    };
    let title = format!("Task {} against {}", arm.task, arm.against);
    let caption = "Mean share of right answers at the training length over all numbers of pairs, the arm minus what it is held against, seed by \
                   seed: means and 95 % intervals (Student's t).";
    let file = format!("pairs-arm-{}", slug(&arm.task));
    placed(&file, Section::Pairs, (title, caption.into()), chart.draw())
}

/// Mean share of right answers by elements of state, beside the published ones of Mamba-2.
fn beside_published(report: &PairsReport) -> Placed {
    let mut layers = Vec::new();
    let mut index = 1;
    for task in &report.tasks {
        for held in &task.held {
            let points = by_size(&held.models).into_iter().map(|models| {
                let mean = models.iter().map(Held::mean_share).sum::<f64>() / models.len() as f64;
                (models[0].state.elements() as f64, mean)
            });
            let name = format!("{}, T = {}", task.task, count(held.train_length));
            layers.push(Layer::line(name, points.collect(), Stroke::nth(index)));
            index += 1;
        }
    }
    layers.push(Layer::line(
        "published, Mamba-2",
        PAIRS_MAMBA2.to_vec(),
        Stroke::nth(0),
    ));
    let ours: Vec<(f64, f64)> = layers.iter().flat_map(places).collect();
    let chart = Chart {
        x: Axis::new("state size S (elements)", Scale::Binary).range(
            octaves(ours.iter().map(|point| point.0)).unwrap_or((1.0, 2.0)).0,
            octaves(ours.iter().map(|point| point.0)).unwrap_or((1.0, 2.0)).1,
        ),
        y: share_axis(),
        exponential: None,
        layers,
    };
    let caption = "Mean share of right answers over all numbers of pairs, by state elements. The published ones, read off a plot to ±0.03, are means \
                   over 4 to 256 pairs among 8,192 ids, that stand one after another and are mostly asked soon, for the best of four learning \
                   rates: the tasks differ, and only the shape can be compared.";
    let title = "Beside the published recall of pairs".to_string();
    placed(
        "pairs-beside-published",
        Section::Pairs,
        (title, caption.into()),
        chart.draw(),
    )
}
