//! A run of questions, and what it leaves behind to go on from when it is interrupted: every answer so far, under the settings that decide them.

use crate::calibration::calibration;
use crate::context::Context;
use crate::error::ProgramError;
use crate::output::OutputFolder;
use crate::settings::{Part, expect_same};
use crate::trial::Trial;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use spillway_models::{Model, input};
use std::path::Path;
use std::time::{Duration, Instant};

/// Time from one save of the answers to the next.
const SAVED_EVERY: Duration = Duration::from_secs(5);
/// Version of the file's form.
const VERSION: u32 = 1;

/// Everything that decides the answers of a run. An interrupted run goes on only under the same settings.
pub trait Settings: Serialize + DeserializeOwned {
    /// Everything, part by part under the option that says it.
    fn parts(&self) -> Vec<Part>;

    /// Holds `self`, what was saved, against what is `asked` for: the first difference is an error.
    ///
    /// # Errors
    /// [`ProgramError::Usage`].
    fn expect(&self, asked: &Self) -> Result<(), ProgramError> {
        expect_same(self.parts(), asked.parts())
    }
}

/// The answers under one mitigation.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SavedRun<E> {
    /// Time that the answers took so far, added up over all ranks.
    pub seconds: f64,
    /// The answers of one mitigation.
    pub evaluation: E,
}

/// Content of the file that an evaluation goes on from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saved<S, E> {
    version: u32,
    /// What decides the answers.
    pub settings: S,
    /// The answers under each mitigation that has begun, in order.
    pub runs: Vec<SavedRun<E>>,
}

impl<S: Settings, E: Serialize + DeserializeOwned> Saved<S, E> {
    /// The content of a run that has not begun: the settings, and no answers.
    pub fn new(settings: S) -> Self {
        Self {
            version: VERSION,
            settings,
            runs: Vec::new(),
        }
    }

    /// Takes over what an interrupted run has left in the file `name` of `folder`; `are_ours` says whether the answers can be of
    /// these settings.
    ///
    /// # Errors
    /// [`ProgramError::Usage`] for other settings, [`ProgramError::File`] and [`ProgramError::Content`] for a file that cannot be
    /// used.
    pub fn load(
        &mut self,
        folder: &OutputFolder,
        name: &str,
        are_ours: impl FnOnce(&[SavedRun<E>]) -> bool,
    ) -> Result<(), ProgramError> {
        let path = folder.file(name);
        let text = input::read_text(&path, input::MAX_TEXT).map_err(ProgramError::file("read", &path))?;
        let saved = Self::parse(&path, &text)?;
        saved.settings.expect(&self.settings)?;
        if !are_ours(&saved.runs) {
            let expected = "the answers to the prompts of these settings";
            return Err(ProgramError::content(&path, expected, "others"));
        }
        self.runs = saved.runs;
        Ok(())
    }

    /// The answers in the text of a file.
    ///
    /// # Errors
    /// [`ProgramError::Content`] for a text of another kind or version.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ProgramError> {
        let content = |expected: &str, found: String| ProgramError::content(path, expected, found);
        let saved: Self = serde_json::from_str(text)
            .map_err(|error| content("the answers of an interrupted run", error.to_string()))?;
        match saved.version {
            VERSION => Ok(saved),
            other => Err(content(&format!("version {VERSION}"), other.to_string())),
        }
    }

    /// Writes the file `name` of `folder`.
    ///
    /// # Errors
    /// [`ProgramError::File`].
    pub fn save(&self, folder: &mut OutputFolder, name: &str) -> Result<(), ProgramError> {
        folder.write_json(name, self)?;
        folder.keep();
        Ok(())
    }
}

/// What `--mitigation` asks for: the model alone where it asks for nothing.
pub fn asked(mitigations: &[String]) -> Vec<&str> {
    match mitigations {
        [] => vec!["none"],
        some => some.iter().map(String::as_str).collect(),
    }
}

/// The mitigation `spec` with its numbers, known to fit the model before hours of work begin. What is calibrated is so on `sequences`, which is
/// only called then; each is read from an empty state.
///
/// # Errors
/// [`ProgramError::Usage`] for what cannot be had with this model, [`ProgramError::Failed`] where a calibration lacks something, and those of
/// `sequences`.
pub fn ready(
    spec: &str,
    model: &Model,
    sequences: impl FnOnce() -> Result<Vec<Vec<u32>>, ProgramError>,
) -> Result<Trial, ProgramError> {
    with_numbers(spec, model, sequences)?.expect_possible(model)
}

