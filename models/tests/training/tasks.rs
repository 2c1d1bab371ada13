//! Trainings on tasks: they learn, they know chance when they see it, they go on to the same bits.

use std::fs;
use std::path::Path;

use spillway_models::registry::written_layouts;
use spillway_models::train::log::{Event, read_log};
use spillway_models::train::run::{CHECKPOINT, LOG, TASK};
use spillway_models::train::snapshot::SnapshotChoice;
use spillway_models::train::task::{Metric, TaskResult};
use spillway_models::train::{Outcome, Run, TrainConfig, TrainError, Trainer};
use spillway_models::{LoadOptions, Model};

/// A configuration of a tiny model, `model` by its architecture, `task` the inside of a table.
fn parse(model: &str, sizes: &str, task: &str, optimizer: &str) -> Result<TrainConfig, TrainError> {
    let text = format!(
        "{sizes}\nmodel = {{ arch = \"{model}\", size = \"tiny\" }}\ntask = {{ {task} }}\noptimizer = {{ {optimizer} }}"
    );
    TrainConfig::parse(Path::new("test.toml"), &text)
}

fn trainer(model: &str, sizes: &str, task: &str, optimizer: &str) -> Trainer {
    let config = parse(model, sizes, task, optimizer).unwrap_or_else(|error| panic!("{error}"));
    Trainer::new(config).unwrap_or_else(|error| panic!("{model}, {task}: {error}"))
}

fn step(trainer: &mut Trainer, steps: usize) -> Vec<f64> {
    let losses = (0..steps).map(|_| trainer.step().unwrap_or_else(|error| panic!("{error}")).loss);
    losses.collect()
}

fn evaluate(trainer: &Trainer) -> TaskResult {
    let report = trainer.evaluate_task().unwrap_or_else(|error| panic!("{error}"));
    report.expect("a task").results.remove(0)
}

fn bits(trainer: &Trainer) -> Vec<u32> {
    let values = trainer.parameters().list().iter();
    let values = values.flat_map(|parameter| parameter.value.to_data().iter::<f32>().collect::<Vec<_>>());
    values.map(f32::to_bits).collect()
}

#[test]
fn a_tiny_model_learns_selective_copying_and_an_untrained_one_answers_by_chance() {
    let task = "data = { kind = \"selective-copying\", tokens = 3, vocab_size = 6 }, evaluation = { examples = 200 }";
    for (model, steps) in [("mamba2", 250), ("gla", 400)] {
        let mut trainer = trainer(
            model,
            &format!("steps = {steps}\nsequences = 32\nlength = 14"),
            task,
            "learning_rate = 8e-3, weight_decay = 0.01, clip_norm = 1.0, schedule = { kind = \"cosine\", warmup_steps = 20 }",
        );
        let before = evaluate(&trainer);
        assert_eq!((before.metric, before.examples), (Metric::Accuracy, 200));
        // Four tokens with equal probability.
        assert!(
            (before.chance - 0.25).abs() < 0.06,
            "{model}: chance {}",
            before.chance
        );
        assert!(!before.is_better_than_chance(), "{model}: {before:?}");
        step(&mut trainer, steps);
        let after = evaluate(&trainer);
        assert!(
            after.is_better_than_chance() && after.value > 0.9,
            "{model}: {after:?}"
        );
        assert_eq!(after.chance, before.chance);
        assert!(after.whole.is_some_and(|whole| whole <= after.value), "{after:?}");
    }
}

#[test]
fn what_cannot_be_foretold_is_left_at_chance_after_training_too() {
    // The horizon is longer than the signal: only its variance can be learned.
    let task = "data = { kind = \"forecasting\", horizon = 1e4, waves = { components = 1, lowest = 0.05, highest = 0.4 } }, \
                evaluation = { examples = 100 }";
    let mut trainer = trainer(
        "gla",
        "steps = 60\nsequences = 8\nlength = 16",
        task,
        "learning_rate = 2e-3, schedule = { kind = \"cosine\" }",
    );
    step(&mut trainer, 60);
    let result = evaluate(&trainer);
    assert_eq!((result.metric, result.chance), (Metric::RelativeError, 1.0));
    assert!(
        !result.is_better_than_chance() && result.value < 1.3,
        "{result:?}"
    );
}

