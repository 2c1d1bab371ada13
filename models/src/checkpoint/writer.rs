//! Writing safetensors: values streamed in blocks, to a temporary name that becomes the real one when all is written.
//!
//! Whatever goes wrong on the way (a full disk, an interrupted source of values), nothing half-written is left behind.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use half::bf16;
use serde_json::{Map, Value, json};

use super::error::CheckpointError;

/// The types in which tensors are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteDtype {
    /// IEEE single precision.
    F32,
    /// The upper half of a single, rounded to nearest even.
    Bf16,
}

/// A tensor to be written: the header needs all of these before the first value.
#[derive(Clone, Debug)]
pub struct TensorPlan {
    /// Its name in the file.
    pub name: String,
    /// Its shape, outermost dimension first.
    pub shape: Vec<usize>,
}

impl WriteDtype {
    /// Its name in the format, and the bytes of a value.
    fn name_and_width(self) -> (&'static str, usize) {
        match self {
            Self::F32 => ("F32", 4),
            Self::Bf16 => ("BF16", 2),
        }
    }
}

/// A tensor of any type, to be written from its bytes.
#[derive(Clone, Debug)]
pub(crate) struct StoredPlan {
    /// Its name in the file.
    pub(crate) name: String,
    /// The type's name in the format.
    pub(crate) dtype: String,
    /// Its shape, outermost dimension first.
    pub(crate) shape: Vec<usize>,
    /// Bytes of its values.
    pub(crate) bytes: usize,
}

impl StoredPlan {
    /// A tensor of floats.
    pub(crate) fn floats(name: &str, shape: &[usize], dtype: WriteDtype) -> Self {
        let (dtype, width) = dtype.name_and_width();
        Self {
            name: name.into(),
            dtype: dtype.into(),
            shape: shape.to_vec(),
            bytes: shape.iter().product::<usize>() * width,
        }
    }
}

/// Puts values into `raw` as they are stored; `path` and `tensor` are named in errors.
///
/// # Errors
/// [`CheckpointError::Range`] for a finite value that bfloat16 rounds to infinity.
pub(crate) fn encode(
    path: &Path,
    tensor: &str,
    dtype: WriteDtype,
    values: &[f32],
    raw: &mut Vec<u8>,
) -> Result<(), CheckpointError> {
    raw.clear();
    match dtype {
        WriteDtype::F32 => raw.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        WriteDtype::Bf16 => {
            for value in values {
                let rounded = bf16::from_f32(*value);
                if rounded.is_infinite() && value.is_finite() {
                    return Err(CheckpointError::Range {
                        path: path.to_path_buf(),
                        tensor: tensor.into(),
                        value: *value,
                    });
                }
                raw.extend(rounded.to_le_bytes());
            }
        }
    }
    Ok(())
}

/// Writes a safetensors file into `out`; `path` is named in errors.
///
/// `values` is called once per tensor, in order, with the tensor and a sink that takes consecutive blocks of its values.
///
/// # Errors
/// [`CheckpointError::Io`] when the sink fails, [`CheckpointError::ByteCount`] when a tensor got more or fewer values than
/// its shape has, [`CheckpointError::Range`] for a value that bfloat16 does not reach, and whatever `values` returns.
pub fn write_safetensors<E: From<CheckpointError>>(
    path: &Path,
    out: &mut dyn Write,
    dtype: WriteDtype,
    tensors: &[TensorPlan],
    metadata: &BTreeMap<String, String>,
    mut values: impl FnMut(&TensorPlan, &mut dyn FnMut(&[f32]) -> Result<(), CheckpointError>) -> Result<(), E>,
) -> Result<(), E> {
    let stored = tensors
        .iter()
        .map(|t| StoredPlan::floats(&t.name, &t.shape, dtype));
    let mut plans = tensors.iter();
    let mut raw = Vec::new();
    write_stored(
        path,
        out,
        &stored.collect::<Vec<_>>(),
        metadata,
        |stored, sink| {
            // One of each, in the same order.
            let Some(plan) = plans.next() else {
                return Ok(());
            };
            values(plan, &mut |block| {
                encode(path, &stored.name, dtype, block, &mut raw)?;
                sink(&raw)
            })
        },
    )
}