/// As [`ready`], whether it fits the model or not.
///
/// # Errors
/// As there.
pub fn with_numbers(
    spec: &str,
    model: &Model,
    sequences: impl FnOnce() -> Result<Vec<Vec<u32>>, ProgramError>,
) -> Result<Trial, ProgramError> {
    let trial = Trial::parse(spec, model)?.expect_usable(spec)?;
    // Without a place to act there is nothing to take numbers from, and the reason to refuse it is that.
    if !trial.mitigation().needs_calibration() || model.info().sites.is_empty() {
        return Ok(trial);
    }
    let found = calibration(model, sequences()?)?;
    let calibrated = trial.mitigation().calibrated(&found);
    Ok(Trial::of(
        &calibrated.map_err(|error| ProgramError::Failed(error.to_string()))?,
    ))
}

/// The training length that `spec` is calibrated on: `named` by an option, or what the checkpoint says.
///
/// # Errors
/// [`ProgramError::Usage`] where neither does.
pub fn calibrated_length(spec: &str, model: &Model, named: Option<u64>) -> Result<u64, ProgramError> {
    named.or(model.info().train_length).ok_or_else(|| {
        let expected = format!("the model's training length in tokens, which {spec} is calibrated on");
        ProgramError::usage("--train-length", expected, "nothing")
    })
}

/// What came of a piece of the work, and the time that it took.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Timed<T> {
    /// What came of it.
    pub found: T,
    /// Seconds that it took.
    pub seconds: f64,
}

impl<T> Timed<T> {
    /// Does `work`.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn of<E>(work: impl FnOnce() -> Result<T, E>) -> Result<Self, E> {
        let begin = Instant::now();
        let found = work()?;
        let seconds = begin.elapsed().as_secs_f64();
        Ok(Self { found, seconds })
    }
}

/// The answers of all runs while more of them come in: saved every few seconds.
#[derive(Debug)]
pub struct Keeping<'a, S, E> {
    saved: &'a mut Saved<S, E>,
    out: &'a mut OutputFolder,
    file: &'static str,
    last_save: Instant,
    is_saved: bool,
}

impl<'a, S: Settings, E: Clone + Default + Serialize + DeserializeOwned> Keeping<'a, S, E> {
    /// Of so many runs, with what was saved of them, in `file` of `out`.
    pub fn new(
        saved: &'a mut Saved<S, E>,
        runs: usize,
        (out, file): (&'a mut OutputFolder, &'static str),
    ) -> Self {
        saved.runs.resize_with(runs, SavedRun::default);
        Self {
            saved,
            out,
            file,
            last_save: Instant::now(),
            is_saved: true,
        }
    }

    /// The answers so far, run by run.
    pub fn runs(&self) -> &[SavedRun<E>] {
        &self.saved.runs
    }

    /// The answers so far, and the folder that they are written to.
    pub fn with_folder(&mut self) -> (&[SavedRun<E>], &mut OutputFolder) {
        (&self.saved.runs, self.out)
    }

    /// Takes in, by `add`, answers of the run at `index` that took so many seconds.
    ///
    /// # Errors
    /// [`ProgramError::File`] from a save.
    pub fn take_in(
        &mut self,
        index: usize,
        seconds: f64,
        add: impl FnOnce(&mut E),
    ) -> Result<(), ProgramError> {
        let run = &mut self.saved.runs[index];
        run.seconds += seconds;
        add(&mut run.evaluation);
        self.is_saved = false;
        match self.last_save.elapsed() > SAVED_EVERY {
            true => self.save(),
            false => Ok(()),
        }
    }

    /// Writes whatever is not written yet.
    ///
    /// # Errors
    /// [`ProgramError::File`].
    pub fn save(&mut self) -> Result<(), ProgramError> {
        if !self.is_saved {
            self.saved.save(self.out, self.file)?;
            self.is_saved = true;
            self.last_save = Instant::now();
        }
        Ok(())
    }
}

/// The end of a command that asks: says where the files are, and removes what a run goes on from if nothing is left to ask.
///
/// # Errors
/// [`ProgramError::Failed`] for a run that was interrupted, [`ProgramError::File`].
pub fn finish(
    out: &mut OutputFolder,
    file: &str,
    complete: bool,
    context: &Context,
) -> Result<(), ProgramError> {
    context.remark(format_args!("written to {}", out.path().display()));
    match complete {
        true => out.remove(file),
        false => Err(ProgramError::Failed(format!(
            "interrupted; the answers so far are in {}, and the same command with --resume goes on",
            out.path().display()
        ))),
    }
}
