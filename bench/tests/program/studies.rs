//! What the tests of `spillway train-table` and `spillway frontier` share: both train the arms of a file, which change one training.

use crate::*;
use tempfile::TempDir;

/// A command that trains what a file says, and a file for it that can be used.
pub(crate) struct Study {
    pub command: &'static str,
    /// The file's name.
    pub name: &'static str,
    /// What stands in it.
    pub text: &'static str,
    /// The training that it changes, `training.toml`.
    pub training: &'static str,
}

impl Study {
    /// A folder with the training and a file with this text, and the file's path.
    pub fn folder_with(&self, text: &str) -> (TempDir, String) {
        let folder = tempfile::tempdir().expect("temporary folder");
        fs::write(folder.path().join("training.toml"), self.training).expect("written");
        let path = folder.path().join(self.name);
        fs::write(&path, text).expect("written");
        let path = path.to_string_lossy().into_owned();
        (folder, path)
    }

    pub fn folder(&self) -> (TempDir, String) {
        self.folder_with(self.text)
    }

    pub fn run(&self, config: &str, out: &Path, options: &[&str]) -> Output {
        let out = out.to_string_lossy().into_owned();
        spillway(&[&[self.command, config, "--out", &out, "-q"], options].concat())
    }

    /// Of `all` trainings one is finished when it stops after nine steps. It is killed as soon as each of `killed_at` is there, goes on to its
    /// end, and has in each training the bits of one that was left alone in these `files`.
    pub fn goes_on_to_the_same_bits(&self, all: usize, killed_at: &[&str], files: &[&str]) {
        let (folder, config) = self.folder();
        let [whole, pieces] = ["whole", "pieces"].map(|name| folder.path().join(name));
        succeeds(&self.run(&config, &whole, &["--threads", "2"]));
        let stopped = self.run(&config, &pieces, &["--threads", "1", "--stop-after", "9"]);
        refused(&stopped, 1, &["--resume"]);
        let unfinished = results(&pieces);
        assert_eq!(unfinished["trainings"], Value::from(vec![1, all]));
        let said = unfinished["findings"]["unsupported"][0].as_str().expect("text");
        assert!(said.contains(&format!("1 of {all} trainings")), "{said}");
        #[cfg(unix)]
        for file in killed_at {
            let mut command = Command::new(env!("CARGO_BIN_EXE_spillway"));
            command.args([self.command, &config, "-q", "--threads", "1", "--resume", "--out"]);
            crate::life::kill_when(command.arg(&pieces), || pieces.join(file).exists());
        }
        #[cfg(not(unix))]
        let _ = killed_at;
        succeeds(&self.run(&config, &pieces, &["--threads", "1", "--resume"]));
        assert_eq!(names(&whole.join("runs")), names(&pieces.join("runs")));
        for run in names(&whole.join("runs")) {
            for name in files {
                let file = |out: &Path| fs::read(out.join("runs").join(&run).join(name)).expect(name);
                assert!(file(&whole) == file(&pieces), "{run}: {name} differs");
            }
        }
        let values = |out: &Path| fs::read_to_string(out.join("results.csv")).expect("file");
        assert_eq!(values(&whole), values(&pieces));
    }

    /// The file with `to` in the place of `from` is refused before anything is trained, by a line with the file's name and all of `parts`.
    #[track_caller]
    pub fn is_refused_with(&self, from: &str, to: &str, parts: &[&str]) {
        assert!(self.text.contains(from), "{from}");
        let (folder, config) = self.folder_with(&self.text.replace(from, to));
        let out = folder.path().join("out");
        refused(&self.run(&config, &out, &[]), 1, &[&[self.name], parts].concat());
        assert!(!out.exists(), "{to}");
    }
}

/// The standard output of a run that must succeed.
#[track_caller]
pub(crate) fn succeeds(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a study came to.
pub(crate) fn results(out: &Path) -> Value {
    serde_json::from_slice(&fs::read(out.join("results.json")).expect("results.json")).expect("JSON")
}

/// Files and folders that every study with trainings leaves.
pub(crate) const FILES: [&str; 6] = [
    "RESULTS.md",
    "figures",
    "report.html",
    "results.csv",
    "results.json",
    "runs",
];
