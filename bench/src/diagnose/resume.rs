//! What an interrupted diagnosis leaves behind to go on from: `resume/progress.json` with every sum so far, bit by bit, and
//! one file per stream under way with the model's state.

use crate::error::ProgramError;
use crate::output::{self, OutputFolder};
use crate::settings::Settings;
use serde::{Deserialize, Serialize};
use spillway_models::Model;
use spillway_models::evaluation::diagnosis::run::Run;
use spillway_models::evaluation::diagnosis::stream::{StreamRun, StreamTally};
use spillway_ssm_core::Site;
use std::fs;
use std::path::Path;

/// Version of the files.
const VERSION: u32 = 2;
/// The file that tells an interrupted diagnosis, in the output folder.
pub const MARK: &str = "resume/progress.json";
const FOLDER: &str = "resume";
const PROGRESS: &str = "progress.json";

/// Content of `resume/progress.json`: the settings, and the sums of every run so far.
#[derive(Debug, Serialize, Deserialize)]
pub struct Progress {
    version: u32,
    settings: Settings,
    runs: Vec<SavedRun>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedRun {
    seconds: f64,
    streams: Vec<StreamTally>,
}

/// The position is part of the name, so that a failed save leaves the files of the one before usable.
fn state_name(run: usize, stream: usize, position: u64) -> String {
    format!("run-{run}-stream-{stream}-at-{position}.safetensors")
}

/// Writes all runs so far. Runs that have not begun are left out.
///
/// # Errors
/// [`ProgramError::File`], or a state that cannot be saved; what an earlier save wrote is then still whole, and nothing is left
/// behind if there was none.
pub fn save(folder: &OutputFolder, settings: &Settings, runs: &[Run]) -> Result<(), ProgramError> {
    let path = folder.file(FOLDER);
    let is_new = !path.exists();
    fs::create_dir_all(&path).map_err(ProgramError::file("create", &path))?;
    let saved = save_into(&path, settings, runs);
    if saved.is_err() && is_new {
        // The first error is the one to report.
        let _ = fs::remove_dir_all(&path);
    }
    saved
}

fn save_into(path: &Path, settings: &Settings, runs: &[Run]) -> Result<(), ProgramError> {
    let mut names = vec![PROGRESS.to_string()];
    let mut saved = Vec::new();
    for (index, run) in runs.iter().enumerate().filter(|(_, run)| run.has_begun()) {
        for (number, stream) in run.streams.iter().enumerate() {
            if let Some(state) = &stream.state {
                let name = state_name(index, number, stream.tally.position);
                state.save(&path.join(&name))?;
                names.push(name);
            }
        }
        let streams = run.streams.iter().map(|stream| stream.tally.clone()).collect();
        saved.push(SavedRun {
            seconds: run.seconds,
            streams,
        });
    }
    let progress = Progress {
        version: VERSION,
        settings: settings.clone(),
        runs: saved,
    };
    output::write_json(&path.join(PROGRESS), &progress)?;
    remove_others(path, &names)
}

/// Removes the states of an earlier save.
fn remove_others(path: &Path, names: &[String]) -> Result<(), ProgramError> {
    let entries = fs::read_dir(path).map_err(ProgramError::file("list", path))?;
    for entry in entries {
        let entry = entry.map_err(ProgramError::file("list", path))?;
        if !names
            .iter()
            .any(|name| *name == entry.file_name().to_string_lossy())
        {
            fs::remove_file(entry.path()).map_err(ProgramError::file("remove", &entry.path()))?;
        }
    }
    Ok(())
}

/// Removes the files: the diagnosis is complete.
///
/// # Errors
/// [`ProgramError::File`].
pub fn remove(folder: &OutputFolder) -> Result<(), ProgramError> {
    let path = folder.file(FOLDER);
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(ProgramError::file("remove", &path)(error))
        }
        _ => Ok(()),
    }
}

/// The sums and records are of the buckets that `begun` has and of the model's recurrences.
fn expect_fitting(
    path: &Path,
    tally: &StreamTally,
    begun: &StreamRun,
    sites: &[Site],
) -> Result<(), ProgramError> {
    if !tally.losses.fits(&begun.tally.losses) {
        return Err(ProgramError::content(
            path,
            "sums for every bucket",
            "another number of them",
        ));
    }
    let records = &tally.records;
    let are_of_sites =
        records.len() == sites.len() && records.iter().zip(sites).all(|(record, site)| record.is_of(site));
    match records.is_empty() || are_of_sites {
        true => Ok(()),
        false => Err(ProgramError::content(
            path,
            "records of this model's recurrences",
            "others",
        )),
    }
}

/// Puts what was saved into `runs`, which have not begun.
///
/// # Errors
/// [`ProgramError::Usage`] for other settings, [`ProgramError::Content`] for a broken file.
pub fn load(folder: &Path, settings: &Settings, model: &Model, runs: &mut [Run]) -> Result<(), ProgramError> {
    let folder = folder.join(FOLDER);
    let path = folder.join(PROGRESS);
    let text = spillway_models::input::read_text(&path, spillway_models::input::MAX_SETTINGS)
        .map_err(ProgramError::file("read", &path))?;
    let progress = Progress::parse(&path, &text)?;
    progress.settings.expect(settings)?;
    for (index, (run, saved)) in runs.iter_mut().zip(progress.runs).enumerate() {
        run.seconds = saved.seconds;
        let treatments = run.treatments();
        for (number, tally) in saved.streams.into_iter().enumerate() {
            let Some(stream) = run.streams.get(number).map(|run| run.stream) else {
                return Err(ProgramError::content(
                    &path,
                    "as many streams as the settings name",
                    "more",
                ));
            };
            let mut restored = StreamRun {
                stream,
                tally,
                state: None,
            };
            expect_fitting(&path, &restored.tally, &run.streams[number], &model.info().sites)?;
            if restored.tally.position > 0 && !restored.is_done() {
                let file = folder.join(state_name(index, number, restored.tally.position));
                restored.state = Some(model.restore(&file, treatments(&stream).chain())?);
            }
            run.streams[number] = restored;
        }
    }
    Ok(())
}

impl Progress {
    /// The progress in the text of a file.
    ///
    /// # Errors
    /// [`ProgramError::Content`] for a text of another kind or version, and for sizes that what is beside them does not have.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ProgramError> {
        let wrong = |error: serde_json::Error| {
            ProgramError::content(path, "the progress of a diagnosis", error.to_string())
        };
        let value: serde_json::Value = serde_json::from_str(text).map_err(wrong)?;
        match value.get("version").and_then(serde_json::Value::as_u64) {
            Some(version) if version == u64::from(VERSION) => serde_json::from_value(value).map_err(wrong),
            found => Err(ProgramError::content(
                path,
                format!("version {VERSION}"),
                found.map_or("none".into(), |found| found.to_string()),
            )),
        }
    }
}
