//! The directory of a zip archive whose entries are stored as they are.
//!
//! Format: APPNOTE.TXT 6.3, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.14 to 4.3.16 (its end, in 32 and in
//! 64 bits). Read here because all that is wanted is where an entry's bytes lie in the mapped file: nothing is unpacked, and
//! whatever is compressed is refused.

use std::collections::BTreeMap;
use std::ops::Range;

use super::error::PthError;

const LOCAL_HEADER: &[u8; 4] = b"PK\x03\x04";
const DIRECTORY_HEADER: &[u8; 4] = b"PK\x01\x02";
const END: &[u8; 4] = b"PK\x05\x06";
const END64_LOCATOR: &[u8; 4] = b"PK\x06\x07";
const END64: &[u8; 4] = b"PK\x06\x06";
/// The end record without its comment, and the longest comment.
const END_BYTES: usize = 22;
const MAX_COMMENT: usize = 0xFFFF;
/// Tag of the field that holds what does not fit into 32 bits.
const EXTRA64: u16 = 1;

/// Where the entries of an archive lie.
#[derive(Debug)]
pub(super) struct Archive(BTreeMap<String, Range<usize>>);

impl Archive {
    /// Whether a file begins as an archive does.
    pub(super) fn is_one(bytes: &[u8]) -> bool {
        bytes.starts_with(LOCAL_HEADER)
    }

    /// Reads the directory of a whole file.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, PthError> {
        let (directory, count) = find_directory(bytes)?;
        let mut records = Bytes(&bytes[directory.clone()]);
        let mut entries = BTreeMap::new();
        for index in 0..count {
            let truncated = || {
                wrong(
                    format!("entry {index}"),
                    "a directory record",
                    "the end of the directory",
                )
            };
            let record = Record::take(&mut records).ok_or_else(truncated)??;
            let range = record.locate(bytes, directory.start)?;
            if entries.insert(record.name.clone(), range).is_some() {
                return Err(wrong(
                    format!("entry {:?}", record.name),
                    "one of that name",
                    "two",
                ));
            }
        }
        Ok(Self(entries))
    }

    /// The bytes of an entry.
    pub(super) fn entry(&self, name: &str) -> Option<Range<usize>> {
        self.0.get(name).cloned()
    }

    /// The folder that `file` lies in, with its slash: `torch.save` puts everything into one of any name.
    pub(super) fn folder_of(&self, file: &str) -> Option<&str> {
        let folders = self.0.keys().filter_map(|name| name.strip_suffix(file));
        let mut tops = folders.filter(|f| f.is_empty() || f.find('/') == Some(f.len() - 1));
        tops.next()
    }
}

/// Little-endian numbers taken from the front.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    /// The bytes from offset `at` to the end; `None` where `at` lies beyond it.
    fn from(bytes: &'a [u8], at: u64) -> Option<Self> {
        bytes.get(usize::try_from(at).ok()?..).map(Self)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
}

fn wrong(what: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) -> PthError {
    PthError::Archive {
        what: what.into(),
        expected: expected.into(),
        found: found.into(),
    }
}

/// The directory's bytes and its number of entries.
fn find_directory(bytes: &[u8]) -> Result<(Range<usize>, u64), PthError> {
    let last = bytes.len().checked_sub(END_BYTES);
    let end = last.and_then(|last| {
        let candidates = (last.saturating_sub(MAX_COMMENT)..=last).rev();
        // The signature may also stand inside a comment: then its own comment would not reach the end of the file.
        candidates.into_iter().find(|at| {
            let record = &bytes[*at..];
            record.starts_with(END)
                && record.len() - END_BYTES == usize::from(u16::from_le_bytes([record[20], record[21]]))
        })
    });
    let end = end.ok_or_else(|| {
        wrong(
            "directory",
            "an end record at the end of the file",
            "none (truncated?)",
        )
    })?;
    let narrow = read_end(&bytes[end + 4..]);
    let (offset, size, count) = match narrow {
        Some((offset, size, count)) if offset < 0xFFFF_FFFF && size < 0xFFFF_FFFF && count < 0xFFFF => {
            (offset, size, count)
        }
        _ => read_end64(bytes, end).ok_or_else(|| wrong("directory", "an end record of 64 bits", "none"))?,
    };
    let range = offset
        .checked_add(size)
        .filter(|directory_end| *directory_end <= end as u64);
    // Both lie below `end`, which is an index of the slice.
    match range {
        Some(directory_end) => Ok((offset as usize..directory_end as usize, count)),
        None => Err(wrong(
            "directory",
            format!("within the {end} bytes before its end record"),
            format!("{size} bytes from {offset} on"),
        )),
    }
}

/// Offset, size and number of entries: behind the signature, four numbers of the disks of old and their shares.
fn read_end(record: &[u8]) -> Option<(u64, u64, u64)> {
    let mut record = Bytes(record);
    record.take(6)?;
    let (count, size, offset) = (record.u16()?, record.u32()?, record.u32()?);
    Some((offset.into(), size.into(), count.into()))
}

