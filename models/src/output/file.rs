//! A file under a temporary name until it is complete.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use tempfile::TempPath;

use super::error::OutputError;
use super::target::{Target, target};
use super::{parent, sync_folder, temporary};

/// A file under a temporary name. [`NewFile::commit`] gives it its real name; dropping it before that removes it.
///
/// A device or a pipe gets the whole content on commit, and stays what it is.
#[derive(Debug)]
pub struct NewFile {
    out: BufWriter<File>,
    destination: Destination,
    path: PathBuf,
}

#[derive(Debug)]
enum Destination {
    /// A temporary file beside the one that it will replace.
    Beside { temporary: TempPath, target: PathBuf },
    /// A nameless file, whose content will go to this.
    Apart { target: File },
}

impl NewFile {
    /// Begins a file that will replace whatever file `path` names, in one step, when it is complete.
    ///
    /// # Errors
    /// [`OutputError::Io`] when the folder cannot be written, or `path` names a folder.
    pub fn create(path: &Path) -> Result<Self, OutputError> {
        Self::begin(path).map_err(OutputError::io(path, "creating"))
    }

    fn begin(path: &Path) -> io::Result<Self> {
        let (file, destination) = match target(path)? {
            Target::File(target) => {
                let (file, temporary) = temporary::new_file(parent(&target))?;
                (file, Destination::Beside { temporary, target })
            }
            Target::InPlace(path) => {
                // At the end of what is there: standard output may be a file that others add to.
                let target = File::options().append(true).open(path)?;
                (tempfile::tempfile()?, Destination::Apart { target })
            }
        };
        Ok(Self {
            out: BufWriter::with_capacity(1 << 20, file),
            destination,
            path: path.to_path_buf(),
        })
    }

    /// Buffered writer of the file's contents.
    pub fn writer(&mut self) -> &mut BufWriter<File> {
        &mut self.out
    }

    /// Writes out what is buffered, waits until it is on the disk, and gives the file its real name.
    ///
    /// # Errors
    /// [`OutputError::Io`] when the disk is full or the name cannot be taken.
    pub fn commit(self) -> Result<(), OutputError> {
        let path = self.path.clone();
        self.finish(true).map_err(OutputError::io(&path, "writing"))
    }

    /// As [`NewFile::commit`] without waiting for the disk: after a power failure the file may be there and incomplete, for
    /// readers that can tell.
    ///
    /// # Errors
    /// As [`NewFile::commit`].
    pub fn commit_unsynced(self) -> Result<(), OutputError> {
        let path = self.path.clone();
        self.finish(false).map_err(OutputError::io(&path, "writing"))
    }

    fn finish(self, sync: bool) -> io::Result<()> {
        let mut file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        match self.destination {
            Destination::Apart { mut target } => {
                file.rewind()?;
                io::copy(&mut file, &mut target)?;
                target.flush()
            }
            Destination::Beside { temporary, target } => {
                if let Ok(replaced) = fs::metadata(&target) {
                    // Who may not do that may still write the file.
                    let _ = file.set_permissions(replaced.permissions());
                }
                // Some file systems notice a full disk only here.
                if sync {
                    file.sync_all()?;
                }
                temporary.persist(&target).map_err(|error| error.error)?;
                if sync {
                    sync_folder(parent(&target))?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};

    fn write(path: &Path, text: &str) -> Result<(), OutputError> {
        let mut file = NewFile::create(path)?;
        file.writer()
            .write_all(text.as_bytes())
            .map_err(OutputError::io(path, "writing"))?;
        file.commit()
    }

    #[test]
    fn a_link_stays_and_the_file_behind_it_is_replaced_with_its_permissions() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (link, file) = (folder.path().join("link"), folder.path().join("file"));
        fs::write(&file, "old").expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("allowed");
        symlink("file", &link).expect("linked");
        write(&link, "new").expect("written");
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        assert_eq!(fs::read_to_string(&file).expect("there"), "new");
        assert_eq!(
            fs::metadata(&file).expect("there").permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 2);
    }

    #[test]
    fn a_link_planted_at_a_temporary_name_is_not_written_through() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let precious = folder.path().join("precious");
        fs::write(&precious, "kept").expect("written");
        let planted = [".report.json.tmp", ".spillway-000000000000.tmp", ".spillway-.tmp"];
        for name in planted {
            symlink(&precious, folder.path().join(name)).expect("linked");
        }
        write(&folder.path().join("report.json"), "new").expect("written");
        assert_eq!(fs::read_to_string(&precious).expect("there"), "kept");
    }

    #[test]
    fn a_pipe_gets_the_content_and_stays_a_pipe() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.is_ok_and(|status| status.success()), "no pipe");
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read_to_string(pipe)
        });
        write(&pipe, "content").expect("written");
        let read = reader.join().expect("the reader ends").expect("read");
        assert_eq!(read, "content");
        assert!(fs::metadata(&pipe).expect("there").file_type().is_fifo());
    }

    #[test]
    fn a_full_device_is_an_error_and_stays_a_device() {
        let device = Path::new("/dev/full");
        let error = write(device, "x").expect_err("it takes nothing");
        assert!(error.to_string().contains("No space left"), "{error}");
        assert!(fs::metadata(device).expect("there").file_type().is_char_device());
    }
}
