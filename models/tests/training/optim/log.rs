//! The log: written, read, and cut back to a snapshot.

use std::fs;
use std::path::PathBuf;

use serde_json::json;
use spillway_models::train::{
    EndEvent, EvaluationEvent, Event, Log, LogError, Seconds, SnapshotEvent, StartEvent, StepEvent, read_log,
};
use tempfile::TempDir;

fn start() -> Event {
    Event::Start(StartEvent {
        steps: 6,
        architecture: "mamba2".into(),
        started: 1_700_000_000,
        ..StartEvent::default()
    })
}

fn step(step: u64) -> Event {
    Event::Step(StepEvent {
        step,
        loss: if step == 3 { f64::NAN } else { 5.5 / step as f64 },
        learning_rate: 1e-3,
        gradient_norm: if step == 4 { f64::INFINITY } else { 0.25 },
        clipped: false,
        tokens: step * 512,
        tokens_per_second: 4096.0,
        seconds: Seconds {
            data: 0.001,
            forward: 0.25,
            backward: 0.5,
            optimizer: 0.002,
        },
    })
}

/// One that found a loss beyond all bounds.
fn evaluation(step: u64) -> Event {
    let report = json!({
        "train_length": 64,
        "positions": [
            {"start": 0, "end": 64, "mean": 2.5, "perplexity": 12.25, "standard_error": 0.125, "tokens": 640},
            {"start": 64, "end": 128, "mean": null, "perplexity": null, "standard_error": null, "tokens": 640},
        ],
        "excess": [{"start": 64, "end": 128, "excess": null}],
    });
    Event::Evaluation(EvaluationEvent {
        step,
        seconds: 1.5,
        report: serde_json::from_value(report).unwrap(),
    })
}

fn snapshot(step: u64) -> Event {
    Event::Snapshot(SnapshotEvent { step })
}

fn end(step: u64) -> Event {
    Event::End(EndEvent {
        step,
        finished: true,
        seconds: 9.0,
    })
}

/// What a training of four steps writes, with an evaluation and a snapshot after every second one.
fn whole() -> Vec<Event> {
    let mut events = vec![start()];
    for at in 1..=4 {
        events.push(step(at));
        if at % 2 == 0 {
            events.extend([evaluation(at), snapshot(at)]);
        }
    }
    events.push(end(4));
    events
}

fn write(events: &[Event]) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log.jsonl");
    let mut log = Log::create(&path).unwrap();
    events.iter().for_each(|event| log.append(event).unwrap());
    log.sync().unwrap();
    (folder, path)
}

/// Compared as text, as NaN is not equal to itself.
fn text(events: &[Event]) -> String {
    format!("{events:#?}")
}

#[test]
fn events_come_back_as_they_were() {
    let (_folder, path) = write(&whole());
    assert_eq!(text(&read_log(&path).unwrap()), text(&whole()));
    let lines = fs::read_to_string(&path).unwrap();
    assert_eq!(lines.lines().count(), whole().len());
    // Anything that reads JSON can read it.
    for line in lines.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(value["event"].is_string(), "{line}");
    }
    assert!(
        lines.contains(r#""loss":"NaN""#) && lines.contains(r#""gradient_norm":"inf""#),
        "{lines}"
    );
}

#[test]
fn a_log_that_is_cut_anywhere_and_gone_on_with_is_the_whole_one() {
    let (folder, path) = write(&whole());
    let bytes = fs::read(&path).unwrap();
    let upto = whole().iter().position(|event| *event == snapshot(2)).unwrap() + 1;
    let kept: usize = bytes
        .split_inclusive(|b| *b == b'\n')
        .take(upto)
        .map(<[u8]>::len)
        .sum();
    // A kill after any byte that came behind the snapshot of step 2.
    for length in kept..=bytes.len() {
        fs::write(&path, &bytes[..length]).unwrap();
        let (mut log, events) = Log::resume(&path, 2).unwrap();
        assert_eq!(text(&events), text(&whole()[..upto]));
        whole()[upto..]
            .iter()
            .for_each(|event| log.append(event).unwrap());
        assert_eq!(fs::read(&path).unwrap(), bytes, "cut to {length} bytes");
    }
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        1,
        "nothing is left beside it"
    );
}

#[test]
fn what_lies_behind_the_snapshot_may_be_garbage_but_not_what_lies_before() {
    let (_folder, path) = write(&whole()[..5]);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, [&bytes[..], b"\0\0\0\0\n{}\n"].concat()).unwrap();
    assert!(matches!(
        read_log(&path).unwrap_err(),
        LogError::Line { line: 6, .. }
    ));
    let (_, events) = Log::resume(&path, 2).unwrap();
    assert_eq!(events.len(), 5);
    assert_eq!(fs::read(&path).unwrap(), bytes);
    fs::write(&path, [b"{}\n", &bytes[..]].concat()).unwrap();
    let error = Log::resume(&path, 2).unwrap_err();
    assert!(matches!(error, LogError::Line { line: 1, .. }), "{error}");
}

#[test]
fn a_log_that_ends_before_the_snapshot_is_refused_and_left_alone() {
    let (_folder, path) = write(&whole()[..3]);
    let before = fs::read(&path).unwrap();
    let error = Log::resume(&path, 4).unwrap_err();
    let expected = format!(
        "{}: expected lines up to step 4, to go on from, found the last one of step 2",
        path.display()
    );
    assert_eq!(error.to_string(), expected);
    assert_eq!(fs::read(&path).unwrap(), before);
    // From step 0 there is always a way on.
    let (_, events) = Log::resume(&path, 0).unwrap();
    assert_eq!(text(&events), text(&[start()]));
}

#[test]
fn a_log_is_not_begun_over_another() {
    let (_folder, path) = write(&whole());
    let before = fs::read(&path).unwrap();
    let error = Log::create(&path).unwrap_err().to_string();
    assert!(error.contains("exists already"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
    assert!(Log::resume(&path.with_file_name("none"), 0).is_err());
}

#[test]
fn two_runs_are_equal_but_for_the_times() {
    let slower = |event: &Event| {
        let mut event = event.clone();
        match &mut event {
            Event::Start(start) => start.started += 1,
            Event::Step(step) => {
                step.seconds.backward *= 2.0;
                step.tokens_per_second /= 1.5;
            }
            Event::Evaluation(evaluation) => evaluation.seconds = 2.0,
            Event::Task(task) => task.seconds = 3.0,
            Event::Snapshot(_) => {}
            Event::End(end) => end.seconds = 20.0,
        }
        event
    };
    let timeless = |events: &[Event]| events.iter().map(Event::without_times).collect::<Vec<_>>();
    let other: Vec<Event> = whole().iter().map(slower).collect();
    assert_ne!(text(&other), text(&whole()));
    assert_eq!(text(&timeless(&other)), text(&timeless(&whole())));
    let Event::Step(mut different) = step(1) else {
        unreachable!()
    };
    different.loss += 1e-12;
    assert_ne!(Event::Step(different).without_times(), step(1).without_times());
}
