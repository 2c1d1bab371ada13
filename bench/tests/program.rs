//! The program from outside: its output, its files, its exit codes, and its one-line errors.

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn spillway(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_spillway"))
        .args(arguments)
        .output()
        .expect("the program starts")
}

/// The standard output of a run that must succeed.
fn stdout_of(arguments: &[&str]) -> String {
    let output = spillway(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    String::from_utf8(output.stdout).expect("output is text")
}

fn json_of(arguments: &[&str]) -> Value {
    serde_json::from_str(&stdout_of(arguments)).expect("output is JSON")
}

/// A run that must fail with this exit code and one line on standard error that holds all of `parts`.
#[track_caller]
fn fails(arguments: &[&str], code: i32, parts: &[&str]) {
    refused(&spillway(arguments), code, parts);
}

#[track_caller]
fn refused(output: &Output, code: i32, parts: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(
        stderr.starts_with("spillway: ") && stderr.lines().count() == 1,
        "not one line: {stderr}"
    );
    for part in parts {
        assert!(stderr.contains(part), "no {part:?} in {stderr}");
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("readable folder");
    let name =
        |entry: Result<fs::DirEntry, _>| entry.expect("entry").file_name().to_string_lossy().into_owned();
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

/// A tiny random checkpoint.
fn tiny_checkpoint(folder: &Path) -> String {
    let path = folder.join("tiny").to_string_lossy().into_owned();
    stdout_of(&["init", "--arch", "mamba2", "--shape", "tiny", "--out", &path]);
    path
}

mod help {
    use super::*;

    #[test]
    fn every_subcommand_explains_itself_with_an_example() {
        let general = stdout_of(&["--help"]);
        for name in ["passkey", "generate", "inspect", "init", "bench"] {
            assert!(general.contains(&format!("\n  {name} ")), "{general}");
            let help = stdout_of(&[name, "--help"]);
            assert!(
                help.contains("Example") && help.contains(&format!("  spillway {name}")),
                "{help}"
            );
        }
        assert!(!general.contains("bench-one"), "{general}");
        assert!(stdout_of(&["--version"]).starts_with("spillway "));
    }

    #[test]
    fn a_wrong_command_line_is_one_line_and_exit_code_two() {
        fails(&["drain"], 2, &["drain"]);
        fails(&["inspect", "--bogus"], 2, &["--bogus"]);
        fails(
            &["inspect", "--threads", "0"],
            2,
            &["--threads", "from 1", "found 0"],
        );
        fails(
            &["inspect", "--threads", "1,2"],
            2,
            &["--threads", "one number", "found 1,2"],
        );
        fails(&["inspect", "--dtype", "f64"], 2, &["f64", "--dtype", "bf16"]);
        assert_eq!(spillway(&[]).status.code(), Some(2));
    }
}

mod inspect {
    use super::*;

    #[test]
    fn the_shipped_model_is_shown_with_its_sizes() {
        let json = json_of(&["inspect", "--json"]);
        assert_eq!(json["architecture"], "mamba2");
        assert_eq!(json["parameters"], 138_456);
        assert_eq!(json["train_length"], 64);
        // 2 layers × (4 heads × 256 × 32 recurrent + 640 × 3 convolution) values of 4 bytes.
        assert_eq!(json["state_bytes"], 2 * (4 * 256 * 32 + 640 * 3) * 4);
        // The head is the embedding, so that every weight is read for a token.
        let expected = json["weight_bytes"]
            .as_u64()
            .zip(json["state_bytes"].as_u64())
            .map(|(w, s)| w + 2 * s);
        assert_eq!(json["costs"]["decode_bytes"].as_u64(), expected);
        let flops = |name: &str| json["costs"][name].as_u64().expect("a number");
        assert_eq!(flops("decode_flops") - flops("prefill_flops"), 2 * 256 * 64);
        let table = stdout_of(&["inspect"]);
        assert!(table.contains("138,456") && table.contains("mamba2"), "{table}");
    }

    #[test]
    fn narrower_weights_take_less_memory() {
        let bytes = |dtype| {
            json_of(&["inspect", "--json", "--dtype", dtype])["weight_bytes"]
                .as_u64()
                .expect("number")
        };
        assert!(bytes("f32") > bytes("bf16") && bytes("bf16") > bytes("int8"));
    }

    #[test]
    fn broken_checkpoints_are_named_with_what_is_wrong() {
        let folder = tempfile::tempdir().expect("temporary folder");
        fails(&["inspect", "/no/such/model"], 1, &["/no/such/model"]);
        let path = tiny_checkpoint(folder.path());
        let (config, weights) = (
            Path::new(&path).join("config.json"),
            Path::new(&path).join("model.safetensors"),
        );
        let (good_config, good_weights) = (
            fs::read_to_string(&config).expect("config"),
            fs::read(&weights).expect("weights"),
        );

        fs::write(&weights, &good_weights[..good_weights.len() / 2]).expect("written");
        fails(&["inspect", &path], 1, &["model.safetensors"]);
        fs::write(&weights, &good_weights[..5]).expect("written");
        fails(&["inspect", &path], 1, &["model.safetensors", "found 5"]);
        fs::remove_file(&weights).expect("removed");
        fails(&["inspect", &path], 1, &["model.safetensors"]);
        fs::write(&weights, &good_weights).expect("written");

        fs::write(&config, "{\"d_model\": 64,").expect("written");
        fails(&["inspect", &path], 1, &["config.json", "JSON"]);
        let wrong_type = good_config.replace("\"d_model\": 64", "\"d_model\": \"wide\"");
        assert_ne!(wrong_type, good_config);
        fs::write(&config, wrong_type).expect("written");
        fails(&["inspect", &path], 1, &["config.json", "d_model", "wide"]);
        let wrong_width = good_config.replace("\"d_model\": 64", "\"d_model\": 128");
        fs::write(&config, wrong_width).expect("written");
        fails(
            &["inspect", &path],
            1,
            &["model.safetensors", "embedding", "[256, 128]", "found [256, 64]"],
        );
        fs::remove_file(&config).expect("removed");
        fails(&["inspect", &path], 1, &["config.json"]);
    }

    #[test]
    fn a_weight_that_is_not_finite_is_named() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = tiny_checkpoint(folder.path());
        let weights = Path::new(&path).join("model.safetensors");
        let mut bytes = fs::read(&weights).expect("weights");
        let header_len = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..8 + header_len]).expect("JSON header");
        let begin = header["backbone.norm_f.weight"]["data_offsets"][0]
            .as_u64()
            .expect("offset") as usize;
        let begin = 8 + header_len + begin;
        bytes[begin..begin + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        fs::write(&weights, bytes).expect("written");
        fails(
            &["inspect", &path],
            1,
            &["model.safetensors", "backbone.norm_f.weight", "NaN"],
        );
    }
}

mod init {
    use super::*;

    #[test]
    fn a_seed_makes_one_checkpoint_and_an_existing_folder_is_left_alone() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let make = |name: &str, seed: &str, dtype: &str| {
            let path = folder.path().join(name);
            let out = path.to_string_lossy().into_owned();
            let arguments = [
                "init", "--arch", "mamba2", "--shape", "tiny", "--seed", seed, "--dtype", dtype, "--out",
                &out,
            ];
            (spillway(&arguments), path.join("model.safetensors"))
        };
        let read = |(output, path): (Output, std::path::PathBuf)| {
            assert!(output.status.success(), "{output:?}");
            fs::read(path).expect("weights")
        };
        let first = read(make("a", "1", "f32"));
        assert_eq!(first, read(make("b", "1", "f32")));
        assert_ne!(first, read(make("c", "2", "f32")));
        assert!(read(make("d", "1", "bf16")).len() < first.len());

        let (output, path) = make("a", "3", "f32");
        refused(&output, 2, &["/a", "exists"]);
        assert_eq!(fs::read(path).expect("weights"), first);
        assert_eq!(names(folder.path()), ["a", "b", "c", "d"]);
        fails(
            &["init", "--arch", "mamba2", "--shape", "131m", "--out", "x"],
            2,
            &["131m", "130m"],
        );
    }
}

