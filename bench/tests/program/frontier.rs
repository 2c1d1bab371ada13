//! `spillway frontier`.

use crate::studies::{FILES, Study, results, succeeds};
use crate::*;
use spillway::studies::frontier::config::FrontierConfig;
use spillway::studies::frontier::measure::Asking;

const TRAINING: &str = r#"
steps = 6
sequences = 4
length = 16
snapshot_every = 2
data = { kind = "mqar", pairs = 2, vocab_size = 16 }
optimizer = { learning_rate = 1e-3 }
model = { arch = "gla", config = { model_type = "gla", hidden_size = 16, num_hidden_layers = 1, vocab_size = 16, intermediate_size = 16, num_heads = 2 } }
"#;

const FRONTIER: &str = r#"
title = "Recall"
question = "Who recalls?"
training = "training.toml"
seeds = [3, 5]
solved = 0.95
mitigations = ["forget:0.5", "window:4", "state-norm:auto"]
speed = { prefill = 8, decode = 2, repeats = 1 }

[[models]]
name = "attention"
baseline = true
set = { model = { arch = "llama", config = { model_type = "llama", vocab_size = 16, hidden_size = 16, intermediate_size = 16, num_hidden_layers = 1, num_attention_heads = 2 } } }

[[models]]
name = "GLA"
sizes = [
    { "model.config.expand_k" = 0.25 },
    { "model.config.expand_k" = 1.0 },
]

[[models]]
name = "delta rule"
seeds = [3]
set = { model = { arch = "delta_net", config = { model_type = "delta_net", hidden_size = 16, num_hidden_layers = 1, vocab_size = 16, intermediate_size = 16, num_heads = 2 } } }

[[models]]
name = "window"
seeds = [3]
set = { model = { arch = "llama", config = { model_type = "mistral", sliding_window = 4, vocab_size = 16, hidden_size = 16, intermediate_size = 16, num_hidden_layers = 1, num_attention_heads = 2 } } }

[[asked]]
name = "2 pairs"
length = 16
sequences = 20
data = { kind = "mqar", pairs = 2, vocab_size = 16 }

[[asked]]
name = "4 pairs"
length = 20
sequences = 20
data = { kind = "mqar", pairs = 4, vocab_size = 16 }
"#;

const STUDY: Study = Study {
    command: "frontier",
    name: "frontier.toml",
    text: FRONTIER,
    training: TRAINING,
};

/// The points of a model under a mitigation.
fn points<'a>(report: &'a Value, model: u64, mitigation: &str) -> Vec<&'a Value> {
    let points = report["points"].as_array().expect("points").iter();
    let of = |point: &&Value| point["model"] == model && point["mitigation"] == mitigation;
    points.filter(of).collect()
}

