//! Sound: a training on WAV files, and a file that is generated.

use crate::*;
use spillway_models::audio::wav::{self, Channels, Clip};
use spillway_models::train::TrainConfig;

const CONFIG: &str = r#"
steps = 4
sequences = 2
length = 30
model = { arch = "sashimi", size = "tiny" }
optimizer = { learning_rate = 1e-3 }

[data]
kind = "audio"
paths = ["sounds"]
sample_rate = 4000
held_out = 0.25
order = "documents"

# Segments that end inside the groups of the tiers.
[carry]
carry = true
segment = 7
backpropagation = "truncated"

[evaluation]
every = 4
length = 1
streams = 2
"#;

fn sounds(folder: &Path) {
    fs::create_dir(folder.join("sounds")).expect("a folder");
    for (name, frequency) in [("low", 0.05f32), ("high", 0.11)] {
        let samples = (0..400).map(|n| (n as f32 * frequency).sin()).collect();
        let clip = Clip {
            sample_rate: 4000,
            samples,
        };
        wav::write(&folder.join(format!("sounds/{name}.wav")), &clip).expect("written");
    }
}

#[test]
fn a_model_of_sound_is_trained_measured_beside_counting_and_heard() {
    let folder = tempfile::tempdir().expect("a folder");
    sounds(folder.path());
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    fs::write(path("config.toml"), CONFIG).expect("written");
    let text = stdout_of(&["train", &path("config.toml"), "--out", &path("run")]);
    assert!(
        text.contains("On held-out sound: ") && text.contains("counting one, two, three codes gives "),
        "{text}"
    );
    let summary = fs::read_to_string(path("run/summary.json")).expect("a summary");
    let summary: Value = serde_json::from_str(&summary).expect("JSON");
    let ngrams = summary["sound"]["ngrams"].as_array().expect("n-grams");
    assert_eq!(ngrams.len(), 3);
    // 4 steps teach little, but 256 codes are never more than their 8 bits and a rounding.
    for bits in ngrams
        .iter()
        .map(|ngram| &ngram["bits"])
        .chain([&summary["sound"]["model"]])
    {
        let bits = bits.as_f64().expect("bits");
        assert!((0.5..9.0).contains(&bits), "{summary}");
    }

    // In two parts, clocks in the middle of groups and all, it comes to the same.
    let stopped = spillway(&[
        "train",
        &path("config.toml"),
        "--out",
        &path("parts"),
        "--stop-after",
        "1",
    ]);
    assert_eq!(stopped.status.code(), Some(1));
    stdout_of(&["train", &path("config.toml"), "--out", &path("parts"), "--resume"]);
    let weights =
        |run: &str| fs::read(folder.path().join(run).join("checkpoint/model.safetensors")).expect("weights");
    assert!(weights("run") == weights("parts"));

    let (checkpoint, sample) = (path("run/checkpoint"), path("sample.wav"));
    let heard = |seed: &str| {
        let arguments = [
            "generate",
            &checkpoint,
            "--ids",
            "128",
            "--max-tokens",
            "50",
            "--seed",
            seed,
            "--wav",
            &sample,
        ];
        assert!(stdout_of(&arguments).is_empty());
        wav::read(Path::new(&sample), Channels::One).expect("sound")
    };
    let first = heard("1");
    let picture = path("sample.svg");
    let drawn = [
        "generate",
        &checkpoint,
        "--ids",
        "128",
        "--max-tokens",
        "50",
        "--wav",
        &sample,
        "--spectrogram",
        &picture,
    ];
    stdout_of(&drawn);
    assert!(
        fs::read_to_string(&picture)
            .expect("a picture")
            .contains("frequency (Hz)")
    );
    fails(
        &["generate", &checkpoint, "--ids", "128", "--spectrogram", &picture],
        2,
        &["--wav"],
    );
    assert_eq!((first.sample_rate, first.samples.len()), (4000, 50));
    assert!(first != heard("2") && first == heard("1"));

    // What is no model of sound makes none.
    let silent = ["generate", "--ids", "1", "--wav", &sample];
    fails(&silent, 2, &["--wav", "audio.json"]);
}

#[test]
fn the_configurations_for_spoken_words_are_the_same_but_for_the_model() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/audio");
    let read = |name: &str| {
        let config = TrainConfig::load(&folder.join(name)).unwrap_or_else(|error| panic!("{error}"));
        let mut config = config.to_json();
        let model = config["model"].take();
        (model, config)
    };
    let ((sashimi, of_sashimi), (mamba2, of_mamba2)) = (read("sashimi.toml"), read("mamba2.toml"));
    assert_eq!(of_sashimi, of_mamba2);
    assert_eq!([&sashimi["arch"], &mamba2["arch"]], ["sashimi", "mamba2"]);
    let words = fs::read_to_string(folder.join("README.md")).expect("a page");
    for name in ["get-sounds.sh", "sashimi.toml", "mamba2.toml"] {
        assert!(words.contains(name) && folder.join(name).is_file(), "{name}");
    }
}
