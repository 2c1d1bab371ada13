//! Output files and folders, by one rule in every command.
//!
//! | the folder | what happens |
//! |---|---|
//! | not named | the command's own name, with a number behind it when that is taken: `spillway-diagnosis-2` |
//! | named, new or empty | is used |
//! | named, not empty | refused; with `--force` the command's own files in it are replaced, and all others stay; with `--resume` the interrupted run in it goes on |
//!
//! A folder is locked as long as a command works in it. What a failed run has made goes away with the run. Files are whole or
//! absent: the mechanism is [`spillway_models::output`].

use crate::context::Context;
use crate::error::ProgramError;
use serde::Serialize;
use spillway_models::output::{FolderLock, LOCK, LockError, NewFile, OutputError, is_free, sweep};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Most folders of one name that are numbered.
const MOST_NUMBERED: usize = 10_000;

/// Writes a file whole or not at all: `write` fills it under a temporary name, then it is renamed to `path`.
///
/// A path that is there but is no regular file (`/dev/stdout`, a pipe) is written to in place.
///
/// # Errors
/// [`ProgramError::File`], naming `path`; the old file, if any, is then untouched and no temporary file is left.
pub fn write_file(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), ProgramError> {
    let failed = |error| match error {
        OutputError::Io { source, .. } => ProgramError::file("write", path)(source),
        other => other.into(),
    };
    let mut file = NewFile::create(path).map_err(failed)?;
    write(file.writer()).map_err(ProgramError::file("write", path))?;
    file.commit().map_err(failed)
}

/// [`write_file`] for indented JSON.
///
/// # Errors
/// As [`write_file`]; numbers that JSON cannot hold (NaN, infinities) become `null`.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), ProgramError> {
    write_file(path, |file| {
        serde_json::to_writer_pretty(&mut *file, value).map_err(io::Error::from)?;
        writeln!(file)
    })
}

/// Which folder a command writes to, and what is its own in it.
#[derive(Clone, Copy, Debug)]
pub struct OutputPlan<'a> {
    /// What the command makes, with its article: `a diagnosis`.
    pub what: &'static str,
    /// Name of the folder where none is named.
    pub default: &'static str,
    /// Folder that `--out` names; `None` if it names none.
    pub named: Option<&'a Path>,
    /// Whether `--force` is given: the command's own files in the folder are replaced.
    pub force: bool,
    /// Whether `--resume` is given: the interrupted run in the folder goes on.
    pub resume: bool,
    /// The command's own files: names, names with one `*`, and folders that are its own as a whole, with a `/` at the end.
    pub own: &'static [&'static str],
    /// Those of the command's own files from which an interrupted run goes on: any of them will do.
    pub marks: &'static [&'static str],
}

impl OutputPlan<'_> {
    /// Whether a folder holds a run to go on with.
    fn is_begun(&self, folder: &Path) -> bool {
        self.marks.iter().any(|mark| folder.join(mark).exists())
    }

    /// `NAME`, `NAME-2`, `NAME-3` …
    fn numbered(&self) -> impl Iterator<Item = PathBuf> {
        let name = self.default;
        (1..=MOST_NUMBERED).map(move |number| match number {
            1 => PathBuf::from(name),
            number => PathBuf::from(format!("{name}-{number}")),
        })
    }

    /// The folder that `--resume`, or a command that only reads, means: the one named, or the last of the numbered ones with a
    /// run in it.
    pub fn begun(&self) -> PathBuf {
        if let Some(named) = self.named {
            return named.to_path_buf();
        }
        let begun = self.numbered().filter(|folder| self.is_begun(folder));
        begun.last().unwrap_or_else(|| self.default.into())
    }

    /// The folder by the rule, for a command that makes it itself, as a whole.
    ///
    /// # Errors
    /// [`ProgramError::FolderExists`] and [`ProgramError::Usage`] for one that the rule refuses.
    pub fn path(&self) -> Result<PathBuf, ProgramError> {
        match self.named {
            _ if self.resume => Ok(self.begun()),
            Some(path) if self.force || is_free(path) || path.join(LOCK).exists() => Ok(path.into()),
            Some(path) => Err(self.refused(path)),
            None if self.force => Ok(self.default.into()),
            None => Ok(self
                .numbered()
                .find(|path| is_free(path))
                .unwrap_or_else(|| self.default.into())),
        }
    }

    fn refused(&self, folder: &Path) -> ProgramError {
        if !self.is_begun(folder) {
            return ProgramError::FolderExists(folder.to_path_buf());
        }
        let expected = format!(
            "a new or empty folder, --resume to go on with {} in it, or --force to replace this command's own files in it",
            self.what
        );
        ProgramError::usage("--out", expected, format!("{}, which exists", folder.display()))
    }
}