/// Makes `folder` a checkpoint in f32 or bf16: `config.json`, `model.safetensors`, and further files of text by name.
///
/// # Errors
/// As [`write_safetensors`] and [`NewFolder::commit`]; nothing is left behind then.
pub(crate) fn write_folder(
    folder: NewFolder,
    config: &Map<String, Value>,
    dtype: WriteDtype,
    tensors: &[TensorPlan],
    texts: &[(&str, String)],
    values: impl FnMut(
        &TensorPlan,
        &mut dyn FnMut(&[f32]) -> Result<(), CheckpointError>,
    ) -> Result<(), CheckpointError>,
) -> Result<(), CheckpointError> {
    let config = ("config.json", format!("{:#}\n", Value::Object(config.clone())));
    for (name, text) in std::iter::once(&config).chain(texts) {
        let path = folder.temporary_path().join(name);
        fs::write(path, text).map_err(CheckpointError::io(&folder.path, "writing"))?;
    }
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    let mut file = NewFile::create(&folder.temporary_path().join("model.safetensors"))?;
    write_safetensors(&folder.path, file.writer(), dtype, tensors, &metadata, values)?;
    file.commit()?;
    folder.commit()
}

/// Takes consecutive blocks of a tensor's bytes.
type ByteSink<'a> = dyn FnMut(&[u8]) -> Result<(), CheckpointError> + 'a;

/// [`write_safetensors`] for tensors of any types, from their bytes.
///
/// # Errors
/// As there.
pub(crate) fn write_stored<E: From<CheckpointError>>(
    path: &Path,
    out: &mut dyn Write,
    tensors: &[StoredPlan],
    metadata: &BTreeMap<String, String>,
    mut bytes: impl FnMut(&StoredPlan, &mut ByteSink<'_>) -> Result<(), E>,
) -> Result<(), E> {
    out.write_all(&header(tensors, metadata))
        .map_err(CheckpointError::io(path, "writing"))?;
    for tensor in tensors {
        let mut count = 0;
        bytes(tensor, &mut |block| {
            count += block.len();
            out.write_all(block).map_err(CheckpointError::io(path, "writing"))
        })?;
        if count != tensor.bytes {
            return Err(CheckpointError::ByteCount {
                path: path.to_path_buf(),
                tensor: tensor.name.clone(),
                stored: format!("{} {:?}", tensor.dtype, tensor.shape),
                expected: tensor.bytes.to_string(),
                found: count as u64,
            }
            .into());
        }
    }
    out.flush().map_err(CheckpointError::io(path, "writing"))?;
    Ok(())
}

/// Length and JSON, padded with blanks so that the data begin at a multiple of eight, as other readers like it.
fn header(tensors: &[StoredPlan], metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let mut map = Map::new();
    if !metadata.is_empty() {
        let texts = metadata.iter().map(|(k, v)| (k.clone(), Value::from(v.as_str())));
        map.insert("__metadata__".into(), Value::Object(texts.collect()));
    }
    let mut at = 0;
    for tensor in tensors {
        let end = at + tensor.bytes;
        map.insert(
            tensor.name.clone(),
            json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [at, end]}),
        );
        at = end;
    }
    let mut text = Value::Object(map).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.extend(text);
    out
}

/// A name beside `path` that nobody else uses, on the same file system so that renaming is one step. The clock tells apart
/// processes of one number on different machines, the count the threads of one process.
fn temporary_name(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let nanos = now.map_or(0, |now| now.subsec_nanos());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}-{nanos}-{count}.tmp", std::process::id()))
}

/// A file under a temporary name. [`NewFile::commit`] gives it its real name; dropping it before that removes it.
#[derive(Debug)]
pub struct NewFile {
    out: Option<BufWriter<File>>,
    temporary: PathBuf,
    path: PathBuf,
}

impl NewFile {
    /// Begins a file that will replace whatever `path` names, in one step, when it is complete.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] when the folder cannot be written.
    pub fn create(path: &Path) -> Result<Self, CheckpointError> {
        let temporary = temporary_name(path);
        let file = File::create(&temporary).map_err(CheckpointError::io(path, "creating"))?;
        Ok(Self {
            out: Some(BufWriter::with_capacity(1 << 20, file)),
            temporary,
            path: path.to_path_buf(),
        })
    }

