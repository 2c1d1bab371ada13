//! A run of questions, and what it leaves behind to go on from when it is interrupted: every answer so far, under the settings that decide them.

use crate::calibration::calibration;
use crate::context::Context;
use crate::error::ProgramError;
use crate::output::OutputFolder;
use crate::stop::Stop;
use crate::trial::Trial;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use spillway_models::{Model, input};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

/// Time from one save of the answers to the next.
const SAVED_EVERY: Duration = Duration::from_secs(5);
/// Version of the file's form.
const VERSION: u32 = 1;

/// Everything that decides the answers of a run. An interrupted run goes on only under the same settings.
pub trait Settings: Serialize + DeserializeOwned {
    /// Holds `self`, what was saved, against what is `asked` for: the first difference is an error.
    ///
    /// # Errors
    /// [`ProgramError::Usage`].
    fn expect(&self, asked: &Self) -> Result<(), ProgramError>;
}

/// The answers under one mitigation.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SavedRun<E> {
    /// Time taken so far.
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

/// One run under way among the saved ones: counts what is asked, saves every few seconds, and stops when it is to.
pub struct Keeping<'a, S, E> {
    saved: &'a mut Saved<S, E>,
    out: &'a mut OutputFolder,
    file: &'static str,
    stop: &'a Stop,
    index: usize,
    begin: Instant,
    before: f64,
    last_save: Instant,
    failure: Option<ProgramError>,
}

impl<'a, S: Settings, E: Clone + Default + Serialize + DeserializeOwned> Keeping<'a, S, E> {
    /// Goes on with the run at `index`, a new one where there is none yet, saving to `file`; gives what has been answered of it.
    pub fn begin(
        saved: &'a mut Saved<S, E>,
        index: usize,
        (out, file): (&'a mut OutputFolder, &'static str),
        stop: &'a Stop,
    ) -> (Self, E) {
        if saved.runs.len() <= index {
            saved.runs.resize_with(index + 1, SavedRun::default);
        }
        let evaluation = std::mem::take(&mut saved.runs[index].evaluation);
        let keeping = Self {
            before: saved.runs[index].seconds,
            saved,
            out,
            file,
            stop,
            index,
            begin: Instant::now(),
            last_save: Instant::now(),
            failure: None,
        };
        (keeping, evaluation)
    }

    /// Hears of answers to prompts of so many tokens, and says whether to go on.
    pub fn heard(&mut self, evaluation: &E, tokens: u64) -> ControlFlow<()> {
        self.stop.count(tokens);
        if self.last_save.elapsed() > SAVED_EVERY {
            self.saved.runs[self.index] = SavedRun {
                seconds: self.seconds(),
                evaluation: evaluation.clone(),
            };
            self.failure = self.saved.save(self.out, self.file).err();
            self.last_save = Instant::now();
        }
        match self.failure {
            Some(_) => ControlFlow::Break(()),
            None => self.stop.flow(),
        }
    }

    fn seconds(&self) -> f64 {
        self.before + self.begin.elapsed().as_secs_f64()
    }

    /// Keeps the answers among the saved runs, without writing them; the seconds of the run so far.
    ///
    /// # Errors
    /// What stopped a save on the way.
    pub fn end(self, evaluation: E) -> Result<f64, ProgramError> {
        let seconds = self.seconds();
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        self.saved.runs[self.index] = SavedRun { seconds, evaluation };
        Ok(seconds)
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
