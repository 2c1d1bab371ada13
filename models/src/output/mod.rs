//! Files that are whole or absent, folders likewise, and folders that one process has for itself.
//!
//! | question | answer |
//! |---|---|
//! | where does a file grow? | under an unpredictable name (`.spillway-….tmp`) in its own folder, made anew: whoever plants a link there gains nothing |
//! | when does it get its name? | when it is complete and on the disk, in one step; the folder is brought to the disk as well |
//! | what of a file that is there? | it is replaced in that step, and keeps its permissions; a new one has those that the umask gives |
//! | what of a link? | it stays, and the file that it points to is replaced |
//! | what of devices, pipes and everything else below `/dev` and `/proc`? | they are written to in place, at the end, and never replaced |
//! | what does a killed process leave? | temporary names, which the next that writes in that folder removes: their locks are free |
//!
//! Locks are the system's advisory ones (`flock` where there is one). They go with the process, however it ends.

mod error;
mod file;
mod folder;
mod lock;
mod target;
mod temporary;

pub use error::OutputError;
pub use file::NewFile;
pub use folder::{NewFolder, is_free};
pub use lock::{FolderLock, InUse, LOCK, LockError};
pub use target::is_written_in_place;
pub use temporary::{is_leftover, sweep};

use std::fs::File;
use std::io;
use std::path::Path;

/// The folder that a path lies in, as something that can be opened.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes the names in a folder durable, where folders can be.
fn sync_folder(folder: &Path) -> io::Result<()> {
    // Elsewhere folders cannot be opened as files; nor can those be that may be written and not read.
    let Ok(folder) = File::open(folder) else {
        return Ok(());
    };
    match folder.sync_all() {
        // Some file systems have no such thing.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}
