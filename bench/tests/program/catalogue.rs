//! `spillway mitigations`.

use crate::*;

#[test]
fn every_mitigation_is_listed_with_its_parameters_and_an_example_that_works() {
    let text = stdout_of(&["mitigations"]);
    let json = json_of(&["mitigations", "--json"]);
    let all = json["mitigations"].as_array().expect("a list");
    assert!(all.len() >= 21, "{}", all.len());
    for entry in all {
        let field = |name: &str| {
            entry[name]
                .as_str()
                .unwrap_or_else(|| panic!("{name} in {entry}"))
        };
        assert!(
            text.contains(&format!("\n    example: --mitigation {}", field("example"))),
            "{entry}"
        );
        for name in ["syntax", "summary", "works_on"] {
            assert!(text.contains(field(name)), "{entry}");
        }
        for parameter in entry["parameters"].as_array().expect("a list") {
            assert!(
                text.contains(parameter["meaning"].as_str().expect("words")),
                "{parameter}"
            );
        }
    }
    let one = stdout_of(&["mitigations", "state-norm"]);
    assert!(
        one.contains("state-norm:P|auto") && one.contains("tokens"),
        "{one}"
    );
    assert_eq!(one.matches("example: --mitigation").count(), 1, "{one}");
    fails(&["mitigations", "widnow"], 2, &["perhaps window", "found widnow"]);
}

#[test]
fn a_slip_in_a_mitigation_is_one_short_line_that_says_what_was_meant() {
    for command in ["generate", "diagnose", "compare", "passkey"] {
        let prompt: &[&str] = if command == "generate" {
            &["--prompt", "a"]
        } else {
            &[]
        };
        let output = spillway(&[&[command, "--mitigation", "windwo:64"], prompt].concat());
        refused(&output, 2, &["windwo:64", "did you mean window:R?"]);
        assert!(
            output.stderr.len() < 200,
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