mod generate {
    use super::*;

    const PROMPT: &str = "And God said, Let there be ";

    #[test]
    fn greedy_text_does_not_depend_on_the_seed_and_drawn_text_does() {
        let text = |options: &[&str]| {
            stdout_of(
                &[
                    &["generate", "--prompt", PROMPT, "--max-tokens", "24", "-q"],
                    options,
                ]
                .concat(),
            )
        };
        let greedy = text(&["--temperature", "0"]);
        assert_eq!(greedy, text(&["--temperature", "0", "--seed", "5"]));
        assert_eq!(greedy, text(&["--top-k", "1"]));
        assert_eq!(text(&["--seed", "1"]), text(&["--seed", "1"]));
        assert_ne!(text(&["--seed", "1"]), text(&["--seed", "2"]));
        assert_ne!(
            greedy,
            text(&["--temperature", "0", "--repetition-penalty", "1.5"])
        );
    }

    #[test]
    fn ids_and_text_of_one_prompt_give_one_continuation() {
        let ids = PROMPT
            .bytes()
            .map(|byte| byte.to_string())
            .collect::<Vec<_>>()
            .join(",");
        let json = |name: &str, value: &str| {
            json_of(&[
                "generate",
                name,
                value,
                "--max-tokens",
                "8",
                "--temperature",
                "0",
                "--json",
            ])
        };
        let (from_text, from_ids) = (json("--prompt", PROMPT), json("--ids", &ids));
        assert_eq!(from_text["ids"], from_ids["ids"]);
        assert_eq!(from_text["text"], from_ids["text"]);
        assert_eq!(from_text["finish"], "length");
        assert_eq!(from_text["ids"].as_array().map(Vec::len), Some(8));
        assert_eq!(from_text["mitigation"], "none");
    }

