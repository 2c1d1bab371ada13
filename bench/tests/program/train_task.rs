//! `spillway train` on a task.

use crate::*;
use spillway_models::train::{TrainConfig, Trainer};

const CONFIG: &str = r#"
steps = 6
sequences = 4
length = 14
snapshot_every = 2
model = { arch = "gla", size = "tiny" }
optimizer = { learning_rate = 1e-3, groups = [{ names = ["gk_proj.0.weight"], learning_rate = 1e-4 }] }

[task]
data = { kind = "selective-copying", tokens = 3, vocab_size = 6 }

[task.evaluation]
every = 3
examples = 50

[[task.evaluation.others]]
name = "longer"
data = { kind = "selective-copying", tokens = 3, vocab_size = 6 }
length = 30
"#;

#[test]
fn what_was_found_is_said_beside_chance_on_the_terminal_in_json_and_on_the_page() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    fs::write(path("copying.toml"), CONFIG).expect("written");
    let (config, whole, parts) = (path("copying.toml"), path("whole"), path("parts"));
    let text = stdout_of(&["train", &config, "--out", &whole]);
    assert!(text.contains("an answer over the last twentieth"), "{text}");
    assert!(text.contains("Evaluated after 6 steps: accuracy "), "{text}");
    assert!(
        text.contains("on 50 examples, ") && text.contains("longer: accuracy "),
        "{text}"
    );
    // Six steps teach nothing.
    assert!(text.contains("no better than chance, "), "{text}");
    let page = page_of(Path::new(&whole), "report.html");
    for words in ["The task", "longer", "Answers", "chance", "loss (of an answer)"] {
        assert!(page.contains(words), "no {words:?} on the page");
    }
    assert!(!page.contains("nats per token"), "{page}");
    let summary = fs::read_to_string(Path::new(&whole).join("summary.json")).expect("a summary");
    let summary: Value = serde_json::from_str(&summary).expect("JSON");
    let results = summary["task"]["results"].as_array().expect("results");
    assert_eq!((results.len(), &summary["evaluated_at"]), (2, &Value::from(6)));
    assert_eq!(results[0]["metric"], "accuracy");
    let chance = results[0]["chance"].as_f64().expect("a number");
    assert!((0.25..0.4).contains(&chance), "{chance}");

    // In two parts it comes to the same.
    let stopped = spillway(&["train", &config, "--out", &parts, "--stop-after", "4"]);
    assert_eq!(stopped.status.code(), Some(1));
    stdout_of(&["train", &config, "--out", &parts, "--resume"]);
    for name in ["model.safetensors", "task.safetensors"] {
        let read = |run: &str| fs::read(Path::new(run).join("checkpoint").join(name)).expect(name);
        assert!(read(&whole) == read(&parts), "{name} differs");
    }
}

#[test]
fn the_example_of_every_task_can_be_trained() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/tasks");
    let found = names(&folder);
    assert_eq!(found.len(), 20, "{found:?}");
    // Their files are the reader's own.
    let files = [
        "bigs-classes.toml",
        "image-mnist.toml",
        "sequential-mnist.toml",
        "text.toml",
    ];
    for name in found {
        let mut config = TrainConfig::load(&folder.join(&name)).unwrap_or_else(|error| panic!("{error}"));
        let comment = fs::read_to_string(folder.join(&name)).expect("text");
        let command = format!(
            "spillway train bench/configs/tasks/{name} --out {}",
            name.replace(".toml", "")
        );
        assert!(comment.contains(&command), "{name} does not say how it is used");
        if files.contains(&name.as_str()) {
            continue;
        }
        config.sequences = 1;
        let mut trainer = Trainer::new(config).unwrap_or_else(|error| panic!("{name}: {error}"));
        let loss = trainer
            .step()
            .unwrap_or_else(|error| panic!("{name}: {error}"))
            .loss;
        assert!(loss.is_finite(), "{name}: {loss}");
    }
}
