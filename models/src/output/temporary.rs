//! Temporary names: how they are made, and how those that a killed process has left are told from those in use.
//!
//! Whoever makes one holds a lock on it as long as it is in use, so a name whose lock is free belongs to nobody.

use std::collections::HashSet;
use std::fs::{self, File, Metadata, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tempfile::{Builder, TempPath};

const PREFIX: &str = ".spillway-";
const SUFFIX: &str = ".tmp";
/// Characters of a name that nobody can guess.
const RANDOM: usize = 12;
/// Times to begin again when somebody else removes what was just made.
const ATTEMPTS: usize = 8;
/// Where locks do not work, what is older than this belongs to nobody.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// Whether this is the temporary name of a file or folder that is, or was, being written.
pub fn is_leftover(name: &str) -> bool {
    name.starts_with(PREFIX) && name.ends_with(SUFFIX)
}

/// A new file in `folder`, with the permissions that the umask gives, and a lock on it.
pub(super) fn new_file(folder: &Path) -> io::Result<(File, TempPath)> {
    made(folder, |path| {
        // Fails where there is something of that name, a dangling link included.
        File::options().read(true).write(true).create_new(true).open(path)
    })
}

/// A new folder in `folder`, and the lock on it.
pub(super) fn new_folder(folder: &Path) -> io::Result<(Option<File>, PathBuf)> {
    let (lock, path) = made(folder, |path| {
        fs::create_dir(path)?;
        // Where folders cannot be opened there is no lock on them.
        Ok(Handle(File::open(path).ok()))
    })?;
    // It is a folder, which `TempPath` would not remove.
    let path = path.keep().map_err(|error| error.error)?;
    Ok((lock.0, path))
}

/// Something that a lock can be held on.
trait Held {
    fn file(&self) -> Option<&File>;
}

impl Held for File {
    fn file(&self) -> Option<&File> {
        Some(self)
    }
}

struct Handle(Option<File>);

impl Held for Handle {
    fn file(&self) -> Option<&File> {
        self.0.as_ref()
    }
}

fn made<F: Held>(folder: &Path, mut make: impl FnMut(&Path) -> io::Result<F>) -> io::Result<(F, TempPath)> {
    sweep_once(folder);
    for _ in 0..ATTEMPTS {
        let mut builder = Builder::new();
        builder.prefix(PREFIX).suffix(SUFFIX).rand_bytes(RANDOM);
        let (made, path) = builder.make_in(folder, &mut make)?.into_parts();
        // A sweep that was faster than the lock has removed it, or is about to: then the lock is not to be had.
        if made.file().is_none_or(hold) && path.symlink_metadata().is_ok() {
            return Ok((made, path));
        }
    }
    Err(io::Error::other("whatever is made here is removed at once"))
}

/// Takes the lock on what was just made; false if a sweep has it.
fn hold(file: &File) -> bool {
    // Without locks, nobody removes what is new.
    !matches!(file.try_lock(), Err(TryLockError::WouldBlock))
}

/// Removes what killed processes have left in a folder: temporary names that nobody holds. What cannot be removed stays, and
/// harms nobody.
pub fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !is_leftover(&entry.file_name().to_string_lossy()) {
            continue;
        }
        // Of the name itself, not of what a link of that name points to.
        let Ok(metadata) = entry.metadata() else { continue };
        let path = entry.path();
        if let Some(_lock) = abandoned(&path, &metadata) {
            let _ = match metadata.is_dir() {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            };
        }
    }
}

/// Once for each folder and process: later ones find nothing new.
fn sweep_once(folder: &Path) {
    static SWEPT: Mutex<Option<HashSet<PathBuf>>> = Mutex::new(None);
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
    let mut swept = SWEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if swept.get_or_insert_default().insert(folder.clone()) {
        drop(swept);
        sweep(&folder);
    }
}

/// The lock on a temporary file or folder that nobody holds; no lock where locks do not work and it is old enough.
fn abandoned(path: &Path, metadata: &Metadata) -> Option<Option<File>> {
    if !metadata.is_file() && !metadata.is_dir() {
        return None;
    }
    let is_old = || {
        let modified = metadata.modified().ok()?;
        let age = SystemTime::now().duration_since(modified).ok()?;
        (age > ABANDONED).then_some(None)
    };
    match open(path).map(|file| (file.try_lock(), file)) {
        Ok((Ok(()), file)) => Some(Some(file)),
        Ok((Err(TryLockError::WouldBlock), _)) => None,
        Ok((Err(TryLockError::Error(_)), _)) | Err(_) => is_old(),
    }
}

/// Opens what is itself of that name, without waiting.
fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    }
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_holds_is_swept_and_what_is_in_use_stays() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        let (_file, used) = new_file(folder.path()).expect("made");
        let (_lock, used_folder) = new_folder(folder.path()).expect("made");
        // As killed processes leave them: there, and not locked.
        fs::write(path(".spillway-left.tmp"), "half").expect("written");
        fs::create_dir(path(".spillway-leftfolder.tmp")).expect("made");
        fs::write(path(".spillway-leftfolder.tmp/half"), "half").expect("written");
        for mine in [".notes.tmp", "spillway-x.tmp", ".spillway-notes"] {
            fs::write(path(mine), "mine").expect("written");
        }
        sweep(folder.path());
        for gone in [".spillway-left.tmp", ".spillway-leftfolder.tmp"] {
            assert!(!path(gone).exists(), "{gone}");
        }
        for kept in [".notes.tmp", "spillway-x.tmp", ".spillway-notes"] {
            assert!(path(kept).exists(), "{kept}");
        }
        assert!(used.exists() && used_folder.exists());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_of_such_a_name_is_not_followed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mine = folder.path().join("mine");
        fs::create_dir(&mine).expect("made");
        fs::write(mine.join("precious"), "kept").expect("written");
        std::os::unix::fs::symlink(&mine, folder.path().join(".spillway-link.tmp")).expect("linked");
        sweep(folder.path());
        assert_eq!(fs::read_to_string(mine.join("precious")).expect("there"), "kept");
    }

    #[cfg(unix)]
    #[test]
    fn what_is_new_has_the_permissions_that_the_umask_gives() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let plain = folder.path().join("plain");
        fs::write(&plain, "").expect("written");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode();
        let (_file, path) = new_file(folder.path()).expect("made");
        assert_eq!(mode(&path), mode(&plain));
    }

    /// As when another thread sweeps between the making of a name and the lock on it, before and after it is opened.
    #[test]
    fn what_a_sweep_takes_while_it_is_being_made_is_made_again() {
        for is_open in [false, true] {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let mut times = 0;
            let (_lock, path) = made(folder.path(), |path| {
                times += 1;
                fs::create_dir(path)?;
                let opened = is_open.then(|| File::open(path).ok()).flatten();
                if times < 3 {
                    sweep(folder.path());
                }
                Ok(Handle(opened.or_else(|| File::open(path).ok())))
            })
            .expect("made");
            assert_eq!((times, path.is_dir()), (3, true), "opened before: {is_open}");
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let made = made(folder.path(), |path| {
            let file = File::create_new(path)?;
            sweep(folder.path());
            Ok(file)
        });
        assert!(made.is_err());
    }
}