#[test]
fn a_tiny_model_learns_real_values_at_every_step_and_at_the_end() {
    for (sizes, data, bound) in [
        (
            "steps = 150\nsequences = 16\nlength = 32",
            "kind = \"delay\", lag = 2, limit = 0.1",
            0.2,
        ),
        (
            "steps = 150\nsequences = 16\nlength = 6",
            "kind = \"adding\"",
            0.5,
        ),
    ] {
        let task = format!("data = {{ {data} }}, evaluation = {{ examples = 100 }}");
        let mut trainer = trainer(
            "mamba2",
            sizes,
            &task,
            "learning_rate = 5e-3, clip_norm = 1.0, schedule = { kind = \"cosine\", warmup_steps = 10 }",
        );
        step(&mut trainer, 150);
        let result = evaluate(&trainer);
        assert!(
            result.is_better_than_chance() && result.value < bound,
            "{data}: {result:?}"
        );
    }
}

#[test]
fn every_task_runs_and_reports_a_number() {
    let folder = tempfile::tempdir().expect("a folder");
    let text: String = (0..200).map(|number| format!("{number} and ")).collect();
    fs::write(folder.path().join("text.txt"), &text).expect("written");
    fs::write(
        folder.path().join("texts.csv"),
        "text,label\na,0\nbb,1\nccc,0\nd,1\n",
    )
    .expect("written");
    for (length, data) in [
        (24, "kind = \"delay\", lag = 3, lags = 2"),
        (24, "kind = \"reconstruction\", window = 5"),
        (24, "kind = \"copying\", tokens = 4, reversed = true"),
        (24, "kind = \"selective-copying\", tokens = 4"),
        (24, "kind = \"adding\""),
        (24, "kind = \"continuous-mqar\", pairs = 8, passes = 2, width = 6"),
        (64, "kind = \"digits\", order = \"bit-reversed\""),
        (
            70,
            "kind = \"digits-with-gap\", gap = 6, digits = { order = \"random\" }",
        ),
        (24, "kind = \"listops\", arguments = 4"),
        (64, "kind = \"pathfinder\", side = 8, distractors = 0"),
        (24, "kind = \"text\", path = \"texts.csv\", held_out = 0.5"),
        (24, "kind = \"masked-tokens\", path = \"text.txt\", delay = 2"),
        (
            24,
            "kind = \"forecasting\", waves = { chirps = true, noise = 0.1 }",
        ),
        (24, "kind = \"missing-samples\", missing = 0.5"),
    ] {
        let sizes = format!(
            "steps = 2\nsequences = 3\nlength = {length}\nbase = {:?}",
            folder.path().display().to_string()
        );
        let task = format!("data = {{ {data} }}, evaluation = {{ examples = 4 }}");
        let mut trainer = trainer("gla", &sizes, &task, "learning_rate = 1e-3");
        let losses = step(&mut trainer, 2);
        assert!(
            losses.iter().all(|loss| loss.is_finite() && *loss > 0.0),
            "{data}: {losses:?}"
        );
        let result = evaluate(&trainer);
        let numbers = [result.value, result.low, result.high, result.chance, result.loss];
        assert!(
            numbers.iter().all(|number| number.is_finite()),
            "{data}: {result:?}"
        );
        assert!(
            result.low <= result.value && result.value <= result.high,
            "{data}: {result:?}"
        );
        assert!((1..=4).contains(&result.examples), "{data}: {result:?}");
    }
}

