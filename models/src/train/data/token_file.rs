//! Files of tokens: a header, then one number of two or four bytes per token, so that any of them can be reached at once.
//!
//! All numbers are little-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 0–7 | `SPILLTOK` |
//! | 8–11 | version of this format, 1 |
//! | 12–15 | bytes per id, 2 or 4 |
//! | 16–23 | number of ids |
//! | 24–31 | size of the vocabulary: every id is below it |
//! | 32–39 | number of documents, 0 if nobody counted |
//! | 40–47 | the id that ends every document, or 2⁶⁴ − 1 if they follow one another without |
//! | 48–55 | checksum of the ids, XXH3 with 64 bits |
//! | 56–63 | checksum of the header up to here |
//! | 64– | the ids |

use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::error::DataError;
use super::files::Mapped;
use crate::output::{NewFile, OutputError};

const MAGIC: [u8; 8] = *b"SPILLTOK";
const VERSION: u32 = 1;
const HEADER: usize = 64;
const NO_END: u64 = u64::MAX;

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenHeader {
    /// Bytes per id, 2 or 4.
    pub width: usize,
    /// Number of ids in the file.
    pub count: u64,
    /// Every id is below it.
    pub vocab_size: usize,
    /// Number of documents; 0 if nobody counted.
    pub documents: u64,
    /// The id that ends every document.
    pub end_of_text: Option<u32>,
    /// XXH3 of the ids' bytes.
    pub checksum: u64,
}

impl TokenHeader {
    /// Bytes of the whole file.
    pub fn bytes(&self) -> u64 {
        HEADER as u64 + self.count * self.width as u64
    }

    fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        // 2 or 4, so nothing is cut off.
        bytes[12..16].copy_from_slice(&(self.width as u32).to_le_bytes());
        let end_of_text = self.end_of_text.map_or(NO_END, u64::from);
        let numbers = [
            self.count,
            self.vocab_size as u64,
            self.documents,
            end_of_text,
            self.checksum,
        ];
        for (place, number) in bytes[16..56].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let checksum = xxh3_64(&bytes[..56]);
        bytes[56..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, DataError> {
        let wrong = |what, expected: String, found: String| DataError::TokenFile {
            path: path.to_path_buf(),
            what,
            expected,
            found,
        };
        let Some((header, ids)) = bytes.split_first_chunk::<HEADER>() else {
            let found = bytes.len().to_string();
            return Err(wrong("size in bytes", format!("at least {HEADER}"), found));
        };
        if header[..8] != MAGIC {
            let found = header[..8].escape_ascii().to_string();
            return Err(wrong(
                "first bytes",
                "SPILLTOK, as spillway tokens writes".into(),
                found,
            ));
        }
        let number = |at: usize| {
            let bytes = header[at..].first_chunk::<8>();
            // Every place asked for is at most 56, so there are eight bytes.
            bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
        };
        let (version, width) = (number(8) as u32, (number(8) >> 32) as usize);
        if version != VERSION {
            return Err(wrong("version", VERSION.to_string(), version.to_string()));
        }
        let computed = xxh3_64(&header[..56]);
        if number(56) != computed {
            let found = format!("{computed:016x}");
            return Err(wrong(
                "checksum of the header",
                format!("{:016x}", number(56)),
                found,
            ));
        }
        // The checksum only says that the header is as it was written, by whomever.
        if !matches!(width, 2 | 4) {
            return Err(wrong("bytes per id", "2 or 4".into(), width.to_string()));
        }
        let most = 1u64 << (8 * width as u32);
        let vocab_size = number(24);
        if !(1..=most).contains(&vocab_size) {
            let expected = format!("1 to {most}, as ids of {width} bytes allow");
            return Err(wrong("vocabulary size", expected, vocab_size.to_string()));
        }
        let count = number(16);
        if count.checked_mul(width as u64) != Some(ids.len() as u64) {
            let expected = format!("{width} for each of {count} ids");
            return Err(wrong("bytes after the header", expected, ids.len().to_string()));
        }
        let end_of_text = match number(40) {
            NO_END => None,
            id if id < vocab_size => u32::try_from(id).ok(),
            id => {
                let expected = format!("an id below the vocabulary size {vocab_size}, or none");
                return Err(wrong("end of text", expected, id.to_string()));
            }
        };
        Ok(Self {
            width,
            count,
            // Above 2³² − 1, which is as good as 2³², only where usize has more than 32 bits.
            vocab_size: usize::try_from(vocab_size).unwrap_or(usize::MAX),
            documents: number(32),
            end_of_text,
            checksum: number(48),
        })
    }
}

/// A file of tokens, mapped.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    header: TokenHeader,
    bytes: Mapped,
}

