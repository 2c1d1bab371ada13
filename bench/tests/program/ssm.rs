//! `spillway ssm`.

use crate::*;

/// The systems of a run, by their names.
fn system<'a>(json: &'a Value, name: &str) -> &'a Value {
    let systems = json["systems"].as_array().expect("systems");
    let found = systems.iter().find(|system| system["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {json}"))
}

fn memory<'a>(system: &'a Value, name: &str) -> &'a Value {
    let memories = system["memories"].as_array().expect("memories");
    memories.iter().find(|memory| memory["name"] == name).expect(name)
}

/// Errors over the ranges of age, the newest first.
fn errors(memory: &Value) -> Vec<Option<f64>> {
    memory["errors"]
        .as_array()
        .expect("errors")
        .iter()
        .map(Value::as_f64)
        .collect()
}

#[test]
fn windows_forget_at_once_and_the_whole_past_is_kept_in_outline() {
    let json = json_of(&["ssm", "--compare", "legs,legt,lmu,lagt", "--json"]);
    assert_eq!(
        (json["states"].as_u64(), json["samples"].as_u64()),
        (Some(32), Some(1000))
    );
    let of = |name: &str, memory_name: &str| errors(memory(system(&json, name), memory_name));
    let (whole, legs) = (of("legs", "legs with A/t"), of("legs", "legs"));
    let (legt, lmu) = (of("legt", "legt"), of("lmu", "lmu"));
    // A window of half the signal holds all of it well, one of a quarter nothing beyond.
    assert!(
        legt.iter().all(|error| error.is_some_and(|error| error < 0.15)),
        "{legt:?}"
    );
    assert!(
        lmu[1].is_some_and(|error| error < 0.15) && lmu[2].is_none(),
        "{lmu:?}"
    );
    // At a constant rate the recent past is sharper than with a growing window, and the distant one less so.
    assert!(legs[0] < whole[0] && legs[2] > whole[2], "{legs:?} {whole:?}");
}

#[test]
fn the_three_views_agree_for_every_system_and_rule() {
    let all = "legs,legsd,legt,lmu,lagt,tlagt,glagt";
    let others = "fourier,fourier2,fourier_decay,fourier_diag,lin,inv,real";
    for (names, count) in [(all, 7), (others, 7), ("inv2,quad,rand,diag-legs", 4)] {
        for (rule, most) in [
            // The hold is exact; the others are off by the size of a step, or of its square.
            ("zoh", 1e-9),
            ("bilinear", 0.1),
            ("backward", 1.2),
            ("mixed", 0.15),
            ("trapezoidal", 0.15),
        ] {
            let arguments = [
                "ssm",
                "--compare",
                names,
                "--rule",
                rule,
                "--states",
                "8",
                "--length",
                "200",
                "--json",
            ];
            let json = json_of(&arguments);
            let systems = json["systems"].as_array().expect("systems");
            assert_eq!(systems.len(), count);
            for system in systems {
                let differences = &system["differences"];
                let of = |name: &str| differences[name].as_f64().expect("a number");
                assert!(of("recurrent_convolved") < 1e-9, "{rule}: {system}");
                assert!(of("recurrent_continuous") < most, "{rule}: {system}");
                assert_eq!(system["eigenvalues"].as_array().map(Vec::len), Some(8));
            }
        }
    }
}

#[test]
fn a_step_that_follows_the_sampling_rate_keeps_the_output() {
    let json = json_of(&["ssm", "legt", "--json"]);
    for rate in system(&json, "legt")["rates"].as_array().expect("rates") {
        let of = |name: &str| rate[name].as_f64().expect("a number");
        // Held over a longer step, the signal comes later by half of what is added to it.
        assert!(
            of("error") < 0.02 * of("rate") && of("error_unchanged") > 0.5,
            "{rate}"
        );
    }
}

