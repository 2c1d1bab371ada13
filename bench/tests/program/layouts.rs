//! Every command on every layout there is, with random weights of its tiny sizes, hybrids among them.

use crate::*;
use spillway_models::layout::Layout;
use spillway_models::registry::{language_layouts, written_layouts};

/// Something that says where it happened, when it fails.
struct Made {
    layout: &'static Layout,
    size: &'static str,
    path: String,
    out: String,
    _folder: tempfile::TempDir,
}

impl Made {
    fn named(&self) -> String {
        format!(
            "{} {} ({})",
            self.layout.architecture, self.size, self.layout.name
        )
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let output = spillway(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{} {arguments:?}: {stderr}",
            self.named()
        );
        output
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_slice(&self.run(arguments).stdout).expect("output is JSON")
    }

    fn written(&self, name: &str) -> Value {
        let text = fs::read(Path::new(&self.out).join(name)).expect(name);
        serde_json::from_slice(&text).expect("JSON")
    }

    /// The options that give this model something to read: text where it has a tokenizer, ids otherwise.
    fn reading<'a>(&self, option: &'a str) -> [&'a str; 2] {
        [option, "random"]
    }

    fn has_tokenizer(&self) -> bool {
        self.json(&["inspect", "--json", &self.path])["tokenizer"] != "none"
    }
}

/// The layouts that tiny checkpoints can be made in, one after another.
fn every_layout() -> impl Iterator<Item = Made> {
    made(written_layouts())
}

/// Those of language models.
fn every_language_model() -> impl Iterator<Item = Made> {
    made(language_layouts())
}

/// Tiny checkpoints in these layouts.
fn made(layouts: impl Iterator<Item = &'static Layout>) -> impl Iterator<Item = Made> {
    let sizes = layouts.flat_map(|layout| {
        let sizes = layout.presets.iter().map(|preset| preset.size);
        sizes
            .filter(|size| size.starts_with("tiny"))
            .map(move |size| (layout, size))
    });
    let found: Vec<(&'static Layout, &'static str)> = sizes.collect();
    assert!(!found.is_empty());
    found.into_iter().map(|(layout, size)| {
        let folder = tempfile::tempdir().expect("temporary folder");
        let name = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let made = Made {
            path: name("model"),
            out: name("out"),
            layout,
            size,
            _folder: folder,
        };
        made.run(&[
            "init",
            "--arch",
            layout.architecture,
            "--layout",
            layout.name,
            "--shape",
            size,
            "--out",
            &made.path,
        ]);
        made
    })
}

#[test]
fn inspect_shows_the_layout_why_it_is_that_and_what_each_layer_carries() {
    for made in every_layout() {
        let json = made.json(&["inspect", "--json", &made.path]);
        assert_eq!(json["architecture"], made.layout.architecture, "{}", made.named());
        assert_eq!(json["layout"], made.layout.name, "{}", made.named());
        let kinds = json["layer_kinds"].as_array().expect("kinds");
        assert_eq!(
            Some(kinds.len() as u64),
            json["layers"].as_u64(),
            "{}",
            made.named()
        );
        let table = stdout_of(&["inspect", &made.path]);
        let reason = json["recognised_by"].as_str().expect("a reason");
        assert!(
            !reason.is_empty() && table.contains(reason),
            "{}: {table}",
            made.named()
        );
        let grows = json["cache_bytes_per_token"].as_u64().expect("a number") > 0;
        let words = if grows {
            "more with every token"
        } else {
            "at any length"
        };
        assert!(table.contains(words), "{}: {table}", made.named());
    }
}

#[test]
fn generate_continues_ids_and_text() {
    for made in every_language_model() {
        let options = ["--max-tokens", "4", "--temperature", "0", "--json"];
        let from_ids = made.json(&[&["generate", &made.path, "--ids", "1,2,3"][..], &options].concat());
        let found = from_ids["ids"].as_array().map_or(0, Vec::len);
        assert!(
            (1..=4).contains(&found) || from_ids["finish"] == "end",
            "{}",
            made.named()
        );
        let prompt = [
            &["generate", &made.path, "--prompt", "In the beginning"][..],
            &options,
        ]
        .concat();
        match made.has_tokenizer() {
            true => drop(made.json(&prompt)),
            false => fails(&prompt, 1, &["tokenizer", "--ids"]),
        }
    }
}

/// Every number of a report that must be one.
fn expect_numbers(value: &Value, names: &[&str], whose: &str) {
    for name in names {
        assert!(
            value[name].is_f64() || value[name].is_u64(),
            "{whose}: {name} in {value}"
        );
    }
}

