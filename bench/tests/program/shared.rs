//! `passkey`, `recall` and `compare` on ranks that are threads of this process: the files of one process. `bench/tests/mpi.sh` does the same
//! with processes.

use crate::*;
use clap::Parser;
use spillway::cli::{Cli, Command as Subcommand};
use spillway::context::{Context, Printing};
use spillway::error::ProgramError;
use spillway::stop::Stop;
use spillway::{leaderboard, passkey, recall};
use spillway_models::parallel::Threads;
use std::sync::Arc;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(60);

const PASSKEY: &str = "passkey --lengths 300,500,900 --depths 3 --samples 2 --all-lengths --mitigation none --mitigation window:64 --mitigation \
                       reset:64 --mitigation state-norm:auto";
const RECALL: &str = "recall --facts 4,6 --documents 6 --length 0 --max-tokens 4 --passes 1 --mitigation none --mitigation window:64";
const COMPARE: &str = "compare --quick --longest 4 --streams 3 --mitigation window:64 --mitigation state-norm:auto --mitigation scales:fit";

/// What each rank ends with; on so many ranks, in one process without any for 0.
fn on_ranks(size: usize, arguments: &str, out: &Path, more: &str) -> Vec<Result<(), String>> {
    let line = format!("spillway {arguments} {more} --out {}", out.display());
    let quiet = Printing {
        quiet: true,
        json: false,
    };
    let run = |context: &Context| -> Result<(), ProgramError> {
        let cli = Cli::try_parse_from(line.split_whitespace()).expect("a command line");
        match &cli.command {
            Subcommand::Passkey(args) => passkey::run_until(args, &Stop::after(args.stop_after), context),
            Subcommand::Recall(args) => {
                let forms = recall::forms::forms(args)?;
                recall::ask_until(args, &forms, &Stop::after(args.stop_after), context)
            }
            Subcommand::Compare(args) => leaderboard::run_until(args, &Stop::after(None), context),
            _ => panic!("{line}"),
        }
    };
    let plain = |result: Result<(), ProgramError>| result.map_err(|error| error.to_string());
    match size {
        0 => vec![plain(run(&Context::within(2, quiet)))],
        _ => Threads::run(size, TIMEOUT, |ranks| {
            let context = Context::within(2, quiet).on(Some(Arc::new(ranks.clone())));
            Ok::<_, ProgramError>(plain(run(&context)))
        })
        .into_iter()
        .map(|result| result.expect("a rank that is left"))
        .collect(),
    }
}

/// Every file that says no time of day, without the lines and fields that say how long something took, or where it lies.
fn timeless(out: &Path) -> Vec<(String, String)> {
    let mut files = Vec::new();
    for name in names(out) {
        let path = out.join(&name);
        if path.is_dir() {
            files.extend(timeless(&path));
        } else if !name.ends_with(".html") && name != "leaderboard.csv" {
            let text = fs::read_to_string(&path).expect("a text");
            let times = ["\"seconds\"", "tokens_per_second\"", "\"spec\""];
            let lines = text
                .lines()
                .filter(|line| !times.iter().any(|time| line.contains(time)));
            files.push((name, lines.collect::<Vec<_>>().join("\n")));
        }
    }
    files
}

#[track_caller]
fn expect_same(whole: &Path, shared: &Path, of: &str) {
    assert_eq!(names(whole), names(shared), "{of}");
    for (a, b) in timeless(whole).into_iter().zip(timeless(shared)) {
        assert!(a == b, "{of}: {} differs", a.0);
    }
}

#[test]
fn any_number_of_ranks_writes_the_files_of_one_process() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for arguments in [PASSKEY, RECALL, COMPARE] {
        let command = arguments.split(' ').next().expect("a word");
        let whole = folder.path().join(command);
        assert_eq!(on_ranks(0, arguments, &whole, ""), [Ok(())], "{command}");
        for size in [1, 2, 3, 5] {
            let shared = folder.path().join(format!("{command}-{size}"));
            let ended = on_ranks(size, arguments, &shared, "");
            assert!(
                ended.iter().all(Result::is_ok),
                "{command} on {size} ranks: {ended:?}"
            );
            expect_same(&whole, &shared, &format!("{command} on {size} ranks"));
        }
    }
}

#[test]
fn a_run_is_resumed_by_any_number_of_ranks() {
    let folder = tempfile::tempdir().expect("temporary folder");
    for arguments in [PASSKEY, RECALL] {
        let command = arguments.split(' ').next().expect("a word");
        let whole = folder.path().join(command);
        assert_eq!(on_ranks(0, arguments, &whole, ""), [Ok(())], "{command}");
        for (before, after) in [(0, 3), (3, 0), (3, 2)] {
            let of = format!("{command} begun on {before} ranks and ended on {after}");
            let parts = folder.path().join(format!("{command}-{before}-{after}"));
            let stopped = on_ranks(before, arguments, &parts, "--stop-after 1500");
            let error = stopped[0].as_ref().expect_err(&of);
            assert!(
                error.contains("interrupted") && error.contains("--resume"),
                "{error}"
            );
            let ended = on_ranks(after, arguments, &parts, "--resume");
            assert!(ended.iter().all(Result::is_ok), "{of}: {ended:?}");
            expect_same(&whole, &parts, &of);
        }
    }
}

#[test]
fn a_comparison_goes_on_from_its_rows_on_any_number_of_ranks() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    for out in [&whole, &parts] {
        assert_eq!(on_ranks(0, COMPARE, out, ""), [Ok(())]);
    }
    // As it would be if it had been killed: two rows are missing, and one was not timed yet.
    let file = parts.join("leaderboard.json");
    let mut board: Value = serde_json::from_slice(&fs::read(&file).expect("file")).expect("JSON");
    let rows = board["rows"].as_array_mut().expect("rows");
    rows.retain(|row| {
        !["window:64", "scales:fit"]
            .iter()
            .any(|gone| row["mitigation"] == *gone)
    });
    rows[0]["prefill_tokens_per_second"] = Value::Null;
    fs::write(&file, board.to_string()).expect("written");
    let ended = on_ranks(3, COMPARE, &parts, "--resume");
    assert!(ended.iter().all(Result::is_ok), "{ended:?}");
    expect_same(&whole, &parts, "resumed on three ranks");
    let board: Value = serde_json::from_slice(&fs::read(&file).expect("file")).expect("JSON");
    assert_eq!(board["complete"], true);
    for row in board["rows"].as_array().expect("rows") {
        assert!(
            row["prefill_tokens_per_second"]
                .as_f64()
                .is_some_and(|speed| speed > 0.0),
            "{row}"
        );
    }
}