/// What a run has made so far, and would take away again if it failed.
#[derive(Debug, Default)]
struct Made {
    folders: Vec<PathBuf>,
    files: Vec<PathBuf>,
    lock: Option<FolderLock>,
}

impl Made {
    fn undo(&mut self) {
        // Cleaning up after a failure: if that fails too, the first error is the one worth reporting.
        for file in self.files.drain(..) {
            let _ = fs::remove_file(file);
        }
        self.lock = None;
        for folder in self.folders.drain(..).rev() {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Folders of this process, for [`abandon`].
static OPEN: Mutex<Vec<Weak<Mutex<Made>>>> = Mutex::new(Vec::new());

/// Takes away what the runs of this process have made and not kept, and lets none of them make anything more: the process is
/// about to end.
pub fn abandon() {
    let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    for made in open.iter().filter_map(Weak::upgrade) {
        // A run holds this only while it creates a folder, never while it writes, so the wait is short.
        let mut held = made.lock().unwrap_or_else(PoisonError::into_inner);
        held.undo();
        std::mem::forget(held);
        std::mem::forget(made);
    }
    std::mem::forget(open);
}

/// A folder that a run writes its files into, and nobody else meanwhile.
///
/// Unless [`OutputFolder::keep`] is called, dropping it removes the files written through it and the folders it created: a
/// run that fails leaves nothing behind. Files that were there before stay.
#[derive(Debug)]
pub struct OutputFolder {
    path: PathBuf,
    made: Arc<Mutex<Made>>,
    is_begun: bool,
    /// What is to be removed before anything is written.
    replaced: &'static [&'static str],
}

impl OutputFolder {
    /// The folder that `plan` names, created if need be, for this process alone.
    ///
    /// # Errors
    /// [`ProgramError::FolderExists`] and [`ProgramError::Usage`] for a folder that the rule refuses; [`ProgramError::InUse`] when
    /// another process works in it; [`ProgramError::File`] if it cannot be created or is no folder.
    pub fn open(plan: &OutputPlan<'_>, context: &Context) -> Result<Self, ProgramError> {
        let folder = Self::find(plan)?;
        if plan.named.is_none() && folder.path != Path::new(plan.default) && !plan.resume {
            let name = folder.path.display();
            context.remark(format_args!("{} is taken: writing to {name}", plan.default));
        }
        if let Some(failure) = folder.made().lock.as_ref().and_then(FolderLock::failure) {
            context.remark(format_args!(
                "{}: locks do not work here ({failure}): see to it that no other process writes there",
                folder.path.display()
            ));
        }
        if plan.resume && !folder.is_begun {
            let name = folder.path.display();
            context.remark(format_args!("{name} is empty: beginning {}", plan.what));
        }
        Ok(folder)
    }

    pub(crate) fn find(plan: &OutputPlan<'_>) -> Result<Self, ProgramError> {
        if plan.resume {
            let path = plan.begun();
            // An empty folder is that of a run that was killed before it had anything to save.
            if !(path.is_dir() && (plan.is_begun(&path) || is_free(&path))) {
                let expected = format!("the folder of {} that was interrupted (--out)", plan.what);
                return Err(ProgramError::usage(
                    "--resume",
                    expected,
                    path.display().to_string(),
                ));
            }
            let mut folder = Self::take(&path)?;
            folder.is_begun = plan.is_begun(&path);
            return Ok(folder);
        }
        if plan.named.is_none() && !plan.force {
            for path in plan.numbered().filter(|path| is_free(path)) {
                match Self::take(&path) {
                    // Another process has begun in it, or has just filled it.
                    Err(ProgramError::InUse(_)) => {}
                    Ok(folder) if !is_free(&path) => drop(folder),
                    other => return other,
                }
            }
        }
        let path = plan.named.unwrap_or(Path::new(plan.default));
        if plan.force {
            let mut folder = Self::take(path)?;
            folder.replaced = plan.own;
            return Ok(folder);
        }
        if path.is_dir() && !is_free(path) {
            if path.join(LOCK).exists() {
                // Says who works in it, if somebody does.
                drop(Self::take(path)?);
            }
            return Err(plan.refused(path));
        }
        let folder = Self::take(path)?;
        match is_free(path) {
            true => Ok(folder),
            false => Err(plan.refused(path)),
        }
    }

    /// Creates the folder and its parents where they are missing, and locks it.
    fn take(path: &Path) -> Result<Self, ProgramError> {
        let folder = Self {
            path: path.to_path_buf(),
            made: Arc::default(),
            is_begun: false,
            replaced: &[],
        };
        // Known before it makes anything, so that a signal at any moment takes away all of it.
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|made| made.strong_count() > 0);
        open.push(Arc::downgrade(&folder.made));
        drop(open);
        let mut made = folder.made();
        if path.exists() {
            fs::read_dir(path).map_err(ProgramError::file("use as an output folder", path))?;
        } else {
            create_folders(path, &mut made)?;
        }
        let lock = FolderLock::acquire(path).map_err(|error| match error {
            LockError::InUse(in_use) => ProgramError::InUse(in_use),
            LockError::Io { path, source } => ProgramError::file("lock", &path)(source),
        })?;
        made.lock = Some(lock);
        drop(made);
        sweep(path);
        Ok(folder)
    }

    fn made(&self) -> std::sync::MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Path of the output folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it holds an interrupted run, which is to be gone on with.
    pub fn is_begun(&self) -> bool {
        self.is_begun
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The run really begins: with `--force`, the command's own files of an earlier run are removed. The first file that is
    /// written does the same.
    ///
    /// # Errors
    /// [`ProgramError::File`].
    pub fn begin(&mut self) -> Result<(), ProgramError> {
        for pattern in std::mem::take(&mut self.replaced) {
            remove_own(&self.path, pattern)?;
        }
        Ok(())
    }

    /// Writes a file in it, whole or not at all.
    ///
    /// # Errors
    /// As [`write_file`].
    pub fn write(
        &mut self,
        name: &str,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), ProgramError> {
        let path = self.claim(name)?;
        write_file(&path, write)
    }

    /// Writes indented JSON in it.
    ///
    /// # Errors
    /// As [`write_json`].
    pub fn write_json(&mut self, name: &str, value: &impl Serialize) -> Result<(), ProgramError> {
        let path = self.claim(name)?;
        write_json(&path, value)
    }

    /// The path of a file that something else will write, and that goes away with a failed run like the others, unless it
    /// was there before. The folders of its name are created.
    ///
    /// # Errors
    /// [`ProgramError::File`].
    pub fn claim(&mut self, name: &str) -> Result<PathBuf, ProgramError> {
        self.begin()?;
        let path = self.file(name);
        let mut made = self.made();
        if let Some(parent) = path.parent() {
            create_folders(parent, &mut made)?;
        }
        if !path.exists() {
            made.files.push(path.clone());
        }
        drop(made);
        Ok(path)
    }

    /// Removes a file of it, for example the saved state of a run that has finished.
    ///
    /// # Errors
    /// [`ProgramError::File`]; a file that is not there is no error.
    pub fn remove(&mut self, name: &str) -> Result<(), ProgramError> {
        let path = self.file(name);
        self.made().files.retain(|written| *written != path);
        absent_is_fine(fs::remove_file(&path)).map_err(ProgramError::file("remove", &path))
    }

    /// What is written so far is worth having: it stays, whatever happens later. Files written afterwards are again removed
    /// if this is not called once more.
    pub fn keep(&mut self) {
        let mut made = self.made();
        made.files.clear();
        made.folders.clear();
    }
}

impl Drop for OutputFolder {
    fn drop(&mut self) {
        self.made().undo();
    }
}

fn create_folders(path: &Path, made: &mut Made) -> Result<(), ProgramError> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|part| !part.as_os_str().is_empty() && !part.exists())
        .collect();
    for part in missing.into_iter().rev() {
        match fs::create_dir(part) {
            Ok(()) => made.folders.push(part.to_path_buf()),
            // Another process was faster; the lock decides.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && part.is_dir() => {}
            Err(error) => return Err(ProgramError::file("create", part)(error)),
        }
    }
    Ok(())
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes what a pattern of [`OutputPlan::own`] names, and the folder it lies in once that is empty.
fn remove_own(folder: &Path, pattern: &str) -> Result<(), ProgramError> {
    if let Some(tree) = pattern.strip_suffix('/') {
        let path = folder.join(tree);
        return absent_is_fine(fs::remove_dir_all(&path)).map_err(ProgramError::file("remove", &path));
    }
    let (below, name) = pattern.rsplit_once('/').unwrap_or(("", pattern));
    let parent = folder.join(below);
    let is_own = |found: &str| match name.split_once('*') {
        None => found == name,
        Some((first, last)) => {
            found.len() >= first.len() + last.len() && found.starts_with(first) && found.ends_with(last)
        }
    };
    for entry in fs::read_dir(&parent).into_iter().flatten().flatten() {
        let path = entry.path();
        if is_own(&entry.file_name().to_string_lossy()) && !path.is_dir() {
            absent_is_fine(fs::remove_file(&path)).map_err(ProgramError::file("remove", &path))?;
        }
    }
    if !below.is_empty() {
        // Somebody else's files may lie in it.
        let _ = fs::remove_dir(&parent);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