#[test]
fn every_model_in_every_size_is_trained_asked_and_timed_alone_and_under_mitigations() {
    let (folder, config) = STUDY.folder();
    let out = folder.path().join("out");
    let text = succeeds(&STUDY.run(&config, &out, &["--threads", "2"]));
    for part in [
        "| attention | ",
        "| 2 pairs |",
        "state-norm:auto",
        "What the trainings",
        "of 2 (",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert_eq!(names(&out), FILES);
    let runs = [
        "attention-size-1-s3",
        "attention-size-1-s5",
        "delta-rule-size-1-s3",
        "gla-size-1-s3",
        "gla-size-1-s5",
        "gla-size-2-s3",
        "gla-size-2-s5",
        "window-size-1-s3",
    ];
    assert_eq!(names(&out.join("runs")), runs);
    let figures = names(&out.join("figures"));
    for figure in [
        "accuracy-1.svg",
        "accuracy-2.svg",
        "solved.svg",
        "speed-decode.svg",
        "price-2-1.svg",
        "price-2-2.svg",
    ] {
        assert!(figures.contains(&figure.to_string()), "{figures:?}");
    }
    let report = results(&out);
    assert_eq!(report["trainings"], Value::from(vec![8, 8]));
    assert_eq!(report["asked"][1]["guess"], 0.25);

    // 16 channels: keys and values of 20 tokens in f32 are 2,560 bytes; the sums are 4 or 16 by 16, over two heads.
    let bytes = |model, mitigation: &str| -> Vec<u64> {
        let points = points(&report, model, mitigation);
        points
            .iter()
            .map(|point| point["state_bytes"].as_u64().expect("bytes"))
            .collect()
    };
    assert_eq!(bytes(0, "none"), [20 * 2 * 16 * 4]);
    // Keys and values in a window are state too, of as many tokens as the next one reads beside itself.
    assert_eq!(bytes(3, "none"), [3 * 2 * 16 * 4]);
    assert_eq!(bytes(1, "none"), [4 * 16 / 2 * 4, 16 * 16 / 2 * 4]);
    assert!(bytes(1, "window:4")[0] > bytes(1, "none")[0]);

    // What was counted, once for each seed, and judged by the Wilson interval.
    for point in points(&report, 1, "none") {
        assert_eq!(point["seeds"], Value::from(vec![3, 5]));
        let answers = point["answers"].as_array().expect("answers");
        let asked: Vec<&Value> = answers
            .iter()
            .map(|answer| &answer["counted"][1]["asked"])
            .collect();
        assert_eq!(asked, [40, 80]);
        assert_eq!(answers[0]["change"], Value::Null);
        let high = answers[0]["solved_interval"][1].as_f64().expect("a bound");
        // None of two: z² / (2 + z²).
        assert_eq!(answers[0]["solved"], 0);
        assert!((high - 0.657_628).abs() < 1e-5, "{high}");
        let right = answers[0]["counted"][0]["right"].as_f64().expect("a number");
        assert_eq!(answers[0]["accuracy"]["values"][0], right / 40.0);
        assert!(point["decode_tokens_per_second"].as_f64().expect("a speed") > 0.0);
    }
    // A window cannot be had by subtraction where a product of matrices would have to be undone, and attention has nothing to mitigate.
    for (model, mitigation) in [(2, "window:4"), (0, "forget:0.5")] {
        let found = points(&report, model, mitigation);
        assert!(found[0]["refused"].is_string(), "{}", found[0]);
        assert_eq!(found[0]["answers"].as_array().map(Vec::len), Some(0));
    }
    for mitigation in ["forget:0.5", "window:4", "state-norm:auto"] {
        for point in points(&report, 1, mitigation) {
            assert_eq!(point["refused"], Value::Null);
            let change = &point["answers"][0]["change"];
            assert_eq!(change["values"].as_array().map(Vec::len), Some(2));
        }
    }
    let csv = fs::read_to_string(out.join("results.csv")).expect("file");
    // Alone, and under the mitigations that each takes: 3 of GLA, 2 of the delta rule, none of attention.
    assert_eq!(csv.lines().count(), 1 + 2 * (2 + 4 * 4 + 3 + 1));
    let page = page_of(&out, "report.html");
    for part in [
        "Who recalls?",
        "a guess among",
        "What mitigations cost",
        "refused: ",
    ] {
        assert!(page.contains(part), "no {part:?} on the page");
    }

    // Nothing is left to do, and another question is asked of the models that there are.
    let log = |run: &str| fs::read(out.join("runs").join(run).join("log.jsonl")).expect("a log");
    let before = (report["points"].clone(), log("gla-size-2-s5"));
    succeeds(&STUDY.run(&config, &out, &["--resume", "--threads", "2"]));
    assert_eq!((results(&out)["points"].clone(), log("gla-size-2-s5")), before);
    fs::write(&config, FRONTIER.replace("sequences = 20", "sequences = 30")).expect("written");
    succeeds(&STUDY.run(&config, &out, &["--resume", "--threads", "2"]));
    let report = results(&out);
    assert_eq!(
        points(&report, 0, "none")[0]["answers"][0]["counted"][0]["asked"],
        60
    );
    assert_eq!(log("gla-size-2-s5"), before.1);
    refused(
        &STUDY.run(&config, &out, &[]),
        2,
        &["--out", "exists", "--resume"],
    );
}

#[test]
fn a_frontier_that_is_stopped_or_killed_goes_on_to_the_same_bits() {
    STUDY.goes_on_to_the_same_bits(
        8,
        &["runs/gla-size-2-s3/snapshots", "runs/gla-size-1-s5/checkpoint"],
        &["checkpoint/model.safetensors", "answers.json"],
    );
}

#[test]
fn of_several_learning_rates_the_one_counts_that_comes_to_more_on_other_sequences() {
    let text = FRONTIER
        .replace(
            "solved = 0.95",
            "solved = 0.95\nlearning_rates = [1e-9, 3e-2]\nset = { steps = 60, sequences = 16 }",
        )
        .replace(
            "mitigations = [\"forget:0.5\", \"window:4\", \"state-norm:auto\"]",
            "",
        )
        .replace("prefill = 8, decode = 2", "prefill = 0, decode = 0");
    // Attention alone, with two seeds.
    let (head, rest) = text.split_once("[[models]]\nname = \"GLA\"").expect("models");
    let (_, asked) = rest.split_once("[[asked]]").expect("questions");
    let (folder, config) = STUDY.folder_with(&format!("{head}[[asked]]{asked}"));
    let out = folder.path().join("out");
    succeeds(&STUDY.run(&config, &out, &["--threads", "2"]));
    let report = results(&out);
    let points = points(&report, 0, "none");
    assert_eq!(points.len(), 1);
    let choice = points[0]["choice"].as_array().expect("both rates");
    let accuracy = |index: usize| choice[index][1].as_f64().expect("an accuracy");
    let best = if accuracy(1) > accuracy(0) { 3e-2 } else { 1e-9 };
    assert_eq!(points[0]["learning_rate"], best);
    assert!(accuracy(1) > accuracy(0), "{choice:?}");
    assert_eq!(names(&out.join("runs")).len(), 4);
    let page = page_of(&out, "report.html");
    assert!(page.contains("Learning rates") && !page.contains("tokens/s"));
}

#[test]
fn two_lists_are_asked_in_both_orders_beside_what_no_memory_can_do_without() {
    let lists = |first: usize, second: usize| {
        format!(
            "[[asked]]\nname = \"{first} then {second}\"\nlength = 11\nsequences = 20\n\
             data = {{ kind = \"set-disjointness\", sizes = [[{first}, {second}]], vocab_size = 24 }}\n"
        )
    };
    let mixer = |kind: &str, more: &str| {
        format!(
            "{{ _target_ = \"{kind}\", num_heads = 2, feature_dim = 4, feature_name = \"taylor_exp\"{more} }}"
        )
    };
    let model = |name: &str, arch: &str, mixer: String, more: &str| {
        format!(
            "[[models]]\nname = \"{name}\"\n[models.set]\n{more}\n[models.set.model]\narch = \"{arch}\"\n\
             config = {{ architectures = [\"GPTLMHeadModel\"], model_type = \"gpt2\", vocab_size = 24, n_embd = 16, n_layer = 1, n_head = 2, \
             n_inner = 16, mixer = {{ _target_ = \"mixers.BaseConv\" }}, alt_mixer_layers = [0], alt_mixer_2_layers = [], alt_mixer = {mixer}, rms_norm = true, \
             activation_function = \"swiglu\", max_position_embeddings = 0, mlp_fc1_bias = false, mlp_fc2_bias = false }}\n"
        )
    };
    let text = [
        "title = \"Lists\"\ntraining = \"training.toml\"\nseeds = [3, 5]\nset.length = 11\n\
         set.data = { kind = \"set-disjointness\", sizes = [[2, 6], [6, 2]], vocab_size = 24 }\n\
         speed = { prefill = 0, decode = 0 }\n"
            .to_string(),
        lists(2, 6),
        lists(6, 2),
        model("causal", "based", mixer("mixers.LinearAttention", ""), ""),
        model(
            "prefix",
            "jrt",
            mixer("mixers.PrefixLinearAttention", ", enc_length = 10"),
            "encoder = { length = 10, mask_id = 0, masked = 0.0, weight = 0.0 }",
        ),
    ];
    let (folder, config) = STUDY.folder_with(&text.concat());
    let out = folder.path().join("out");
    let text = succeeds(&STUDY.run(&config, &out, &["--threads", "2"]));
    assert!(text.contains("with the shorter list first"), "{text}");
    let report = results(&out);
    assert_eq!(report["trainings"], Value::from(vec![4, 4]));
    // Twenty ids but the marks: C(20, 2) = 190 lists, C(20, 6) = 38,760.
    let bound = |asked: usize, of: &str| report["asked"][asked]["bound"][of].as_f64().expect("bytes");
    for (asked, ways) in [(0, 190.0f64), (1, 38_760.0)] {
        assert!((bound(asked, "causal_bytes") - ways.log2() / 8.0).abs() < 1e-9);
        assert!((bound(asked, "better_order_bytes") - 190f64.log2() / 8.0).abs() < 1e-9);
    }
    assert_eq!(report["asked"][0]["guess"], 0.5);
    for model in 0..2 {
        let points = points(&report, model, "none");
        assert_eq!(points[0]["answers"][1]["counted"][1]["asked"], 20);
    }
    assert!(names(&out.join("figures")).contains(&"bound.svg".to_string()));
    let page = page_of(&out, "report.html");
    assert!(page.contains("least bytes") && page.contains("2407.05483"));
}

#[test]
fn frontiers_that_cannot_be_made_are_refused_before_anything_is_trained() {
    for (from, to, parts) in [
        (
            "seeds = [3, 5]",
            "seeds = []",
            &["seeds of attention", "at least one"][..],
        ),
        ("title =", "titel =", &["titel", "unknown field"]),
        ("solved = 0.95", "solved = 1.5", &["solved", "1.5"]),
        (
            "solved = 0.95",
            "learning_rates = [1e-3, 0.001]",
            &["learning_rates once", "0.001"],
        ),
        (
            "solved = 0.95",
            "learning_rates = [0.0]",
            &["learning_rates above 0"],
        ),
        ("name = \"GLA\"", "name = \"Attention\"", &["two of"]),
        (
            "\"model.config.expand_k\" = 0.25",
            "\"model.config.expand_k\" = 0.2",
            &["GLA, size 1: ", "expand_k"],
        ),
        ("\"window:4\"", "\"windows:4\"", &["mitigations", "windows:4"]),
        (
            "name = \"4 pairs\"",
            "name = \"2 pairs\"",
            &["name of its own", "2 pairs"],
        ),
        (
            "pairs = 4",
            "pairs = 40",
            &["asked.data of 4 pairs", "vocab_size"],
        ),
        (
            "data = { kind = \"mqar\", pairs = 4, vocab_size = 16 }",
            "data = { kind = \"repeat\", token = 1 }",
            &["asked.data", "4 pairs"],
        ),
        (
            "training = \"training.toml\"",
            "training = \"none.toml\"",
            &["none.toml"],
        ),
    ] {
        STUDY.is_refused_with(from, to, parts);
    }
}

#[test]
fn the_frontiers_of_the_repository_can_be_begun() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/frontier");
    for name in ["disjointness.toml", "price.toml", "small.toml", "standard.toml"] {
        let path = folder.join(name);
        let text = fs::read_to_string(&path).expect("text");
        let command = format!("spillway frontier bench/configs/frontier/{name} --out ");
        assert!(text.contains(&command), "{name} does not say how it is used");
        let (frontier, jobs) = FrontierConfig::load(&path).unwrap_or_else(|error| panic!("{error}"));
        Asking::new(&frontier, &path).unwrap_or_else(|error| panic!("{error}"));
        // The larger one has the same models in larger sizes, whose weights alone take seconds to draw.
        if name != "standard.toml" {
            frontier
                .try_arms(&path, &jobs)
                .unwrap_or_else(|error| panic!("{error}"));
        }
    }
}