#[test]
fn diagnose_looks_into_every_head_of_every_recurrence() {
    for made in every_language_model() {
        let reading = made.reading("--text");
        let options = [
            "--length",
            "192",
            "--train-length",
            "32",
            "--streams",
            "1",
            "--out",
            &made.out,
        ];
        made.run(&[&["diagnose", &made.path, "-q"][..], &reading, &options].concat());
        let (report, whose) = (made.written("report.json"), made.named());
        let baseline = report["baseline"].as_str().expect("a name");
        let runs = report["runs"].as_array().expect("runs");
        assert_eq!(runs[1]["mitigation"], baseline, "{whose}");
        for run in runs {
            expect_numbers(run, &["inside", "beyond"], &whose);
        }
        let tried = |name: &str| runs.iter().any(|run| run["mitigation"] == name);
        let is_hybrid = tried("restart-attention:32");
        assert_eq!(
            is_hybrid,
            baseline == "restart:32" && tried("reset:32"),
            "{whose}: both parts of a hybrid are started again, and of no other model"
        );
        let summary = report["summary"].to_string();
        let says_which = summary.contains("its attention") && summary.contains("nats beyond");
        assert!(
            says_which || !is_hybrid || report["verdict"]["collapsed"] == true,
            "{whose}: {summary}"
        );
        let info = made.json(&["inspect", "--json", &made.path]);
        let heads = report["heads"].as_array().expect("heads");
        let recurrent = info["layer_kinds"].as_array().into_iter().flatten();
        let recurrent = recurrent
            .filter_map(Value::as_str)
            .any(|kind| kind.contains(" heads of "));
        assert_eq!(recurrent, !heads.is_empty(), "{whose}");
        let mut numbers = std::collections::BTreeSet::new();
        for head in heads {
            let names = [
                "norm_inside",
                "norm_end",
                "mean_log_decay",
                "write_inside",
                "read_out_inside",
            ];
            expect_numbers(head, &names, &whose);
            assert!(
                numbers.insert((head["layer"].as_u64(), head["head"].as_u64())),
                "{whose}: {head} twice"
            );
        }
        let page = fs::read_to_string(Path::new(&made.out).join("report.html")).expect("page");
        assert!(!page.contains("NaN"), "{whose}");
        if !recurrent {
            assert!(page.contains("no recurrence"), "{whose}");
        }
    }
}

#[test]
fn passkeys_are_asked_for_in_words_or_not_at_all() {
    for made in every_language_model() {
        let options = [
            "--lengths",
            "320",
            "--depths",
            "2",
            "--samples",
            "1",
            "-q",
            "--out",
            &made.out,
        ];
        let arguments = [&["passkey", &made.path][..], &options].concat();
        match made.has_tokenizer() {
            true => {
                made.run(&arguments);
                let cells = &made.written("passkey.json")["runs"][0]["cells"];
                assert_eq!(cells.as_array().map(Vec::len), Some(2), "{}", made.named());
            }
            false => fails(&arguments, 1, &["tokenizer"]),
        }
    }
}

#[test]
fn compare_ranks_what_works_and_says_what_does_not() {
    for made in every_language_model() {
        let reading = made.reading("--text");
        let options = [
            "--quick",
            "--longest",
            "4",
            "--train-length",
            "32",
            "--streams",
            "1",
            "-q",
            "--out",
            &made.out,
        ];
        made.run(&[&["compare", &made.path][..], &reading, &options].concat());
        let (board, whose) = (made.written("leaderboard.json"), made.named());
        assert_eq!(board["complete"], true, "{whose}");
        let rows = board["rows"].as_array().expect("rows");
        let names: Vec<&str> = rows.iter().filter_map(|row| row["mitigation"].as_str()).collect();
        let baseline = board["baseline"].as_str().expect("a name");
        assert!(
            names.contains(&"none") && names.contains(&baseline),
            "{whose}: {names:?}"
        );
        for skipped in board["skipped"].as_array().expect("a list") {
            assert!(
                skipped["reason"].as_str().is_some_and(|reason| reason.len() > 20),
                "{whose}: {skipped}"
            );
        }
        for row in rows {
            let whose = format!("{whose}, {}", row["mitigation"]);
            expect_numbers(
                row,
                &[
                    "inside",
                    "cost",
                    "prefill_tokens_per_second",
                    "decode_tokens_per_second",
                    "state_bytes",
                ],
                &whose,
            );
            let lengths = row["lengths"].as_array().expect("lengths");
            assert_eq!(lengths.len(), 2, "{whose}");
            lengths
                .iter()
                .for_each(|at| expect_numbers(at, &["loss", "over_baseline", "tokens"], &whose));
        }
    }
}

#[test]
fn a_mitigation_that_cannot_work_is_refused_with_the_reason() {
    for made in every_language_model() {
        let info = made.json(&["inspect", "--json", &made.path]);
        let kinds = info["layer_kinds"].to_string();
        let generate = |mitigation| {
            spillway(&[
                "generate",
                &made.path,
                "--ids",
                "1,2",
                "--max-tokens",
                "1",
                "--mitigation",
                mitigation,
            ])
        };
        if !kinds.contains(" heads of ") {
            refused(&generate("forget:0.9"), 2, &["forget:0.9", "none", "restart"]);
        }
        if kinds.contains("linear state space") {
            refused(
                &generate("window:64"),
                2,
                &["window:64", "keys and gates", "linear state spaces"],
            );
        }
        if kinds.contains("delta rule") {
            refused(&generate("window:8"), 2, &["window:8", "window-exact"]);
        }
    }
}

#[test]
fn a_model_that_reads_whole_sequences_says_so_where_the_next_token_is_asked_for() {
    let foretells = |layout: &Layout| language_layouts().any(|other| std::ptr::eq(other, layout));
    let mut refused = 0;
    for made in made(written_layouts().filter(|layout| !foretells(layout))) {
        let words = ["bidirectional", "foretells nothing", "table [task]"];
        fails(
            &["generate", &made.path, "--ids", "1,2,3", "--max-tokens", "1"],
            1,
            &words,
        );
        fails(
            &[
                "diagnose",
                &made.path,
                "-q",
                "--text",
                "random",
                "--length",
                "192",
                "--train-length",
                "32",
                "--streams",
                "1",
                "--out",
                &made.out,
            ],
            1,
            &words,
        );
        refused += 1;
    }
    assert!(refused > 0);
}