    #[test]
    fn a_stop_string_ends_the_text_and_is_not_part_of_it() {
        let options = [
            "generate",
            "--prompt",
            PROMPT,
            "--temperature",
            "0",
            "--json",
            "--stop",
            "e",
        ];
        let json = json_of(&options);
        assert_eq!((&json["finish"], &json["stop"]), (&"stop".into(), &"e".into()));
        assert!(!json["text"].as_str().expect("text").contains('e'));
    }

    #[test]
    fn a_mitigation_acts_in_generation() {
        let prompt = PROMPT.repeat(20);
        let json = |options: &[&str]| {
            let fixed = [
                "generate",
                "--prompt",
                &prompt,
                "--max-tokens",
                "32",
                "--temperature",
                "0",
                "--json",
            ];
            json_of(&[&fixed, options].concat())
        };
        let (plain, forgetting) = (json(&[]), json(&["--mitigation", "forget:0.5"]));
        assert_eq!(forgetting["mitigation"], "forget:0.5");
        assert_ne!(plain["ids"], forgetting["ids"]);
        assert_eq!(plain["ids"], json(&["--mitigation", "window:1000000"])["ids"]);
    }

    #[test]
    fn impossible_requests_are_usage_errors() {
        fails(&["generate"], 2, &["--prompt"]);
        fails(
            &["generate", "--prompt", ""],
            2,
            &["--prompt", "at least one token"],
        );
        fails(&["generate", "--ids", ""], 2, &["--ids", "at least one token"]);
        fails(&["generate", "--ids", "1,2,256"], 2, &["--ids", "256"]);
        fails(&["generate", "--ids", "1,x"], 2, &["--ids", "x"]);
        fails(
            &["generate", "--prompt", "a", "--ids", "1"],
            2,
            &["--prompt", "--ids"],
        );
        fails(
            &["generate", "--prompt", "a", "--temperature=-1"],
            2,
            &["temperature", "-1"],
        );
        fails(
            &["generate", "--prompt", "a", "--temperature", "NaN"],
            2,
            &["temperature"],
        );
        fails(
            &["generate", "--prompt", "a", "--top-p", "1.5"],
            2,
            &["top-p", "1.5"],
        );
        fails(&["generate", "--prompt", "a", "--top-k", "0"], 2, &["top-k", "0"]);
        fails(
            &["generate", "--prompt", "a", "--max-tokens", "0"],
            2,
            &["--max-tokens"],
        );
        fails(
            &["generate", "--prompt", "a", "--mitigation", "dam:3"],
            2,
            &["--mitigation", "dam"],
        );
        fails(
            &["generate", "--prompt", "a", "--mitigation", "window:0"],
            2,
            &["--mitigation", "window"],
        );
        fails(
            &["generate", "--prompt", "a", "--mitigation", "state-norm:auto"],
            2,
            &["state-norm:auto"],
        );
    }
}

