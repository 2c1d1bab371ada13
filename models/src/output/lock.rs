//! A folder for one process at a time.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Name of the file that the lock is on. It goes with the lock; one that a killed process has left is taken over.
pub const LOCK: &str = ".spillway.lock";
/// Most characters that are told of who holds a lock.
const HOLDER: usize = 160;
/// Times to begin again when the file is removed between its opening and its locking.
const ATTEMPTS: usize = 64;

/// Another process writes into the folder.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}: in use by {holder}; wait for it, or name another folder", folder.display())]
pub struct InUse {
    /// Folder that another process writes into.
    pub folder: PathBuf,
    /// Who writes there, as it says itself.
    pub holder: String,
}

/// Why a folder cannot be had.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process holds the folder's lock.
    #[error(transparent)]
    InUse(#[from] InUse),
    /// The lock's file cannot be made.
    #[error("{}: locking failed: {source}", path.display())]
    Io {
        /// Path of the lock's file in the folder.
        path: PathBuf,
        /// Error that the operating system reported.
        source: io::Error,
    },
}

/// The right to write into a folder, until it is dropped or the process ends, however it does.
#[derive(Debug)]
pub struct FolderLock {
    path: PathBuf,
    _file: File,
    failure: Option<String>,
}

impl FolderLock {
    /// Takes a folder that is there for this process.
    ///
    /// # Errors
    /// [`LockError::InUse`] when another process, or another part of this one, has it, [`LockError::Io`] when the lock's file
    /// cannot be made.
    pub fn acquire(folder: &Path) -> Result<Self, LockError> {
        Self::acquire_with(folder, File::try_lock)
    }

    fn acquire_with(
        folder: &Path,
        try_lock: impl Fn(&File) -> Result<(), TryLockError>,
    ) -> Result<Self, LockError> {
        let path = folder.join(LOCK);
        let failed = |source| LockError::Io {
            path: path.clone(),
            source,
        };
        for _ in 0..ATTEMPTS {
            let mut file = match open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file.map_err(failed)?,
            };
            let failure = match try_lock(&file) {
                Ok(()) if is_still(&file, &path) => None,
                // The one who had it has just removed it.
                Ok(()) => continue,
                Err(TryLockError::WouldBlock) => {
                    return Err(InUse {
                        folder: folder.to_path_buf(),
                        holder: holder(&mut file),
                    }
                    .into());
                }
                Err(TryLockError::Error(error)) => Some(error.to_string()),
            };
            // It only says who has the folder: a disk that is full is met again.
            let _ = file
                .set_len(0)
                .and_then(|()| file.write_all(this_process().as_bytes()));
            return Ok(Self {
                path,
                _file: file,
                failure,
            });
        }
        Err(failed(io::Error::other("it is made and removed again and again")))
    }

    /// Why nothing keeps other processes out: the file system has no locks. `None` where it has.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Still locked: whoever has opened it meanwhile will see that it is gone.
        let _ = fs::remove_file(&self.path);
    }
}

/// Opens the file itself, not what a link in its place points to, or makes it.
fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true);
    match options.clone().create_new(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made,
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    }
    options.open(path)
}

/// Whether the open file is the one of that name.
#[cfg(unix)]
fn is_still(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let place = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let (open, named) = (file.metadata(), fs::symlink_metadata(path));
    open.ok().map(place) == named.ok().map(place)
}

#[cfg(not(unix))]
fn is_still(_: &File, path: &Path) -> bool {
    path.exists()
}

/// `process 4711 on ada (spillway diagnose --out x)`.
fn this_process() -> String {
    let arguments: Vec<String> = std::env::args_os()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = match host.trim() {
        "" => String::new(),
        host => format!(" on {host}"),
    };
    let process = std::process::id();
    printable(&format!("process {process}{host} ({})", arguments.join(" ")))
}

/// What the file says.
fn holder(file: &mut File) -> String {
    let mut bytes = Vec::new();
    // Whatever can be read of it will do.
    let _ = file
        .rewind()
        .and_then(|()| file.take(4096).read_to_end(&mut bytes));
    match printable(&String::from_utf8_lossy(&bytes)) {
        holder if holder.is_empty() => "another process".into(),
        holder => holder,
    }
}

/// The first [`HOLDER`] characters of `text` as one line, with blanks for control characters.
fn printable(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let mut line: String = text.chars().map(plain).take(HOLDER).collect();
    if text.chars().count() > HOLDER {
        line.push('…');
    }
    line.trim().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_one_holder_s_and_the_next_is_told_whose() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let first = FolderLock::acquire(folder.path()).expect("free");
        let refused = FolderLock::acquire(folder.path()).expect_err("taken");
        let process = format!("in use by process {}", std::process::id());
        assert!(refused.to_string().contains(&process), "{refused}");
        drop(first);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
        FolderLock::acquire(folder.path()).expect("free again");
    }

    #[test]
    fn what_a_killed_process_has_left_is_no_lock() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join(LOCK), "process 1 (gone)").expect("written");
        FolderLock::acquire(folder.path()).expect("nobody holds it");
    }

    #[test]
    fn a_file_system_without_locks_is_no_obstacle_but_is_said() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let none = |_: &File| Err(TryLockError::Error(io::ErrorKind::Unsupported.into()));
        let lock = FolderLock::acquire_with(folder.path(), none).expect("goes on");
        assert_eq!(lock.failure(), Some("unsupported"));
        drop(lock);
        let works = FolderLock::acquire(folder.path()).expect("free");
        assert_eq!(works.failure(), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_planted_at_the_lock_s_name_is_refused_and_not_written_through() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let precious = folder.path().join("precious");
        fs::write(&precious, "kept").expect("written");
        std::os::unix::fs::symlink(&precious, folder.path().join(LOCK)).expect("linked");
        FolderLock::acquire(folder.path()).expect_err("a link");
        assert_eq!(fs::read_to_string(&precious).expect("there"), "kept");
    }

    #[test]
    fn control_characters_of_a_holder_do_not_reach_the_terminal() {
        assert_eq!(printable("process 1\u{1b}[2J\n"), "process 1 [2J");
        assert_eq!(printable(&"x".repeat(500)).chars().count(), HOLDER + 1);
    }
}
