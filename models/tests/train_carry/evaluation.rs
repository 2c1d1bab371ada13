//! Losses against position and passkeys, against the same computed plainly.

use std::num::NonZeroU64;

use spillway_models::evaluation::passkey::{Question, passkey, questions};
use spillway_models::evaluation::positions::Buckets;
use spillway_models::evaluation::streams::loss_by_position;
use spillway_models::train::evaluation::{EvaluationConfig, EvaluationData, PasskeyConfig};
use spillway_models::train::{EvaluationReport, evaluate};
use spillway_models::{Logits, Model};

use super::support::{batches, ids, model, models, start};

/// What a batch of streams may change: matrix products of more rows are summed in another order.
const REORDERED: f64 = 2e-5;

/// Mean loss per bucket, the stream in pieces of at most `piece` tokens with the state emptied before each if `restart`.
fn plain(
    model: &Model,
    streams: &[Vec<u32>],
    buckets: &Buckets,
    restart: Option<usize>,
) -> Vec<(u64, f64, u64)> {
    let mut sums = vec![(0.0, 0); buckets.len()];
    for stream in streams {
        let mut losses = Vec::new();
        let (ids, targets) = (&stream[..stream.len() - 1], &stream[1..]);
        let piece = restart.unwrap_or(ids.len());
        for (ids, targets) in ids.chunks(piece).zip(targets.chunks(piece)) {
            losses.extend(model.losses(ids, targets, &mut start(model, 1)).unwrap());
        }
        for (position, loss) in losses.iter().enumerate() {
            if let Some(bucket) = buckets.find(position as u64) {
                sums[bucket].0 += f64::from(*loss);
                sums[bucket].1 += 1;
            }
        }
    }
    let filled = buckets.ranges().zip(sums).filter(|(_, (_, count))| *count > 0);
    filled
        .map(|((start, _), (sum, count))| (start, sum / count as f64, count))
        .collect()
}

#[test]
fn losses_of_streams_side_by_side_are_those_of_each_alone() {
    for (name, model) in models() {
        // Of different lengths, one too short for anything, one longer than the buckets.
        let streams: Vec<Vec<u32>> = [41, 300, 1, 70, 300]
            .iter()
            .enumerate()
            .map(|(seed, count)| ids(seed as u64, *count))
            .collect();
        let views: Vec<&[u32]> = streams.iter().map(Vec::as_slice).collect();
        let buckets = Buckets::doubling(16, 200);
        for restart in [None, Some(16)] {
            let period = restart.and_then(|period| NonZeroU64::new(period as u64));
            let found = loss_by_position(model, &views, &buckets, period).unwrap();
            let streams: Vec<Vec<u32>> = streams
                .iter()
                .filter(|stream| stream.len() > 1)
                .cloned()
                .collect();
            let expected = plain(model, &streams, &buckets, restart);
            assert_eq!(found.len(), expected.len());
            for (found, (start, mean, tokens)) in found.iter().zip(expected) {
                assert_eq!((found.start, found.tokens), (start, tokens), "{name}");
                let error = ((found.mean - mean) / mean).abs();
                assert!(error < REORDERED, "{name}, from {start}: {error:e}");
            }
        }
    }
}

#[test]
fn nothing_to_read_is_an_empty_curve() {
    let model = model("gla tiny");
    let buckets = Buckets::doubling(16, 64);
    assert!(loss_by_position(model, &[], &buckets, None).unwrap().is_empty());
    assert!(
        loss_by_position(model, &[&[], &[3]], &buckets, None)
            .unwrap()
            .is_empty()
    );
}

/// What the model goes on with, one prompt at a time.
fn greedy(model: &Model, ids: &[u32], count: usize) -> Vec<u32> {
    let (mut state, mut answer, mut next) = (start(model, 1), Vec::new(), ids.to_vec());
    for _ in 0..count {
        let logits = model.logits(&next, &mut state, Logits::Last).unwrap().into_data();
        let values: Vec<f32> = logits.iter::<f32>().collect();
        let best = (0..values.len()).fold(0, |best, id| if values[id] > values[best] { id } else { best });
        answer.push(best as u32);
        next = vec![best as u32];
    }
    answer
}

/// Filler, five digits in it, and what the model answers by itself: right if `truly`, wrong in the last digit otherwise.
fn grid(model: &Model, truly: impl Fn(u64) -> bool) -> Vec<Question> {
    let prompt = |length: u64, depth: f64, number: u64| {
        let mut prompt = vec![7; length as usize];
        let at = (depth * (length - 5) as f64) as usize;
        prompt[at..at + 5].copy_from_slice(&ids(number, 5));
        let mut answer = greedy(model, &prompt, 5);
        if !truly(number) {
            answer[4] ^= 1;
        }
        Ok::<_, std::convert::Infallible>((prompt, answer))
    };
    questions(&[12, 40], 3, 2, prompt).unwrap()
}