#[test]
fn every_layout_takes_real_values_and_every_weight_but_those_of_tokens_gets_a_gradient() {
    for layout in written_layouts() {
        let size = layout
            .presets
            .iter()
            .find(|preset| preset.size.starts_with("tiny"));
        let size = size
            .unwrap_or_else(|| panic!("{} has a tiny size", layout.name))
            .size;
        let text = format!(
            "steps = 1\nsequences = 2\nlength = 5\nmodel = {{ arch = {:?}, layout = {:?}, size = {size:?} }}\n\
             task = {{ data = {{ kind = \"adding\" }} }}\noptimizer = {{ learning_rate = 1e-2, weight_decay = 0.0 }}",
            layout.architecture, layout.name
        );
        let config =
            TrainConfig::parse(Path::new("test.toml"), &text).unwrap_or_else(|error| panic!("{error}"));
        let mut trainer = Trainer::new(config).unwrap_or_else(|error| panic!("{}: {error}", layout.name));
        let values = |trainer: &Trainer| -> Vec<(String, Vec<f32>)> {
            let list = trainer.parameters().list().iter();
            list.map(|p| (p.name.clone(), p.value.to_data().iter::<f32>().collect()))
                .collect()
        };
        let before = values(&trainer);
        step(&mut trainer, 1);
        let after = values(&trainer);
        let same: Vec<&str> = before
            .iter()
            .zip(&after)
            .filter(|(before, after)| before.1 == after.1)
            .map(|(before, _)| before.0.as_str())
            .collect();
        assert!(
            same.len() < before.len() / 2,
            "{} {}: {same:?}",
            layout.architecture,
            layout.name
        );
        assert!(!same.iter().any(|name| name.starts_with("task.")), "{same:?}");
    }
}

#[test]
fn what_comes_after_the_end_of_a_sequence_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(
        folder.path().join("texts.csv"),
        "text,label\nab,0\nabcdef,1\nabcd,0\nfedc,1\n",
    )
    .expect("written");
    for readout in ["mean", "last"] {
        let first = |length: usize| {
            let sizes = format!(
                "steps = 1\nsequences = 8\nlength = {length}\nbase = {:?}",
                folder.path().display().to_string()
            );
            let task = format!(
                "data = {{ kind = \"text\", path = \"texts.csv\" , held_out = 0.25 }}, readout = \"{readout}\""
            );
            step(&mut trainer("mamba2", &sizes, &task, "learning_rate = 1e-3"), 1)[0]
        };
        let (short, long) = (first(6), first(40));
        assert!(
            (short - long).abs() < 1e-5 * short,
            "{readout}: {short} and {long}"
        );
    }
}

#[test]
fn a_snapshot_goes_on_to_the_same_bits() {
    let make = || {
        trainer(
            "mamba2",
            "steps = 8\nsequences = 3\nlength = 70\naccumulation = 2",
            "data = { kind = \"digits-with-gap\", gap = 6 }, evaluation = { examples = 6 }",
            "learning_rate = 3e-3, groups = [{ names = [\"A_log\", \"dt_bias\"], learning_rate = 1e-4, weight_decay = 0.0 }]",
        )
    };
    let mut whole = make();
    step(&mut whole, 4);
    let snapshot = whole.snapshot().expect("a snapshot");
    step(&mut whole, 4);
    let mut resumed = make();
    resumed
        .restore(&snapshot, Path::new("snapshot"))
        .expect("restored");
    step(&mut resumed, 4);
    assert!(bits(&whole) == bits(&resumed), "other weights after going on");
    assert_eq!(evaluate(&whole), evaluate(&resumed));
}

