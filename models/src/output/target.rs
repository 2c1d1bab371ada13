//! What is written when a path is given: the file of that name, the file that a link points to, or a device in place.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::parent;

/// As many links as Linux follows.
const MOST_LINKS: usize = 40;

/// Where a file's content goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A regular file, there already or not: it is replaced as a whole.
    File(PathBuf),
    /// A device, a pipe, or another thing that is written to and stays what it is.
    InPlace(PathBuf),
}

/// Whether what `path` names is written to in place, as devices and pipes are, and never replaced.
pub fn is_written_in_place(path: &Path) -> bool {
    matches!(target(path), Ok(Target::InPlace(_)))
}

/// # Errors
/// What the system says of a path that cannot be looked at; a folder, and links that go round in a circle.
pub(super) fn target(path: &Path) -> io::Result<Target> {
    let mut at = path.to_path_buf();
    for _ in 0..MOST_LINKS {
        if is_of_the_system(&at) {
            return Ok(Target::InPlace(path.to_path_buf()));
        }
        match fs::symlink_metadata(&at) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Target::File(at)),
            Err(error) => return Err(error),
            Ok(found) if found.is_symlink() => at = parent(&at).join(fs::read_link(&at)?),
            Ok(found) if found.is_file() => return Ok(Target::File(at)),
            Ok(found) if found.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(_) => return Ok(Target::InPlace(path.to_path_buf())),
        }
    }
    Err(io::Error::other("too many links, one to the next"))
}

/// What lies below `/dev` or `/proc`, `/dev/stdout` among it, belongs to the system, whatever it is. Files in `/dev/shm` are
/// ordinary ones.
fn is_of_the_system(path: &Path) -> bool {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let below = |folder: &str| path.starts_with(folder);
    cfg!(unix) && (below("/dev") || below("/proc")) && !below("/dev/shm")
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_lead_to_the_file_behind_them_and_devices_are_never_files() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        symlink("b", path("a")).expect("linked");
        symlink(path("c"), path("b")).expect("linked");
        // Dangling: the file behind it is the one to make.
        assert_eq!(target(&path("a")).expect("found"), Target::File(path("c")));
        fs::write(path("c"), "").expect("written");
        assert_eq!(target(&path("a")).expect("found"), Target::File(path("c")));
        symlink("/dev/full", path("full")).expect("linked");
        for device in [
            path("full"),
            "/dev/full".into(),
            "/dev/stdout".into(),
            "/dev/fd/1".into(),
        ] {
            assert!(is_written_in_place(&device), "{}", device.display());
        }
        symlink("circle", path("circle")).expect("linked");
        target(&path("circle")).expect_err("a circle leads nowhere");
        target(folder.path()).expect_err("a folder is no file");
    }
}
