//! Files that somebody names, read so that nothing hangs and nothing grows without bound.
//!
//! A pipe that nobody writes to never opens, `/dev/zero` never ends, and a file of another kind may be larger than memory. So
//! the kind is looked at before a file is opened, its size before it is read, and no more than a limit is read whatever the
//! size says. The errors are [`std::io::Error`]s, for the callers to name the file.

use std::fs::{File, FileType, Metadata};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use crate::budget;

/// The longest `config.json`, training configuration, log or report that is read.
pub const MAX_SETTINGS: u64 = 64 << 20;

/// The longest text that is read into memory as a whole.
pub const MAX_TEXT: u64 = 4 << 30;

/// Opens a regular file, or one that a link leads to.
///
/// # Errors
/// The system's; [`ErrorKind::InvalidInput`] for a folder, a pipe, a device or a socket.
pub fn open(path: &Path) -> io::Result<(File, Metadata)> {
    expect_regular(std::fs::metadata(path)?.file_type())?;
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    expect_regular(metadata.file_type())?;
    Ok((file, metadata))
}

/// Reads a whole regular file of at most `limit` bytes.
///
/// # Errors
/// As [`open`]; [`ErrorKind::FileTooLarge`] for a longer one, [`ErrorKind::OutOfMemory`] where there is no memory for it.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let (file, metadata) = open(path)?;
    if metadata.len() > limit {
        return Err(too_long(metadata.len(), limit));
    }
    let advice = "give a shorter file";
    budget::ask("the file's bytes", Some(metadata.len()), advice)
        .map_err(|error| io::Error::new(ErrorKind::OutOfMemory, error))?;
    // A file may have grown since its size was read, and those of /proc have none.
    read_up_to(file, limit)
}

/// As [`read`], for a file of text in UTF-8.
///
/// # Errors
/// As [`read`]; [`ErrorKind::InvalidData`] where it is not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    text(read(path, limit)?)
}

/// Reads what is also read where it comes from a pipe: a text. Of a file that has no end, `limit` bytes are read before it is
/// refused.
///
/// # Errors
/// As [`read`], but for pipes and devices. Of those no more is read than a quarter of the memory that there is.
pub fn read_stream(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let kind = std::fs::metadata(path)?.file_type();
    match kind.is_file() || kind.is_dir() {
        true => read(path, limit),
        // Bytes that grow are copied on the way.
        false => read_up_to(File::open(path)?, limit.min(budget::available().bytes / 4)),
    }
}

/// What is left of `source`, which is refused when it is more than `limit` bytes.
///
/// # Errors
/// The source's; [`ErrorKind::FileTooLarge`].
pub fn read_up_to(source: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > limit {
        true => Err(io::Error::new(
            ErrorKind::FileTooLarge,
            format!("longer than {}, the most that is read here", budget::size(limit)),
        )),
        false => Ok(bytes),
    }
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        io::Error::new(
            ErrorKind::InvalidData,
            format!(
                "expected UTF-8, found byte {:#04x} at offset {at}",
                error.as_bytes()[at]
            ),
        )
    })
}

fn too_long(bytes: u64, limit: u64) -> io::Error {
    let (bytes, limit) = (budget::size(bytes), budget::size(limit));
    io::Error::new(
        ErrorKind::FileTooLarge,
        format!("it has {bytes}, and at most {limit} are read here"),
    )
}

fn expect_regular(kind: FileType) -> io::Result<()> {
    match kind.is_file() {
        true => Ok(()),
        false => Err(io::Error::new(
            ErrorKind::InvalidInput,
            format!("expected a regular file, found {}", name(kind)),
        )),
    }
}

/// What a file is that is not a regular one.
fn name(kind: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return "a named pipe";
        }
        if kind.is_socket() {
            return "a socket";
        }
        if kind.is_char_device() || kind.is_block_device() {
            return "a device";
        }
    }
    match kind.is_dir() {
        true => "a folder",
        false => "a special file",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_longer_than_the_limit_is_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("text");
        std::fs::write(&path, b"12345").expect("written");
        assert_eq!(read(&path, 5).expect("read"), b"12345");
        let error = read(&path, 4).expect_err("too long");
        assert_eq!(error.to_string(), "it has 5 B, and at most 4 B are read here");
        assert_eq!(
            read_up_to(io::repeat(0), 1000).expect_err("endless").kind(),
            ErrorKind::FileTooLarge
        );
    }

    #[cfg(unix)]
    #[test]
    fn folders_devices_and_sockets_are_named_and_not_opened() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("socket");
        let _listening = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        for (path, name) in [
            (folder.path(), "a folder"),
            (Path::new("/dev/zero"), "a device"),
            (&socket, "a socket"),
        ] {
            let message = read(path, 100).expect_err("refused").to_string();
            assert_eq!(message, format!("expected a regular file, found {name}"));
        }
    }

    #[test]
    fn text_that_is_not_utf8_is_refused_with_the_place() {
        assert_eq!(
            text(b"ab\xff".to_vec()).expect_err("not UTF-8").to_string(),
            "expected UTF-8, found byte 0xff at offset 2"
        );
    }
}
