//! A file fetched: from where an earlier attempt stopped, again where the connection breaks, and held against its hash.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::client::{Client, FileInfo};
use super::store::make_folder_of;
use super::{HubError, OnProgress};

/// Bytes read at a time.
const BLOCK: usize = 1 << 16;
/// Attempts one after another that bring nothing.
const MOST_FAILURES: u32 = 3;
/// Before the next attempt after one that brought nothing, times how many that were.
const PAUSE: Duration = Duration::from_millis(500);

/// A file on its way to its blob.
struct Partial<'a> {
    url: &'a str,
    info: &'a FileInfo,
    path: PathBuf,
    file: File,
    hash: Hash,
    /// Bytes that are there.
    done: u64,
    /// Bytes that came, those that were thrown away included.
    fetched: u64,
}

/// Fetches what is missing of a file, and gives it its name when it is whole and what the hub says; how many bytes were fetched.
pub(super) fn fetch(
    client: &Client<'_>,
    (url, name): (&str, &str),
    info: &FileInfo,
    blob: &Path,
    on_progress: &mut OnProgress<'_>,
) -> Result<u64, HubError> {
    make_folder_of(blob)?;
    let mut partial = Partial::open(url, info, blob)?;
    let mut failures = 0;
    on_progress(name, partial.done, info.bytes);
    while partial.done < info.bytes {
        let before = partial.fetched;
        let outcome = client.rest(url, partial.done).and_then(|rest| {
            partial.take(rest.begin, rest.bytes, &mut |done| {
                on_progress(name, done, info.bytes)
            })
        });
        failures = if partial.fetched > before { 0 } else { failures + 1 };
        match outcome {
            Err(error) if !is_passing(&error) || failures >= MOST_FAILURES => return Err(error),
            Ok(()) if failures >= MOST_FAILURES => {
                return Err(HubError::Connection {
                    url: url.into(),
                    reason: format!("{} of {} bytes came, again and again", partial.done, info.bytes),
                });
            }
            _ => std::thread::sleep(PAUSE * failures),
        }
    }
    let fetched = partial.fetched;
    partial.finish(blob)?;
    Ok(fetched)
}

/// Whether it may go better next time.
fn is_passing(error: &HubError) -> bool {
    match error {
        HubError::Connection { .. } => true,
        HubError::Status { status, .. } => *status == 429 || *status >= 500,
        _ => false,
    }
}

impl<'a> Partial<'a> {
    /// What an earlier attempt has left, or nothing yet.
    fn open(url: &'a str, info: &'a FileInfo, blob: &Path) -> Result<Self, HubError> {
        let mut path = blob.as_os_str().to_owned();
        path.push(".incomplete");
        let path = PathBuf::from(path);
        let mut options = File::options();
        let file = options.create(true).read(true).write(true).truncate(false);
        let mut file = file.open(&path).map_err(HubError::io(&path, "opening"))?;
        let mut hash = Hash::of(info);
        let mut done = 0;
        let mut block = vec![0; BLOCK];
        loop {
            match file.read(&mut block).map_err(HubError::io(&path, "reading"))? {
                0 => break,
                read => {
                    hash.update(&block[..read]);
                    done += read as u64;
                }
            }
        }
        let mut partial = Self {
            url,
            info,
            path,
            file,
            hash,
            done,
            fetched: 0,
        };
        if done > info.bytes {
            partial.restart()?;
        }
        Ok(partial)
    }

    /// Begins again from nothing.
    fn restart(&mut self) -> Result<(), HubError> {
        let emptied = self
            .file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(HubError::io(&self.path, "writing"))?;
        (self.done, self.hash) = (0, Hash::of(self.info));
        Ok(())
    }

    /// Takes in bytes that begin at `begin`, until they end or there are enough.
    fn take(
        &mut self,
        begin: u64,
        bytes: Box<dyn Read>,
        on_bytes: &mut dyn FnMut(u64),
    ) -> Result<(), HubError> {
        if begin != self.done {
            self.restart()?;
        }
        let mut bytes = bytes.take(self.info.bytes - self.done);
        let mut block = vec![0; BLOCK];
        loop {
            let read = bytes.read(&mut block).map_err(|error| HubError::Connection {
                url: self.url.into(),
                reason: error.to_string(),
            })?;
            if read == 0 {
                return Ok(());
            }
            let block = &block[..read];
            self.file
                .write_all(block)
                .map_err(HubError::io(&self.path, "writing"))?;
            self.hash.update(block);
            self.done += read as u64;
            self.fetched += read as u64;
            on_bytes(self.done);
        }
    }

    /// Gives the file its name, if it is what it should be; removes it otherwise.
    fn finish(self, blob: &Path) -> Result<(), HubError> {
        let expected = &self.info.hash;
        if let Some(found) = self.hash.finish()
            && !found.eq_ignore_ascii_case(expected)
        {
            fs::remove_file(&self.path).map_err(HubError::io(&self.path, "removing"))?;
            return Err(HubError::Checksum {
                url: self.url.into(),
                expected: expected.clone(),
                found,
            });
        }
        self.file
            .sync_all()
            .and_then(|()| fs::rename(&self.path, blob))
            .map_err(HubError::io(blob, "writing"))
    }
}

/// The hash that a hub names a file by, of what has come so far.
enum Hash {
    /// Hash of a large file: SHA-256 of its contents.
    Large(Sha256),
    /// Hash of a small file, as git has it: SHA-1 of `blob`, its size, a zero, and its contents.
    Git(Sha1),
    /// Something else, which only the server understands.
    Unknown,
}

impl Hash {
    fn of(info: &FileInfo) -> Self {
        let is_hex = info.hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        match (is_hex, info.hash.len()) {
            (true, 64) => Self::Large(Sha256::new()),
            (true, 40) => {
                let header = format!("blob {}\0", info.bytes);
                Self::Git(Sha1::new_with_prefix(header))
            }
            _ => Self::Unknown,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Large(hash) => hash.update(bytes),
            Self::Git(hash) => hash.update(bytes),
            Self::Unknown => {}
        }
    }

    fn finish(&self) -> Option<String> {
        match self {
            Self::Large(hash) => Some(hex(&hash.clone().finalize())),
            Self::Git(hash) => Some(hex(&hash.clone().finalize())),
            Self::Unknown => None,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hashes expected are those of `hello\n`, as sha256sum and git hash-object print them.
    #[test]
    fn files_are_hashed_as_the_hub_names_them() {
        let hash = |name: &str| {
            let info = FileInfo {
                hash: name.into(),
                bytes: 6,
            };
            let mut hash = Hash::of(&info);
            hash.update(b"hel");
            hash.update(b"lo\n");
            hash.finish()
        };
        let large = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(hash(large).as_deref(), Some(large));
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        assert_eq!(hash(git).as_deref(), Some(git));
        assert_eq!(hash("abc-1"), None);
    }
}
