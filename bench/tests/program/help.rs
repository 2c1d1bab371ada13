//! Help texts and the command line itself.

use crate::*;

#[test]
fn every_subcommand_explains_itself_with_an_example() {
    let general = stdout_of(&["--help"]);
    for name in [
        "passkey",
        "compare",
        "train",
        "train-compare",
        "capacity",
        "generate",
        "inspect",
        "init",
        "convert",
        "tokens",
        "bench",
    ] {
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