#[test]
fn the_report_explains_its_pictures_and_its_files_hold_the_figures() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let signal = folder.path().join("signal.csv");
    let lines: String = (0..300)
        .map(|k| format!("{k},{}\n", (f64::from(k) / 20.0).sin()))
        .collect();
    fs::write(&signal, format!("time,value\n{lines}")).expect("written");
    let out = folder.path().join("out");
    let (signal, out_text) = (signal.to_string_lossy(), out.to_string_lossy());
    let arguments = [
        "ssm",
        "legs",
        "--compare",
        "lin,legs,fout",
        "--signal",
        &signal,
        "--column",
        "2",
        "--states",
        "16",
        "--out",
        &out_text,
    ];
    let table = stdout_of(&arguments);
    for part in [
        "legs with A/t",
        "diag-lin",
        "fourier",
        "300 samples of signal.csv",
        "error of what is remembered",
    ] {
        assert!(table.contains(part), "no {part} in {table}");
    }
    let page = page_of(&out, "report.html");
    for part in [
        "What to look for.",
        "Why it matters.",
        "unit circle",
        "2008.07669",
        "Error by age",
    ] {
        assert!(page.contains(part), "no {part}");
    }
    assert_eq!(page.matches("What to look for.").count(), 5);
    // Functions and rates of three systems, three spectra, four memories and their errors, three views of each.
    assert_eq!(page.matches("<figure>").count(), 3 + 3 + 5 + 9 + 3);
    for (name, columns) in [
        ("functions.csv", "system,number,age_samples,heard,meant"),
        ("eigenvalues.csv", "system,re,im"),
        ("memory.csv", "system,samples_heard,sample,signal,remembered"),
        ("errors.csv", "system,age_samples"),
        (
            "outputs.csv",
            "system,sample,signal,recurrent,convolved,continuous,kernel",
        ),
    ] {
        let text = fs::read_to_string(out.join(name)).expect(name);
        assert!(text.starts_with(columns) && text.lines().count() > 30, "{name}");
        assert!(!text.contains("NaN") && !text.contains("inf"), "{name}");
    }
    // An output folder follows the rule of all commands.
    fails(&arguments, 2, &["--out", "--force"]);
    let again = json_of(&[&arguments[..], &["--force", "--json"]].concat());
    assert_eq!(again["files"].as_array().map(Vec::len), Some(7));
    let file: Value =
        serde_json::from_slice(&fs::read(out.join("systems.json")).expect("a file")).expect("JSON");
    assert_eq!(file["systems"], again["systems"]);
}

#[test]
fn what_cannot_be_is_one_line_that_says_what_can() {
    for (arguments, parts) in [
        (&["legz"][..], &["MEASURE", "did you mean legs?", "legz"][..]),
        (
            &["--compare", "legs,furier"],
            &["--compare", "did you mean fourier?"],
        ),
        (&["nonsense"], &["one of legs", "diag-lin"]),
        (&["--states", "0"], &["--states", "from 1 to 256", "found 0"]),
        (&["--states", "10000"], &["--states", "found 10000"]),
        (&["lin", "--states", "7"], &["--states", "even", "diag-lin"]),
        (&["--step", "0"], &["--step", "above 0"]),
        (&["--step", "-0.1"], &["--step", "found -0.1"]),
        (&["--step", "nan"], &["--step", "found NaN"]),
        (&["--rule", "bilinaer"], &["--rule", "did you mean bilinear?"]),
        (
            &["--rule", "forward", "--step", "0.1"],
            &["--rule", "forward Euler", "grow"],
        ),
        (&["--length", "3"], &["--length", "from 32"]),
        (&["--force"], &["--out"]),
        (&["--column", "1"], &["--signal"]),
        (
            &["--compare", "legs,legt,lagt,fout,lin,inv,real,quad"],
            &["--compare", "at most 7"],
        ),
    ] {
        fails(&[&["ssm"], arguments].concat(), 2, parts);
    }
}

#[test]
fn a_signal_that_is_none_names_the_file_and_the_line() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("written");
        path.to_string_lossy().into_owned()
    };
    let out = folder.path().join("out").to_string_lossy().into_owned();
    let numbers: String = (0..40).map(|k| format!("{k} {k}\n")).collect();
    for (path, more, code, parts) in [
        (
            file("words.txt", "1\n2\nthree\n"),
            &[][..],
            1,
            &["words.txt", "line 3", "three"][..],
        ),
        (
            file("empty.txt", ""),
            &[],
            1,
            &["empty.txt", "at least 32", "found 0"],
        ),
        (file("few.txt", "1\n2\n"), &[], 1, &["few.txt", "found 2"]),
        (
            file("same.txt", &"5\n".repeat(40)),
            &[],
            1,
            &["same.txt", "differ"],
        ),
        (file("two.txt", &numbers), &[], 1, &["two.txt", "--column"]),
        (
            file("two.txt", &numbers),
            &["--column", "3"],
            2,
            &["--column", "from 1 to 2"],
        ),
        (
            file("short.txt", &numbers),
            &["--column", "1", "--length", "50"],
            1,
            &["at least 50", "found 40"],
        ),
        (
            folder.path().join("none.txt").to_string_lossy().into_owned(),
            &[],
            1,
            &["cannot read", "none.txt"],
        ),
        (file("bytes.bin", "\u{fffd}"), &[], 1, &["bytes.bin"]),
    ] {
        fails(
            &[&["ssm", "--signal", &path, "--out", &out][..], more].concat(),
            code,
            parts,
        );
        assert!(!Path::new(&out).exists(), "{path} left a folder behind");
    }
    stdout_of(&["ssm", "--signal", &file("two.txt", &numbers), "--column", "2"]);
}

#[test]
fn the_same_seed_gives_the_same_figures_and_another_one_others() {
    let figures =
        |seed: &str| stdout_of(&["ssm", "rand", "--states", "8", "--length", "100", "--seed", seed]);
    assert_eq!(figures("1"), figures("1"));
    assert_ne!(figures("1"), figures("2"));
}