mod passkey {
    use super::*;

    fn run(out: &Path, options: &[&str]) -> Output {
        let out = out.to_string_lossy().into_owned();
        let fixed = [
            "passkey",
            "--lengths",
            "300,500",
            "--depths",
            "4",
            "--samples",
            "2",
            "--out",
            &out,
            "-q",
        ];
        spillway(&[&fixed, options].concat())
    }

    #[test]
    fn grid_files_and_picture_agree() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let out = folder.path().join("deep/report");
        let output = run(&out, &["--mitigation", "none", "--mitigation", "window:64"]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(
            names(&out),
            [
                "passkey-none.svg",
                "passkey-window-64.svg",
                "passkey.csv",
                "passkey.json"
            ]
        );

        let json: Value =
            serde_json::from_slice(&fs::read(out.join("passkey.json")).expect("file")).expect("JSON");
        assert_eq!(json["version"], 1);
        let runs = json["runs"].as_array().expect("runs");
        assert_eq!(
            (&runs[0]["mitigation"], &runs[1]["mitigation"]),
            (&"none".into(), &"window:64".into())
        );
        let cells = runs[0]["cells"].as_array().expect("cells");
        assert_eq!(cells.len(), 8);
        // 300 bytes have room for 1 block (the passkey's), 500 for 4: 93 + 37 + 62, and 3 · 90 more.
        let real = |cell: &Value| (cell["tokens_min"].as_u64(), cell["tokens_max"].as_u64());
        assert_eq!(real(&cells[0]), (Some(187), Some(187)));
        assert_eq!(real(&cells[7]), (Some(457), Some(457)));
        for cell in cells {
            let number = |name: &str| cell[name].as_f64().expect("a number");
            assert_eq!(number("samples"), 2.0);
            assert!(
                number("wilson_low") <= number("accuracy") && number("accuracy") <= number("wilson_high")
            );
        }
        let csv = fs::read_to_string(out.join("passkey.csv")).expect("file");
        assert_eq!(csv.lines().count(), 1 + 2 * 8);
        let svg = fs::read_to_string(out.join("passkey-none.svg")).expect("file");
        assert!(
            svg.starts_with("<svg") && svg.contains("Passkey retrieval"),
            "{svg}"
        );
        assert!(String::from_utf8_lossy(&output.stdout).contains("mitigation window:64"));
    }