    /// Where to write.
    pub fn writer(&mut self) -> &mut dyn Write {
        match &mut self.out {
            Some(out) => out,
            // Only `commit`, which consumes `self`, takes the writer away.
            None => unreachable!("the writer of an uncommitted file"),
        }
    }

    /// The temporary name, for writers that open the file themselves.
    pub fn temporary_path(&self) -> &Path {
        &self.temporary
    }

    /// Writes out what is buffered and gives the file its real name.
    ///
    /// # Errors
    /// [`CheckpointError::Io`] when the disk is full or the name cannot be taken.
    pub fn commit(self) -> Result<(), CheckpointError> {
        self.finish(true)
    }

    /// As [`NewFile::commit`] without waiting for the disk: after a power failure the file may be there and incomplete, for
    /// readers that can tell.
    ///
    /// # Errors
    /// As [`NewFile::commit`].
    pub fn commit_unsynced(self) -> Result<(), CheckpointError> {
        self.finish(false)
    }

    fn finish(mut self, sync: bool) -> Result<(), CheckpointError> {
        if let Some(mut out) = self.out.take() {
            out.flush().map_err(CheckpointError::io(&self.path, "writing"))?;
            if sync {
                out.get_ref()
                    .sync_all()
                    .map_err(CheckpointError::io(&self.path, "writing"))?;
            }
        }
        fs::rename(&self.temporary, &self.path).map_err(CheckpointError::io(&self.path, "renaming"))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // After a commit the temporary name is gone already, and this fails harmlessly.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// A folder under a temporary name, likewise.
#[derive(Debug)]
pub struct NewFolder {
    temporary: PathBuf,
    path: PathBuf,
    replace: bool,
}

impl NewFolder {
    /// Begins a folder that will be called `path`.
    ///
    /// # Errors
    /// [`CheckpointError::Exists`] when there is something of that name, [`CheckpointError::Io`] when it cannot be made.
    pub fn create(path: &Path) -> Result<Self, CheckpointError> {
        Self::begin(path, false)
    }

    /// Begins a folder that will be called `path`; if there is one, its files of the same names will be replaced, one by one,
    /// and its others will stay.
    ///
    /// # Errors
    /// [`CheckpointError::Exists`] when `path` is no folder, [`CheckpointError::Io`] when it cannot be made.
    pub fn replace(path: &Path) -> Result<Self, CheckpointError> {
        Self::begin(path, true)
    }

    fn begin(path: &Path, replace: bool) -> Result<Self, CheckpointError> {
        let folder = Self {
            temporary: temporary_name(path),
            path: path.to_path_buf(),
            replace,
        };
        folder.check_free()?;
        fs::create_dir_all(&folder.temporary).map_err(CheckpointError::io(path, "creating"))?;
        Ok(folder)
    }

    fn check_free(&self) -> Result<(), CheckpointError> {
        match self.path.exists() && !(self.replace && self.path.is_dir()) {
            true => Err(CheckpointError::Exists {
                path: self.path.clone(),
            }),
            false => Ok(()),
        }
    }

    /// Where to write the folder's files meanwhile.
    pub fn temporary_path(&self) -> &Path {
        &self.temporary
    }

    /// Gives the folder its real name, or its files theirs.
    ///
    /// # Errors
    /// [`CheckpointError::Exists`] when the name has been taken meanwhile, [`CheckpointError::Io`] otherwise.
    pub fn commit(self) -> Result<(), CheckpointError> {
        self.check_free()?;
        if !self.path.exists() {
            return fs::rename(&self.temporary, &self.path)
                .map_err(CheckpointError::io(&self.path, "renaming"));
        }
        let entries = fs::read_dir(&self.temporary).map_err(CheckpointError::io(&self.path, "listing"))?;
        for entry in entries {
            let entry = entry.map_err(CheckpointError::io(&self.path, "listing"))?;
            let target = self.path.join(entry.file_name());
            fs::rename(entry.path(), &target).map_err(CheckpointError::io(&target, "renaming"))?;
        }
        Ok(())
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.temporary);
    }
}