#[test]
fn a_run_logs_what_it_found_and_its_checkpoint_is_a_model_with_the_head_beside() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = |threads: usize| {
        parse(
            "gla",
            &format!("steps = 6\nsequences = 2\nlength = 8\nsnapshot_every = 2\nthreads = {threads}"),
            "data = { kind = \"adding\" }, evaluation = { every = 3, examples = 5 }",
            "learning_rate = 1e-3",
        )
        .expect("a configuration")
    };
    struct Until(u64);
    impl spillway_models::train::Observer for Until {
        fn event(&mut self, event: &Event) -> std::ops::ControlFlow<()> {
            match event {
                Event::Step(step) if step.step == self.0 => std::ops::ControlFlow::Break(()),
                _ => std::ops::ControlFlow::Continue(()),
            }
        }
    }
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    Run::create(config(1), &whole)
        .expect("a run")
        .go_on(&mut ())
        .expect("trained");
    let stopped = Run::create(config(1), &parts)
        .expect("a run")
        .go_on(&mut Until(4));
    assert_eq!(stopped.expect("trained"), Outcome::Stopped);
    let mut resumed = Run::resume(config(2), &parts, SnapshotChoice::Latest).expect("resumed");
    assert_eq!(resumed.go_on(&mut ()).expect("trained"), Outcome::Finished);
    let events = |folder: &Path| -> Vec<Event> {
        let events = read_log(&folder.join(LOG)).expect("a log");
        let events = events
            .iter()
            .filter(|event| matches!(event, Event::Step(_) | Event::Task(_)));
        events.map(Event::without_times).collect()
    };
    assert_eq!(events(&whole), events(&parts));
    let evaluated = events(&whole)
        .iter()
        .filter(|event| matches!(event, Event::Task(_)))
        .count();
    assert_eq!(evaluated, 3, "before the first step, after 3 and after 6");
    let same = |name: &str| {
        let read = |folder: &Path| fs::read(folder.join(CHECKPOINT).join(name)).expect(name);
        assert!(read(&whole) == read(&parts), "{name} differs");
    };
    same("model.safetensors");
    same(TASK);
    let model = Model::load(&whole.join(CHECKPOINT), &LoadOptions::default()).expect("a model");
    assert_eq!(model.info().architecture, "gla");
}

#[test]
fn other_data_are_asked_of_the_same_weights_and_what_is_added_for_them_is_taken_off_again() {
    let others = "others = [{ name = \"same\", data = { kind = \"adding\" } }, \
                  { name = \"longer\", data = { kind = \"adding\" }, length = 40 }, \
                  { name = \"slower\", data = { kind = \"adding\" }, add = { dt_bias = 1.5 } }]";
    let task = format!("data = {{ kind = \"adding\" }}, evaluation = {{ examples = 10, {others} }}");
    let mut trainer = trainer(
        "mamba2",
        "steps = 2\nsequences = 4\nlength = 8",
        &task,
        "learning_rate = 1e-3",
    );
    step(&mut trainer, 2);
    let before = bits(&trainer);
    let report = trainer.evaluate_task().expect("evaluated").expect("a task");
    assert!(bits(&trainer) == before);
    let [own, same, longer, slower] = &report.results[..] else {
        panic!("four results");
    };
    assert_eq!((own.value, own.name.as_str()), (same.value, ""));
    assert!(
        own.value != longer.value && own.value != slower.value,
        "{report:?}"
    );
}

#[test]
fn groups_of_parameters_have_rates_and_decays_of_their_own() {
    let train = |groups: &str| {
        let optimizer = format!("learning_rate = 1e-2, weight_decay = 0.5{groups}");
        let sizes = "steps = 3\nsequences = 2\nlength = 6";
        let mut trainer = trainer("mamba2", sizes, "data = { kind = \"adding\" }", &optimizer);
        let read = |trainer: &Trainer, end: &str| -> Vec<f32> {
            let list = trainer.parameters().list().iter();
            let named = list.filter(|p| p.name.ends_with(end));
            named
                .flat_map(|p| p.value.to_data().iter::<f32>().collect::<Vec<_>>())
                .collect()
        };
        let ends = ["A_log", "dt_bias", "out_proj.weight"];
        let before = ends.map(|end| read(&trainer, end));
        step(&mut trainer, 3);
        (before, ends.map(|end| read(&trainer, end)))
    };
    let (before, plain) = train("");
    let (_, frozen) = train(", groups = [{ names = [\"A_log\"], learning_rate = 0.0 }]");
    assert_eq!(before[0], frozen[0]);
    assert!(plain[0] != before[0] && frozen[1] != before[1] && frozen[2] != before[2]);
    let (_, decaying) =
        train(", groups = [{ names = [\"A_log\", \"out_proj.weight\"], weight_decay = 2.0 }]");
    let size = |values: &[f32]| values.iter().map(|value| value * value).sum::<f32>();
    // By (1 − 0.02)³ in the place of 1 and of (1 − 0.005)³.
    for index in [0, 2] {
        assert!(
            size(&decaying[index]) < 0.95 * size(&plain[index]),
            "parameter {index}"
        );
    }
    let (_, alike) = train(", groups = [{ names = [\"dt_bias\"] }]");
    assert_eq!(alike, plain);
}

