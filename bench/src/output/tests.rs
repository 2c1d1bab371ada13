//! What the rule of output folders promises.

use super::*;

const OWN: &[&str] = &["x.csv", "y.csv", "figures/*.svg", "resume/"];

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("readable folder");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn plan(path: &Path) -> OutputPlan<'_> {
    OutputPlan {
        what: "a diagnosis",
        default: "spillway-nothing",
        named: Some(path),
        force: false,
        resume: false,
        own: OWN,
        marks: &["resume"],
    }
}

fn open(path: &Path) -> Result<OutputFolder, ProgramError> {
    OutputFolder::find(&plan(path))
}

#[test]
fn a_failed_write_leaves_the_old_file_and_no_temporary_one() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("report.json");
    write_file(&path, |file| file.write_all(b"old")).expect("first write");
    let error = write_file(&path, |file| {
        file.write_all(b"half of the new")?;
        Err(io::Error::from_raw_os_error(28))
    })
    .expect_err("the second write fails");
    assert!(
        error.to_string().contains("report.json: No space left"),
        "{error}"
    );
    assert_eq!(fs::read_to_string(&path).expect("old file"), "old");
    assert_eq!(names(folder.path()), ["report.json"]);
}

#[test]
fn a_full_device_is_an_error_that_names_it() {
    let error = write_json(Path::new("/dev/full"), &[1, 2, 3]).expect_err("/dev/full takes nothing");
    assert!(
        error
            .to_string()
            .starts_with("cannot write /dev/full: No space left"),
        "{error}"
    );
}

#[test]
fn a_failed_run_removes_what_it_made_and_nothing_else() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let nested = folder.path().join("a/b");
    {
        let mut out = open(&nested).expect("created");
        out.write("x.csv", |file| file.write_all(b"1")).expect("written");
        out.write("figures/x.svg", |file| file.write_all(b"1"))
            .expect("written");
    }
    assert!(names(folder.path()).is_empty());
    fs::write(folder.path().join("old.csv"), "kept").expect("written");
    {
        let forced = OutputPlan {
            force: true,
            ..plan(folder.path())
        };
        let mut out = OutputFolder::find(&forced).expect("forced");
        out.write("new.csv", |file| file.write_all(b"1"))
            .expect("written");
    }
    assert_eq!(names(folder.path()), ["old.csv"]);
}

#[test]
fn kept_files_stay() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let nested = folder.path().join("out");
    {
        let mut out = open(&nested).expect("created");
        out.write("x.csv", |file| file.write_all(b"1")).expect("written");
        out.keep();
        out.write("y.csv", |file| file.write_all(b"2")).expect("written");
    }
    assert_eq!(names(&nested), ["x.csv"]);
}

#[test]
fn a_folder_with_something_in_it_is_refused_unless_resuming_or_forced() {
    let folder = tempfile::tempdir().expect("temporary folder");
    drop(open(folder.path()).expect("an empty folder will do"));
    fs::write(folder.path().join("x"), "").expect("written");
    let error = open(folder.path()).expect_err("not empty");
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("--force"), "{error}");
    let resumed = |path: &Path| {
        OutputFolder::find(&OutputPlan {
            resume: true,
            ..plan(path)
        })
    };
    assert_eq!(resumed(folder.path()).expect_err("no run in it").exit_code(), 2);
    fs::create_dir(folder.path().join("resume")).expect("made");
    let error = open(folder.path()).expect_err("interrupted");
    assert!(error.to_string().contains("--resume"), "{error}");
    assert!(resumed(folder.path()).expect("resumed").is_begun());
    open(&folder.path().join("x")).expect_err("a file is no folder");
    resumed(&folder.path().join("none")).expect_err("nothing there");
    fs::create_dir(folder.path().join("empty")).expect("made");
    let empty = resumed(&folder.path().join("empty")).expect("killed before it saved");
    assert!(!empty.is_begun());
}

#[test]
fn force_replaces_a_command_s_own_files_once_it_begins_and_no_others() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = |name: &str| folder.path().join(name);
    fs::create_dir_all(path("resume/deep")).expect("made");
    fs::create_dir(path("figures")).expect("made");
    for name in [
        "x.csv",
        "mine.csv",
        "figures/a.svg",
        "figures/mine.png",
        "resume/deep/state",
    ] {
        fs::write(path(name), "old").expect("written");
    }
    let forced = OutputPlan {
        force: true,
        ..plan(folder.path())
    };
    // Refused later, for a setting that cannot be used: nothing is touched.
    drop(OutputFolder::find(&forced).expect("forced"));
    assert_eq!(names(folder.path()), ["figures", "mine.csv", "resume", "x.csv"]);
    let mut out = OutputFolder::find(&forced).expect("forced");
    out.write("y.csv", |file| file.write_all(b"new"))
        .expect("written");
    out.keep();
    drop(out);
    assert_eq!(names(folder.path()), ["figures", "mine.csv", "y.csv"]);
    assert_eq!(names(&path("figures")), ["mine.png"]);
}

#[test]
fn a_second_run_in_one_folder_is_refused_with_who_is_there() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let first = open(folder.path()).expect("free");
    let error = open(folder.path()).expect_err("in use");
    assert!(matches!(error, ProgramError::InUse(_)), "{error}");
    assert!(error.to_string().contains("in use by process"), "{error}");
    drop(first);
    drop(open(folder.path()).expect("free again"));
}