/// Offset, size and number of entries from the end record of 64 bits, which a locator just before the narrow one points at.
fn read_end64(bytes: &[u8], end: usize) -> Option<(u64, u64, u64)> {
    let mut locator = Bytes(
        bytes
            .get(end.checked_sub(20)?..end)?
            .strip_prefix(END64_LOCATOR)?,
    );
    locator.take(4)?;
    let mut record = Bytes(Bytes::from(bytes, locator.u64()?)?.0.strip_prefix(END64)?);
    // Its own length, two versions, two disks, and the entries on this disk.
    record.take(8 + 2 + 2 + 4 + 4 + 8)?;
    let (count, size, offset) = (record.u64()?, record.u64()?, record.u64()?);
    Some((offset, size, count))
}

/// What the directory says about one entry.
struct Record {
    name: String,
    size: u64,
    local_header: u64,
}

impl Record {
    /// `None` at the end of the directory.
    fn take(records: &mut Bytes<'_>) -> Option<Result<Self, PthError>> {
        if records.take(4)? != DIRECTORY_HEADER {
            return Some(Err(wrong(
                "directory",
                "the signature of a record",
                "something else",
            )));
        }
        records.take(4)?;
        let (flags, method) = (records.u16()?, records.u16()?);
        records.take(8)?;
        let (packed, size) = (records.u32()?, records.u32()?);
        let [name, extra, comment] = [records.u16()?, records.u16()?, records.u16()?].map(usize::from);
        records.take(8)?;
        let local_header = records.u32()?;
        let (name, extra) = (records.take(name)?, records.take(extra)?);
        records.take(comment)?;
        let Ok(name) = std::str::from_utf8(name) else {
            let found = String::from_utf8_lossy(name).into_owned();
            return Some(Err(wrong("entry", "a name in UTF-8", format!("{found:?}"))));
        };
        let found = match (flags & 1, method) {
            (0, 0) => None,
            (0, method) => Some(format!("compression method {method}")),
            _ => Some("encryption".to_string()),
        };
        if let Some(found) = found {
            let entry = name.to_string();
            return Some(Err(PthError::NotStored { entry, found }));
        }
        Some(Self::widen(name, [size, packed, local_header], extra))
    }

    /// Fields that are all ones stand in the extra field, in this order and only they.
    fn widen(name: &str, narrow: [u32; 3], extra: &[u8]) -> Result<Self, PthError> {
        let mut wide = Bytes(extra64(extra).unwrap_or_default());
        let mut fields = [0; 3];
        for (field, narrow) in fields.iter_mut().zip(narrow) {
            *field = match narrow {
                u32::MAX => wide
                    .u64()
                    .ok_or_else(|| wrong(format!("entry {name:?}"), "sizes of 64 bits", "none"))?,
                narrow => narrow.into(),
            };
        }
        let [size, packed, local_header] = fields;
        if packed != size {
            return Err(wrong(
                format!("entry {name:?}"),
                format!("{size} stored bytes"),
                packed.to_string(),
            ));
        }
        Ok(Self {
            name: name.to_string(),
            size,
            local_header,
        })
    }

    /// The entry's bytes: behind its local header, whose extra field may be longer than the directory's, and before the
    /// directory.
    fn locate(&self, bytes: &[u8], directory: usize) -> Result<Range<usize>, PthError> {
        let what = || format!("entry {:?}", self.name);
        let begin = self.data_begin(bytes).ok_or_else(|| {
            wrong(
                what(),
                format!("its header at byte {}", self.local_header),
                "something else",
            )
        })?;
        let end = (begin as u64)
            .checked_add(self.size)
            .filter(|end| *end <= directory as u64);
        match end {
            Some(end) => Ok(begin..end as usize),
            None => Err(wrong(
                what(),
                format!("within the {directory} bytes before the directory"),
                format!("{} bytes from {begin} on", self.size),
            )),
        }
    }

    fn data_begin(&self, bytes: &[u8]) -> Option<usize> {
        let all = Bytes::from(bytes, self.local_header)?.0;
        let mut header = Bytes(all.strip_prefix(LOCAL_HEADER)?);
        header.take(22)?;
        let [name, extra] = [header.u16()?, header.u16()?].map(usize::from);
        let same_name = header.take(name)? == self.name.as_bytes();
        header.take(extra)?;
        same_name.then(|| bytes.len() - header.0.len())
    }
}

/// The field of 64-bit sizes among the extra fields, each of which is a tag, a length, and so many bytes.
fn extra64(extra: &[u8]) -> Option<&[u8]> {
    let mut fields = Bytes(extra);
    loop {
        let (tag, length) = (fields.u16()?, fields.u16()?);
        let field = fields.take(length.into())?;
        if tag == EXTRA64 {
            return Some(field);
        }
    }
}
