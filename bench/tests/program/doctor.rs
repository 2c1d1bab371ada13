//! `spillway doctor`, and the instruction set that the environment asks for.

use crate::*;

fn with_isa(isa: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_spillway"))
        .args(arguments)
        .env("SPILLWAY_ISA", isa)
        .output()
        .expect("the program starts")
}

#[test]
fn the_doctor_says_what_the_machine_has_and_what_is_missing() {
    let output = with_isa("", &["doctor", "--threads", "1"]);
    let text = String::from_utf8(output.stdout).expect("text");
    for row in [
        "spillway",
        "built with",
        "processor",
        "instructions",
        "threads",
        "memory",
        "measured",
        "devices",
    ] {
        assert!(
            text.lines().any(|line| line.starts_with(row)),
            "no {row} in {text}"
        );
    }
    assert!(
        text.contains("GB/s") && text.contains("linear, int8 weights"),
        "{text}"
    );
    for device in ["wgpu", "cuda"] {
        let missing = format!("--features {device}");
        assert!(
            text.contains(&missing) || text.contains(&format!("{device}:0")) || text.contains("no "),
            "{text}"
        );
    }
}

#[test]
fn the_level_that_the_environment_asks_for_is_the_one_in_use() {
    let output = with_isa("portable", &["doctor", "--threads", "1", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["instructions"]["active"], "portable");
    assert_eq!(report["instructions"]["why"], "SPILLWAY_ISA=portable");
    let parts = report["instructions"]["parts"].as_array().expect("parts");
    assert!(
        parts
            .iter()
            .filter(|part| part["follows"] == true)
            .all(|part| part["level"] == "portable"),
        "{report}"
    );
    assert_eq!(report["instructions"]["available"][0], "portable");
    assert!(report["measured"]["fma_gigaflops"].as_f64().expect("a number") > 0.0);
    assert_eq!(report["cores"]["threads"], 1);
}

#[test]
fn an_instruction_set_that_cannot_be_used_stops_every_command() {
    for arguments in [
        &["doctor"][..],
        &["inspect"],
        &["mitigations"],
        &["generate", "--prompt", "a"],
    ] {
        refused(
            &with_isa("avx9000", arguments),
            2,
            &["SPILLWAY_ISA", "avx9000", "portable"],
        );
    }
    assert!(with_isa("avx9000", &["--help"]).status.success());
}
