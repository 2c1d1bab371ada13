//! The log of a training: a JSON object a line, one for each [`Event`].
//!
//! ```text
//! {"event":"start","steps":300,…}
//! {"event":"step","step":1,"loss":5.5,…}
//! {"event":"evaluation","step":1,…}
//! ```
//!
//! Lines are written whole, and reach the system before [`Log::append`] returns: a program that is killed loses none, and may
//! leave one half-written at the end, which is no line. A training that goes on from a snapshot first cuts off what came after
//! that, so that in the end its log is that of a training that was never stopped, but for the times.

mod event;
mod number;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use thiserror::Error;

pub use event::{EndEvent, EvaluationEvent, Event, Seconds, SnapshotEvent, StartEvent, StepEvent, TaskEvent};

use crate::input;
use crate::output::{NewFile, OutputError};

/// The longest log that is read: some ten million steps.
const MAX_BYTES: u64 = 4 << 30;

/// Why a log cannot be written, read or gone on with.
#[derive(Debug, Error)]
pub enum LogError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] OutputError),
    /// A line is no event.
    #[error("{}: line {line}: expected an event of a training, found {reason}", path.display())]
    Line {
        /// The log's file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The log ends before the step to go on from.
    #[error(
        "{}: expected lines up to step {expected}, to go on from, found the last one of step {found}",
        path.display()
    )]
    Behind {
        /// The log's file.
        path: PathBuf,
        /// The step to go on from, which is the snapshot's.
        expected: u64,
        /// The last step in the file.
        found: u64,
    },
}

/// A log that is open for more lines.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Begins a log; there must be none.
    ///
    /// # Errors
    /// [`LogError::File`] when there is something of that name, or the folder cannot be written.
    pub fn create(path: &Path) -> Result<Self, LogError> {
        if path.exists() {
            return Err(OutputError::Exists { path: path.into() }.into());
        }
        let file = OpenOptions::new().append(true).create_new(true).open(path);
        Ok(Self {
            path: path.into(),
            file: file.map_err(OutputError::io(path, "creating"))?,
        })
    }

    /// Goes on with a log after `step` steps: what is of later steps, the end of a training, and a line that is only half
    /// there are cut off. Gives the events that stay.
    ///
    /// # Errors
    /// [`LogError::File`] when it cannot be read or written, [`LogError::Line`] for a line that is no event,
    /// [`LogError::Behind`] when steps are missing. The file is what it was then.
    pub fn resume(path: &Path, step: u64) -> Result<(Self, Vec<Event>), LogError> {
        let bytes = input::read(path, MAX_BYTES).map_err(OutputError::io(path, "reading"))?;
        let (mut kept, mut events) = (Vec::new(), Vec::new());
        let mut found = 0;
        for (line, event) in lines(path, &bytes) {
            let event = match event {
                // A disk that lost power may have kept anything of what came after the snapshot.
                Err(_) if found == step && step > 0 => break,
                event => event?,
            };
            if event.step() > step || matches!(event, Event::End(_)) {
                break;
            }
            if let Event::Step(event) = &event {
                found = event.step;
            }
            kept.extend_from_slice(line);
            events.push(event);
        }
        if found != step {
            let (path, expected) = (path.into(), step);
            return Err(LogError::Behind {
                path,
                expected,
                found,
            });
        }
        if kept.len() < bytes.len() {
            let mut file = NewFile::create(path)?;
            file.writer()
                .write_all(&kept)
                .map_err(OutputError::io(path, "writing"))?;
            file.commit()?;
        }
        let file = OpenOptions::new().append(true).open(path);
        let file = file.map_err(OutputError::io(path, "opening"))?;
        Ok((
            Self {
                path: path.into(),
                file,
            },
            events,
        ))
    }

    /// Adds a line.
    ///
    /// # Errors
    /// [`LogError::File`] when it cannot be written.
    pub fn append(&mut self, event: &Event) -> Result<(), LogError> {
        let mut line = serde_json::to_vec(event)
            .map_err(|e| OutputError::io(&self.path, "writing")(std::io::Error::other(e)))?;
        line.push(b'\n');
        // One call, unbuffered: a kill comes before or after it.
        let written = self.file.write_all(&line);
        Ok(written.map_err(OutputError::io(&self.path, "writing"))?)
    }

    /// Waits until all lines are on the disk. To be called before a snapshot is written, which must never be ahead of its log.
    ///
    /// # Errors
    /// [`LogError::File`].
    pub fn sync(&self) -> Result<(), LogError> {
        Ok(self
            .file
            .sync_all()
            .map_err(OutputError::io(&self.path, "writing"))?)
    }
}

/// The events of a log, without a line at the end that is only half there.
///
/// # Errors
/// [`LogError::File`], [`LogError::Line`].
pub fn read_log(path: &Path) -> Result<Vec<Event>, LogError> {
    let bytes = input::read(path, MAX_BYTES).map_err(OutputError::io(path, "reading"))?;
    lines(path, &bytes).map(|(_, event)| event).collect()
}

/// Whole lines, and what they say.
fn lines<'a>(path: &'a Path, bytes: &'a [u8]) -> impl Iterator<Item = (&'a [u8], Result<Event, LogError>)> {
    let whole = bytes.split_inclusive(|byte| *byte == b'\n').enumerate();
    whole
        .filter(|(_, line)| line.ends_with(b"\n"))
        .map(|(index, line)| {
            let event = serde_json::from_slice(line).map_err(|error| LogError::Line {
                path: path.into(),
                line: index + 1,
                reason: error.to_string(),
            });
            (line, event)
        })
}