#[test]
fn shared_beginnings_and_batches_give_the_answers_of_single_prompts() {
    for (name, model) in models() {
        let all = grid(model, |_| true);
        assert_eq!(all.len(), 12);
        let found = passkey(model, &all).unwrap();
        assert!(
            found.lengths.iter().all(|cell| cell.correct == 6),
            "{name}: {:?}",
            found.lengths
        );
        assert_eq!(found.recall_length, Some(40));
        assert_eq!(found.prompt_tokens, 6 * (12 + 40));
        assert!(
            found.computed_tokens < found.prompt_tokens * 3 / 4,
            "{name}: {}",
            found.computed_tokens
        );

        let some = passkey(model, &grid(model, |number| number % 3 == 0)).unwrap();
        let correct: Vec<u64> = some.cells.iter().map(|cell| cell.correct).collect();
        // Cells have the questions 0 and 1, 2 and 3, and so on.
        assert_eq!(correct, [1, 1, 0, 1, 1, 0], "{name}");
        assert_eq!(some.recall_length, None);
    }
}

#[test]
fn a_question_without_tokens_is_refused() {
    let model = model("gla tiny");
    let empty = Question {
        length: 0,
        depth: 0.5,
        ids: vec![],
        answer: vec![1],
    };
    assert!(passkey(model, &[empty]).is_err());
    assert!(passkey(model, &[]).unwrap().cells.is_empty());
}

#[test]
fn an_evaluation_reports_curve_collapse_and_passkeys_and_can_be_read_back() {
    let model = model("mamba2 tiny");
    let config = EvaluationConfig {
        every: 10,
        length: 8,
        streams: 3,
        threshold: 2.0,
        restarted: true,
        passkey: Some(PasskeyConfig {
            lengths: vec![1],
            depths: 3,
            samples: 2,
        }),
    };
    config.validate().unwrap();
    let mut data = EvaluationData::of_batch(&batches(2, 1, 3, 8 * 16).remove(0));
    assert!(data.streams.iter().all(|stream| stream.len() == 8 * 16 + 1));
    data.questions = grid(model, |_| true);
    let report = evaluate(model, &config, &data, 16).unwrap();
    let starts: Vec<u64> = report.positions.iter().map(|bucket| bucket.start).collect();
    assert_eq!(starts, [0, 8, 16, 32, 64]);
    assert!(
        report
            .positions
            .iter()
            .all(|bucket| bucket.tokens == 3 * (bucket.end - bucket.start))
    );
    let restarted = report.restarted.as_ref().unwrap();
    let inside = (restarted[1].mean / report.positions[1].mean - 1.0).abs();
    assert!(inside < REORDERED, "inside, both are the same: {inside:e}");
    assert_ne!(restarted[4].mean, report.positions[4].mean);
    let largest = |from: usize, to: usize| {
        report.positions[from..to]
            .iter()
            .map(|bucket| bucket.mean)
            .fold(0.0, f64::max)
    };
    let ratio = report.collapse.unwrap().published.loss_ratio;
    assert!((ratio - largest(2, 5) / largest(0, 2)).abs() < 1e-12);
    assert!((report.excess[2].excess - (report.positions[4].mean - report.positions[1].mean)).abs() < 1e-12);
    assert_eq!(report.passkey.as_ref().unwrap().recall_length, Some(40));

    let text = serde_json::to_string(&report).unwrap();
    let back: EvaluationReport = serde_json::from_str(&text).unwrap();
    // Decimal numbers may lose their last bit.
    let near = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-14;
    assert_eq!(back.positions.len(), report.positions.len());
    for (back, found) in back.positions.iter().zip(&report.positions) {
        assert_eq!(
            (back.start, back.end, back.tokens),
            (found.start, found.end, found.tokens)
        );
        assert!(near(back.mean, found.mean), "{} {}", back.mean, found.mean);
    }
    assert!(near(back.collapse.unwrap().published.loss_ratio, ratio));
    assert_eq!(back.passkey.unwrap().recall_length, Some(40));

    let inside = EvaluationConfig { length: 1, ..config };
    assert_eq!(evaluate(model, &inside, &data, 16).unwrap().collapse, None);
}

#[test]
fn evaluation_options_out_of_range_are_refused_by_name() {
    let good: EvaluationConfig = toml::from_str("every = 100\n[passkey]").unwrap();
    good.validate().unwrap();
    let passkey = |change: fn(&mut PasskeyConfig)| {
        let mut config = good.clone();
        change(config.passkey.as_mut().unwrap());
        config
    };
    for (name, config) in [
        (
            "every",
            EvaluationConfig {
                every: 0,
                ..good.clone()
            },
        ),
        (
            "length",
            EvaluationConfig {
                length: 0,
                ..good.clone()
            },
        ),
        (
            "streams",
            EvaluationConfig {
                streams: 0,
                ..good.clone()
            },
        ),
        (
            "threshold",
            EvaluationConfig {
                threshold: f64::NAN,
                ..good.clone()
            },
        ),
        ("lengths", passkey(|passkey| passkey.lengths = vec![4, 0])),
        ("depths", passkey(|passkey| passkey.depths = 0)),
        ("samples", passkey(|passkey| passkey.samples = 0)),
    ] {
        let found = config.validate().unwrap_err().to_string();
        assert!(found.contains(name), "{found}");
    }
}