impl TokenFile {
    /// Maps a file and checks its header and its size, but not the ids; see [`TokenFile::verify`].
    ///
    /// # Errors
    /// [`DataError::Io`] when it cannot be read, [`DataError::TokenFile`] when it is damaged, cut off, or of another format.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let bytes = Mapped::open(path)?;
        Ok(Self {
            header: TokenHeader::parse(path, &bytes)?,
            path: path.to_path_buf(),
            bytes,
        })
    }

    /// What the header says.
    pub fn header(&self) -> TokenHeader {
        self.header
    }

    /// Reads everything and compares it with the checksum in the header.
    ///
    /// # Errors
    /// [`DataError::TokenFile`] when they differ.
    pub fn verify(&self) -> Result<(), DataError> {
        let computed = xxh3_64(self.ids());
        match computed == self.header.checksum {
            true => Ok(()),
            false => Err(DataError::TokenFile {
                path: self.path.clone(),
                what: "checksum of the ids",
                expected: format!("{:016x}", self.header.checksum),
                found: format!("{computed:016x}"),
            }),
        }
    }

    /// Copies ids from place `start` on; all of them must be in the file.
    ///
    /// # Errors
    /// [`DataError::Id`] for one that is not below the vocabulary size.
    pub(super) fn read(&self, start: usize, into: &mut [u32]) -> Result<(), DataError> {
        let width = self.header.width;
        let bytes = &self.ids()[start * width..][..into.len() * width];
        match width {
            2 => into.iter_mut().zip(bytes.as_chunks().0).for_each(|(id, bytes)| {
                *id = u32::from(u16::from_le_bytes(*bytes));
            }),
            _ => into.iter_mut().zip(bytes.as_chunks().0).for_each(|(id, bytes)| {
                *id = u32::from_le_bytes(*bytes);
            }),
        }
        match into.iter().position(|id| *id as usize >= self.header.vocab_size) {
            None => Ok(()),
            Some(index) => Err(DataError::Id {
                path: self.path.clone(),
                index: (start + index) as u64,
                vocab_size: self.header.vocab_size,
                found: into[index],
            }),
        }
    }

    fn ids(&self) -> &[u8] {
        // A parsed header is there.
        &self.bytes[HEADER..]
    }
}

/// Writes a file of tokens piece by piece. The file appears under its name when it is complete, or not at all.
pub struct TokenWriter {
    file: NewFile,
    path: PathBuf,
    header: TokenHeader,
    checksum: Xxh3,
    block: Vec<u8>,
}

impl TokenWriter {
    /// Begins a file for ids below `vocab_size`, two bytes each if that is enough.
    ///
    /// # Errors
    /// [`DataError::Write`] when the folder cannot be written, [`DataError::Option`] for an impossible vocabulary.
    pub fn create(path: &Path, vocab_size: usize, end_of_text: Option<u32>) -> Result<Self, DataError> {
        if vocab_size == 0 || vocab_size as u64 > 1 << 32 {
            return Err(DataError::option("vocabulary size", "1 to 2^32", vocab_size));
        }
        let mut file = NewFile::create(path)?;
        // Its place; what goes there is known at the end.
        file.writer()
            .write_all(&[0; HEADER])
            .map_err(OutputError::io(path, "writing"))?;
        Ok(Self {
            file,
            path: path.to_path_buf(),
            header: TokenHeader {
                width: if vocab_size <= 1 << 16 { 2 } else { 4 },
                count: 0,
                vocab_size,
                documents: 0,
                end_of_text,
                checksum: 0,
            },
            checksum: Xxh3::new(),
            block: Vec::new(),
        })
    }

    /// Adds ids.
    ///
    /// # Errors
    /// [`DataError::Id`] for one that the vocabulary does not have, [`DataError::Write`] when the disk is full.
    pub fn push(&mut self, ids: &[u32]) -> Result<(), DataError> {
        if let Some(index) = ids.iter().position(|id| *id as usize >= self.header.vocab_size) {
            return Err(DataError::Id {
                path: self.path.clone(),
                index: self.header.count + index as u64,
                vocab_size: self.header.vocab_size,
                found: ids[index],
            });
        }
        self.block.clear();
        match self.header.width {
            // Below the vocabulary size, which two bytes hold.
            2 => self
                .block
                .extend(ids.iter().flat_map(|id| (*id as u16).to_le_bytes())),
            _ => self.block.extend(ids.iter().flat_map(|id| id.to_le_bytes())),
        }
        self.checksum.update(&self.block);
        self.header.count += ids.len() as u64;
        let written = self.file.writer().write_all(&self.block);
        Ok(written.map_err(OutputError::io(&self.path, "writing"))?)
    }

    /// Completes the file, which holds `documents` (0 for unknown), and gives it its name.
    ///
    /// # Errors
    /// [`DataError::Write`] when the disk is full or the name cannot be taken.
    pub fn finish(mut self, documents: u64) -> Result<TokenHeader, DataError> {
        self.header.documents = documents;
        self.header.checksum = self.checksum.digest();
        let header = self.header.to_bytes();
        let out = self.file.writer();
        let written = out.rewind().and_then(|()| out.write_all(&header));
        written.map_err(OutputError::io(&self.path, "writing"))?;
        self.file.commit()?;
        Ok(self.header)
    }
}