    #[test]
    fn a_seed_gives_one_report() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let csv = |name: &str| {
            let out = folder.path().join(name);
            assert!(run(&out, &["--seed", "3"]).status.success());
            fs::read_to_string(out.join("passkey.csv")).expect("file")
        };
        assert_eq!(csv("a"), csv("b"));
    }

    #[test]
    fn a_folder_with_something_in_it_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().expect("temporary folder");
        fs::write(folder.path().join("mine"), "precious").expect("written");
        refused(&run(folder.path(), &[]), 2, &["--out", "exists"]);
        assert_eq!(names(folder.path()), ["mine"]);
        refused(&run(&folder.path().join("mine"), &[]), 1, &["mine"]);
    }

    #[test]
    fn impossible_grids_are_usage_errors_and_leave_nothing_behind() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let out = folder.path().join("out").to_string_lossy().into_owned();
        let fails = |options: &[&str], parts: &[&str]| {
            fails(&[&["passkey", "--out", &out], options].concat(), 2, parts);
            assert!(names(folder.path()).is_empty());
        };
        fails(&["--lengths", "100"], &["--lengths", "at least 220", "found 100"]);
        fails(&["--lengths", "4k..1k"], &["--lengths", "4096..1024"]);
        fails(&["--lengths", ""], &["--lengths"]);
        fails(&["--depths", "0"], &["--depths"]);
        fails(&["--samples", "0"], &["--samples"]);
        fails(&["--mitigation", "rri:2"], &["--mitigation", "rri:2"]);
    }

    /// The limit on file sizes stands for a full disk: both make a write fail half-way.
    #[cfg(unix)]
    #[test]
    fn a_disk_that_fills_up_leaves_nothing_half_written() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let out = folder.path().join("out");
        let script = format!(
            "trap '' XFSZ; ulimit -f 1; exec '{}' passkey --lengths 300 --depths 40 --samples 1 -q --out '{}'",
            env!("CARGO_BIN_EXE_spillway"),
            out.display()
        );
        let output = Command::new("sh")
            .args(["-c", &script])
            .output()
            .expect("a shell");
        refused(&output, 1, &["cannot write", "out/passkey", "too large"]);
        assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
    }

    #[test]
    fn a_model_without_a_tokenizer_says_what_is_missing() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = tiny_checkpoint(folder.path());
        let config = Path::new(&path).join("config.json");
        let text = fs::read_to_string(&config)
            .expect("config")
            .replace("\"vocab_size\": 256", "\"vocab_size\": 255");
        fs::write(&config, text).expect("written");
        fails(&["passkey", &path], 1, &["tokenizer.json"]);
    }
}

mod bench {
    use super::*;

    #[test]
    fn every_configuration_is_measured_in_a_process_of_its_own() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("speed.json").to_string_lossy().into_owned();
        let options = [
            "--dtype",
            "f32,int8",
            "--threads",
            "1",
            "--prefill",
            "64",
            "--decode",
            "8",
            "--repeats",
            "3",
        ];
        let table = stdout_of(&[&["bench", "--json", &file][..], &options].concat());
        assert!(
            table.contains("prefill 64") && table.contains("decode 8"),
            "{table}"
        );
        let json: Value = serde_json::from_slice(&fs::read(&file).expect("file")).expect("JSON");
        let configurations = json["configurations"].as_array().expect("configurations");
        assert_eq!(configurations.len(), 2);
        for configuration in configurations {
            for speed in configuration["speeds"].as_array().expect("speeds") {
                let number = |name: &str| speed[name].as_f64().expect("a number");
                assert!(0.0 < number("slowest") && number("slowest") <= number("tokens_per_second"));
                assert!(number("tokens_per_second") <= number("fastest"));
                // No upper bound: a model this small lives in the cache, which is faster than memory.
                assert!(0.0 < number("fraction_of_limit"));
            }
            let measured = &configuration["measured"];
            assert_eq!(
                measured["prefill"][0]["seconds"].as_array().map(Vec::len),
                Some(3)
            );
            if cfg!(target_os = "linux") {
                assert!(measured["peak_memory_bytes"].as_u64() > measured["weight_bytes"].as_u64());
            }
        }
    }

    #[test]
    fn impossible_measurements_are_refused() {
        fails(
            &["bench", "--threads", "0"],
            2,
            &["--threads", "from 1", "found 0"],
        );
        fails(&["bench", "--prefill", "0"], 2, &["--prefill", "at least 1"]);
        fails(&["bench", "--repeats", "0"], 2, &["--repeats"]);
        fails(&["bench", "--dtype", "f16"], 2, &["--dtype", "f16"]);
        fails(
            &["bench", "/no/such/model", "--threads", "1", "--dtype", "f32"],
            1,
            &["/no/such/model"],
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_device_is_named() {
        let options = [
            "--dtype",
            "f32",
            "--threads",
            "1",
            "--prefill",
            "8",
            "--decode",
            "1",
            "--repeats",
            "1",
        ];
        fails(
            &[&["bench", "--json", "/dev/full"][..], &options].concat(),
            1,
            &["/dev/full", "No space left"],
        );
    }
}
