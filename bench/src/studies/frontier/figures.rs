//! The pictures of a frontier.

use super::findings::solves;
use super::report::{Bound, FrontierReport, Outcome, Point};
use crate::kit::axis::{Axis, Scale};
use crate::kit::chart::{Chart, Layer};
use crate::kit::format::counted;
use crate::kit::ink::{Ink, Mark, Stroke};
use crate::studies::results::Picture;
use crate::trial::NONE;

const BOUND: Stroke = Stroke {
    dash: "2 4",
    ..Stroke::plain(Ink::Grey, 2.0)
};

/// All pictures that the report has something for.
pub fn pictures(report: &FrontierReport) -> Vec<Picture> {
    let mut pictures: Vec<Picture> = (0..report.asked.len())
        .map(|asked| accuracy(report, asked))
        .collect();
    pictures.push(solved(report));
    pictures.extend(speed(report, "decode", "decoded tokens per second", |point| {
        point.decode_tokens_per_second
    }));
    pictures.extend(speed(
        report,
        "prefill",
        "tokens of a prompt per second",
        |point| point.prefill_tokens_per_second,
    ));
    if !report.mitigations().is_empty() {
        let places = (0..report.models.len())
            .flat_map(|model| (0..report.asked.len()).map(move |asked| (model, asked)));
        pictures.extend(places.filter_map(|(model, asked)| price(report, model, asked)));
    }
    pictures.extend(bound(report));
    pictures
}

/// How a model is drawn: what the others are held against in black and grey, the others in colours.
fn stroke(report: &FrontierReport, model: usize) -> Stroke {
    let is_baseline = |model: &usize| report.models[*model].1;
    let before = |baseline: bool| (0..model).filter(|model| is_baseline(model) == baseline).count();
    match (is_baseline(&model), before(true)) {
        (true, 0) => Stroke {
            mark: Some(Mark::DOT),
            ..Stroke::ALONE
        },
        (true, _) => Stroke {
            mark: Some(Mark::TRIANGLE),
            ..Stroke::BASELINE
        },
        (false, _) => Stroke::nth(before(false)),
    }
}

fn bytes_axis() -> Axis {
    Axis::new("state of a sequence (bytes)", Scale::Binary)
}

fn shares_axis(name: &str) -> Axis {
    Axis::new(name, Scale::Linear).with(0.0).with(100.0)
}

/// Bytes of state, and a value there with its interval.
type Place = (f64, (f64, Option<[f64; 2]>));

/// A curve for every model, with intervals; `value` gives what is drawn of an outcome, and its interval.
fn curves(
    report: &FrontierReport,
    asked: usize,
    value: impl Fn(&Outcome) -> (f64, Option<[f64; 2]>),
) -> Vec<Layer> {
    let mut layers = Vec::new();
    for (model, (name, _)) in report.models.iter().enumerate() {
        let stroke = stroke(report, model);
        let points = report.alone(model);
        let points = points
            .iter()
            .filter_map(|point| Some((point.state_bytes as f64, value(point.answers.get(asked)?))));
        let points: Vec<Place> = points.collect();
        let line = points.iter().map(|(x, (y, _))| (*x, 100.0 * y)).collect();
        layers.push(Layer::line(name, line, stroke));
        layers.extend(points.iter().filter_map(|(x, (_, ends))| bar(*x, *ends, stroke)));
    }
    layers
}

/// An interval of shares as a bar, which does not leave what shares can be.
fn bar(x: f64, ends: Option<[f64; 2]>, stroke: Stroke) -> Option<Layer> {
    Layer::bar(x, ends?.map(|end| 100.0 * end.clamp(0.0, 1.0)), stroke)
}

fn accuracy(report: &FrontierReport, asked: usize) -> Picture {
    let question = &report.asked[asked];
    let mut layers = curves(report, asked, |outcome| {
        (outcome.accuracy.mean, outcome.accuracy.interval)
    });
    if let Some(guess) = question.guess {
        layers.push(Layer::Level(100.0 * guess, "a guess among what was told".into()));
    }
    let chart = Chart {
        x: bytes_axis(),
        y: shares_axis("accuracy (%)"),
        exponential: None,
        layers,
    };
    let caption = format!(
        "Means over seeds on {} sequences of {} tokens that no model was trained on; bars are 95 % intervals over seeds (Student's t). The \
         state is that of one sequence after the longest that is asked, in f32, short convolutions, keys and values included.",
        question.question.sequences, question.question.length
    );
    let title = format!("{}: accuracy against state", question.question.name);
    Picture::new(format!("accuracy-{}", asked + 1), title, caption, chart.draw())
}

/// What is asked first, by name.
fn asked_first(report: &FrontierReport) -> &str {
    report
        .asked
        .first()
        .map_or("", |asked| asked.question.name.as_str())
}

fn solved(report: &FrontierReport) -> Picture {
    let layers = curves(report, 0, |outcome| {
        let share = outcome.solved as f64 / outcome.counted.len().max(1) as f64;
        (share, Some(outcome.solved_interval))
    });
    let chart = Chart {
        x: bytes_axis(),
        y: shares_axis("trainings that solve it (%)"),
        exponential: None,
        layers,
    };
    let name = asked_first(report);
    let caption = format!(
        "Share of the seeds whose accuracy is {:.0} % or more; bars are Wilson 95 % intervals. Trainings on recall mostly either find the \
         solution or do not, so that a mean over seeds hides which.",
        100.0 * report.solved
    );
    Picture::new(
        "solved",
        format!("{name}: trainings that solve it"),
        caption,
        chart.draw(),
    )
}