#[test]
fn what_does_not_fit_together_is_refused_with_the_field() {
    let sizes = "steps = 2\nsequences = 2\nlength = 64";
    let adding = "data = { kind = \"adding\" }";
    let vocabulary = "data = { kind = \"copying\", tokens = 2, vocab_size = 5000 }";
    let other = "evaluation = { others = [{ name = \"x\", data = { kind = \"digits\" } }] }";
    let add =
        "evaluation = { others = [{ name = \"x\", data = { kind = \"adding\" }, add = { none = 1.0 } }] }";
    for (sizes, task, optimizer, words) in [
        (
            sizes,
            "data = { kind = \"copying\", tokens = 2 }, readout = \"last\"",
            "",
            "task.readout: expected none",
        ),
        (
            "steps = 2\nsequences = 2\nlength = 63",
            "data = { kind = \"digits\" }",
            "",
            "length: expected 64, the pixels",
        ),
        (
            sizes,
            "data = { kind = \"delay\", lag = 64 }",
            "",
            "task.data.lag: expected lag · lags below the length 64",
        ),
        (
            sizes,
            vocabulary,
            "",
            "task.data: expected tokens below the model's vocabulary size",
        ),
        (
            sizes,
            "data = { kind = \"digits\", source = { csv = \"none.csv\" } }",
            "",
            "none.csv",
        ),
        (
            sizes,
            &format!("{adding}, evaluation = {{ every = 0 }}"),
            "",
            "task.evaluation.every: expected at least 1",
        ),
        (
            sizes,
            &format!("{adding}, evaluation = {{ examples = 0 }}"),
            "",
            "task.evaluation.examples: expected",
        ),
        (
            sizes,
            &format!("{adding}, {other}"),
            "",
            "task.evaluation.others.x: expected a task of the shape",
        ),
        (
            sizes,
            &format!("{adding}, {add}"),
            "",
            "task.evaluation.others.x.add: expected ends of parameters' names",
        ),
        (
            sizes,
            adding,
            ", groups = [{ names = [\"none\"] }]",
            "groups.names: expected ends of parameters' names",
        ),
        (
            sizes,
            adding,
            ", groups = [{ names = [] }]",
            "groups.names: expected",
        ),
        (
            sizes,
            adding,
            ", groups = [{ names = [\"D\"], learning_rate = -1.0 }]",
            "groups.learning_rate: expected a number",
        ),
        (
            sizes,
            adding,
            ", groups = [{ names = [\"D\"], weight_decay = 1e5 }]",
            "groups.weight_decay: expected at least 0",
        ),
        (
            &format!("{sizes}\ndata = {{ kind = \"copy\" }}"),
            adding,
            "",
            "data: expected none beside a table [task]",
        ),
        (
            &format!("{sizes}\ncarry = {{ carry = true }}"),
            adding,
            "",
            "carry: expected none beside a table [task]",
        ),
        (
            &format!("{sizes}\nevaluation = {{ every = 1 }}"),
            adding,
            "",
            "evaluation: expected none beside",
        ),
    ] {
        let config = parse("mamba2", sizes, task, &format!("learning_rate = 1e-3{optimizer}"));
        let error = config
            .and_then(|config| Trainer::new(config).map(drop))
            .expect_err(words);
        assert!(error.to_string().contains(words), "{task}: {error}");
    }
    let neither = "steps = 1\nsequences = 1\nlength = 1\nmodel = { arch = \"gla\", size = \"tiny\" }\noptimizer = { learning_rate = 1e-3 }";
    let error = TrainConfig::parse(Path::new("test.toml"), neither)
        .expect_err("no data")
        .to_string();
    assert!(
        error.contains("data: expected a table [data] whose next token is foretold, or a table [task]"),
        "{error}"
    );
}
