//! The life of a run: its folder, who else is in it, and what becomes of it when it is killed.

use crate::*;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Waits until `ready`, or the child has ended.
fn wait(child: &mut Child, ready: impl Fn() -> bool) {
    let begin = Instant::now();
    while !ready() && child.try_wait().expect("a child").is_none() {
        assert!(begin.elapsed() < Duration::from_secs(120), "it never came");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Starts the program and kills it, without a warning, as soon as `ready`.
pub(crate) fn kill_when(command: &mut Command, ready: impl Fn() -> bool) {
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    wait(&mut child, ready);
    // It may have ended meanwhile.
    let _ = child.kill();
    child.wait().expect("it ends");
}

fn in_folder(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_spillway"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("the program starts")
}

const DIAGNOSE: [&str; 8] = [
    "diagnose",
    "-q",
    "--length",
    "256",
    "--streams",
    "1",
    "--mitigation",
    "window:64",
];

#[test]
fn the_same_command_twice_numbers_its_folder_and_a_resumed_one_finds_the_last() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path();
    for _ in 0..2 {
        assert!(in_folder(path, &DIAGNOSE).status.success());
    }
    assert_eq!(names(path), ["spillway-diagnosis", "spillway-diagnosis-2"]);
    let stopped = in_folder(path, &[&DIAGNOSE[..], &["--stop-after", "300"]].concat());
    refused(&stopped, 1, &["interrupted", "spillway-diagnosis-3", "--resume"]);
    let resumed = in_folder(path, &[&DIAGNOSE[..], &["--resume"]].concat());
    assert!(resumed.status.success());
    let report = |name: &str| fs::read(path.join(name).join("heads.csv")).expect("a report");
    assert!(report("spillway-diagnosis") == report("spillway-diagnosis-3"));
    // With --force it is the first again, and what is not its own stays.
    fs::write(path.join("spillway-diagnosis/mine.txt"), "kept").expect("written");
    fs::write(path.join("spillway-diagnosis/gates.csv"), "stale").expect("written");
    let forced = in_folder(path, &[&DIAGNOSE[..], &["--force"]].concat());
    assert!(forced.status.success());
    assert_eq!(names(path).len(), 3);
    assert!(path.join("spillway-diagnosis/mine.txt").exists());
    assert!(fs::read(path.join("spillway-diagnosis/gates.csv")).expect("there") != b"stale");
    // So it is with other commands.
    let passkey = [
        "passkey",
        "-q",
        "--lengths",
        "300",
        "--depths",
        "1",
        "--samples",
        "1",
    ];
    for _ in 0..2 {
        assert!(in_folder(path, &passkey).status.success());
    }
    assert!(names(path).contains(&"spillway-passkey-2".to_string()));
}

#[cfg(unix)]
#[test]
fn a_second_run_in_a_folder_is_told_who_is_there_and_a_killed_one_leaves_it_free() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let out = folder.path().join("out");
    let long = [
        "diagnose",
        "-q",
        "--length",
        "16m",
        "--streams",
        "1",
        "--out",
        "out",
    ];
    let mut first = Command::new(env!("CARGO_BIN_EXE_spillway"))
        .args(long)
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let lock = out.join(".spillway.lock");
    wait(&mut first, || {
        fs::metadata(&lock).is_ok_and(|lock| lock.len() > 0)
    });
    let process = format!("in use by process {}", first.id());
    for command in [
        &long[..],
        &["passkey", "-q", "--lengths", "300", "--out", "out"],
        &["compare", "-q", "--quick", "--out", "out"],
    ] {
        refused(
            &in_folder(folder.path(), command),
            1,
            &["out", &process, "diagnose"],
        );
    }
    first.kill().expect("killed");
    first.wait().expect("it ends");
    fs::write(out.join(".spillway-0123456789ab.tmp"), "half of a report").expect("written");
    let short = [&DIAGNOSE[..], &["--out", "out"]].concat();
    let next = in_folder(folder.path(), &short);
    assert!(next.status.success(), "{}", String::from_utf8_lossy(&next.stderr));
    let left: Vec<String> = names(&out)
        .into_iter()
        .filter(|name| name.starts_with('.'))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[cfg(unix)]
#[test]
fn a_signal_before_anything_is_measured_leaves_nothing_and_one_later_what_is_measured() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let out = folder.path().join("out");
    let mut child = Command::new(env!("CARGO_BIN_EXE_spillway"))
        .args([
            "diagnose",
            "-q",
            "--length",
            "16m",
            "--streams",
            "1",
            "--out",
            "out",
        ])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    wait(&mut child, || out.exists());
    // SAFETY: a signal to a child of this process that has not been waited for; its id is still its own.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) };
    let output = child.wait_with_output().expect("the program ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    match output.status.code() {
        Some(130) => {
            assert!(stderr.contains("nothing is kept"), "{stderr}");
            assert!(names(folder.path()).is_empty());
        }
        other => {
            assert_eq!(other, Some(1), "{stderr}");
            assert!(stderr.contains("--resume"), "{stderr}");
            assert!(out.join("resume/progress.json").exists());
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn remarks_that_nobody_can_read_end_no_run() {
    let run = |arguments: &[&str]| {
        let full = fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .expect("a device that is always full");
        Command::new(env!("CARGO_BIN_EXE_spillway"))
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(full)
            .status()
            .expect("the program starts")
            .code()
    };
    assert_eq!(
        run(&["generate", "--prompt", "In the", "--max-tokens", "2"]),
        Some(0)
    );
    assert_eq!(run(&["inspect", "no-such-folder"]), Some(1));
    assert_eq!(run(&["inspect", "--no-such-option"]), Some(2));
}