/// Accuracy on what is asked first against a speed; nothing where none was measured.
fn speed(
    report: &FrontierReport,
    file: &str,
    quantity: &str,
    of: impl Fn(&Point) -> Option<f64>,
) -> Option<Picture> {
    let mut layers = Vec::new();
    for (model, (name, _)) in report.models.iter().enumerate() {
        let points = report.alone(model);
        let points = points
            .iter()
            .filter_map(|point| Some((of(point)?, 100.0 * point.answers.first()?.accuracy.mean)));
        let points: Vec<(f64, f64)> = points.collect();
        let stroke = stroke(report, model);
        if !points.is_empty() {
            layers.push(Layer::Dots {
                name: name.clone(),
                points,
                ink: stroke.ink,
                mark: stroke.mark.unwrap_or(Mark::DOT),
            });
        }
    }
    if layers.is_empty() {
        return None;
    }
    let chart = Chart {
        x: Axis::new(quantity, Scale::Decimal),
        y: shares_axis("accuracy (%)"),
        exponential: None,
        layers,
    };
    let name = asked_first(report);
    let caption = format!(
        "A point for every size, one sequence at a time, with {} on the machine below. Models as small as these spend most of a token's time on \
         what does not grow with them.",
        counted(report.threads as u64, "thread")
    );
    let title = format!("{name}: accuracy against {quantity}");
    Some(Picture::new(
        format!("speed-{file}"),
        title,
        caption,
        chart.draw(),
    ))
}

/// Picture of one model's accuracy on one question, alone and under each mitigation.
fn price(report: &FrontierReport, model: usize, asked: usize) -> Option<Picture> {
    let name = &report.models[model].0;
    let sizes = |mitigation: &str| -> Vec<(f64, f64)> {
        let alone = report.alone(model);
        let points = alone.iter().filter_map(|alone| {
            let under = report.points.iter().find(|point| {
                (point.model, point.size) == (alone.model, alone.size) && point.mitigation == mitigation
            })?;
            let mean = under.answers.get(asked)?.accuracy.mean;
            // At the state of the model alone, so that what belongs together stands one above the other.
            Some((alone.state_bytes as f64, 100.0 * mean))
        });
        points.collect()
    };
    let mut layers = vec![Layer::line(
        "the model alone",
        sizes(NONE),
        Stroke {
            mark: Some(Mark::DOT),
            ..Stroke::ALONE
        },
    )];
    for (index, mitigation) in report.mitigations().into_iter().enumerate() {
        let points = sizes(mitigation);
        if !points.is_empty() {
            layers.push(Layer::line(mitigation, points, Stroke::nth(index)));
        }
    }
    if layers.len() == 1 {
        return None;
    }
    let question = &report.asked[asked].question.name;
    let chart = Chart {
        x: Axis::new("state of the model alone (bytes)", Scale::Binary),
        y: shares_axis("accuracy (%)"),
        exponential: None,
        layers,
    };
    let caption = "The same trainings, asked under each mitigation. Means over seeds; the table has what each changes seed by seed.";
    let title = format!("{name}: what mitigations cost of {question}");
    Some(Picture::new(
        format!("price-{}-{}", model + 1, asked + 1),
        title,
        caption,
        chart.draw(),
    ))
}

/// The smallest state that solves each question about two lists, beside what no memory can do without.
fn bound(report: &FrontierReport) -> Option<Picture> {
    let lists: Vec<(usize, Bound)> = report
        .asked
        .iter()
        .enumerate()
        .filter_map(|(place, asked)| Some((place, asked.bound?)))
        .collect();
    if lists.is_empty() {
        return None;
    }
    let line = |of: fn(&Bound) -> f64| {
        let mut points: Vec<(f64, f64)> = lists
            .iter()
            .map(|(_, bound)| (bound.first as f64, of(bound)))
            .filter(|(_, bytes)| *bytes > 0.0)
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    };
    let mut layers = vec![Layer::line(
        "least memory that reads the first list first: log₂ C(n, |A|) bits",
        line(|bound| bound.causal_bytes),
        BOUND,
    )];
    for (model, (name, _)) in report.models.iter().enumerate() {
        let stroke = stroke(report, model);
        let points = report.alone(model);
        let smallest = |asked: usize| {
            let mut solving = points
                .iter()
                .filter(|point| point.answers.get(asked).is_some_and(solves));
            solving.next().map(|point| point.state_bytes as f64)
        };
        let found = lists
            .iter()
            .filter_map(|(asked, bound)| Some((bound.first as f64, smallest(*asked)?)));
        layers.push(Layer::Dots {
            name: name.clone(),
            points: found.collect(),
            ink: stroke.ink,
            mark: stroke.mark.unwrap_or(Mark::DOT),
        });
    }
    let chart = Chart {
        x: Axis::new("elements of the list that comes first", Scale::Binary),
        y: Axis::new("state (bytes)", Scale::Binary),
        exponential: None,
        layers,
    };
    let caption = "The smallest state tried at which half of the trainings or more solve it; what none solves has no point. The bound counts lists: two \
                   of them that leave one memory are answered alike, so that C(n, |A|) lists of the n ids take log₂ C(n, |A|) bits (one-way \
                   communication, as in Just read twice, 2407.05483, section 3.1). It is far below any state in f32; what it says is how the need grows.";
    Some(Picture::new(
        "bound",
        "Two lists: the state that it takes",
        caption,
        chart.draw(),
    ))
}
