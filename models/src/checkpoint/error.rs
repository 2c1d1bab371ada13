//! Every way in which a checkpoint can be wrong, one variant each.

use std::path::PathBuf;

use thiserror::Error;

use super::gguf::GgufError;
use super::pth::PthError;
use crate::output::{InUse, OutputError};

/// Why a checkpoint cannot be opened, read or written. Every message is one line that names the file and, where there is
/// one, the tensor or field, what was expected and what was found.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// There is nothing at the path.
    #[error("{}: no such file or folder; expected {expected}", path.display())]
    Missing {
        /// What was looked for.
        path: PathBuf,
        /// What would have been accepted there.
        expected: &'static str,
    },
    /// The operating system refused.
    #[error("{}: {action} failed: {source}", path.display())]
    Io {
        /// Path of the file or folder.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// Error that the operating system reported.
        source: std::io::Error,
    },
    /// Another process writes into the folder that the checkpoint is to be written to.
    #[error(transparent)]
    InUse(InUse),
    /// A PyTorch file is damaged, or holds more than tensors.
    #[error("{}: {source}", path.display())]
    Pth {
        /// Path of the PyTorch file.
        path: PathBuf,
        /// What is wrong with it.
        source: PthError,
    },
    /// A GGUF file is damaged, or holds what is not read.
    #[error("{}: {source}", path.display())]
    Gguf {
        /// Path of the GGUF file.
        path: PathBuf,
        /// What is wrong with it.
        source: GgufError,
    },
    /// The file is of another kind altogether.
    #[error("{}: expected {expected}, found {found}: {advice}", path.display())]
    Disguised {
        /// Path of the file that is of another kind.
        path: PathBuf,
        /// What was looked for: "a file of weights", "a saved file".
        expected: &'static str,
        /// What the file is, with its article: "a Git LFS pointer".
        found: &'static str,
        /// What the user can do about it, as a phrase: "unpack it first".
        advice: &'static str,
    },
    /// The folder holds several files of weights.
    #[error("{}: expected one file of weights, found {}; give one of them", folder.display(), found.join(", "))]
    Ambiguous {
        /// Folder that holds several files of weights.
        folder: PathBuf,
        /// Names of the files that could be the weights.
        found: Vec<String>,
    },
    /// The file ends before its header does.
    #[error("{}: truncated: {expected} bytes expected, found {found}", path.display())]
    Truncated {
        /// Path of the safetensors file that is cut off.
        path: PathBuf,
        /// The least number of bytes that the file must have.
        expected: u64,
        /// The number of bytes that it has.
        found: u64,
    },
    /// The header claims an absurd length, as files of another format do.
    #[error("{}: not a safetensors file: header of {found} bytes, at most {limit} accepted", path.display())]
    HeaderTooLong {
        /// Path of the file that claims the length.
        path: PathBuf,
        /// The claimed header length.
        found: u64,
        /// The longest header accepted.
        limit: u64,
    },
    /// The header, `config.json` or the index is not JSON.
    #[error("{}: not valid JSON: {reason}", path.display())]
    Json {
        /// Path of the file that is not JSON.
        path: PathBuf,
        /// The parser's reason, with line and column.
        reason: String,
    },
    /// A JSON field is absent or has the wrong type or value.
    #[error("{}: field `{field}`: expected {expected}, found {found}", path.display())]
    Field {
        /// Path of the file whose field is absent or wrong.
        path: PathBuf,
        /// The field's path, dots between levels.
        field: String,
        /// The type or range accepted.
        expected: String,
        /// What the field holds, in words; "nothing" where it is absent.
        found: String,
    },
    /// The configuration asks for something that this implementation does not have.
    #[error("{}: field `{field}`: {found} is not supported; accepted: {accepted}", path.display())]
    Unsupported {
        /// Path of the configuration file.
        path: PathBuf,
        /// The field's path, dots between levels.
        field: String,
        /// What the field holds, in words; "nothing" where it is absent.
        found: String,
        /// Values of the field that would be accepted.
        accepted: &'static str,
    },
    /// The configuration belongs to no known layout.
    #[error("{}: unknown layout: found {found}; accepted: {accepted}", path.display())]
    UnknownLayout {
        /// Path of the configuration file.
        path: PathBuf,
        /// What was found in it.
        found: String,
        /// The layouts that are read.
        accepted: String,
    },
    /// A tensor is stored in a type that is not read.
    #[error("{}: tensor {tensor}: dtype {found} is not supported; accepted: F32, F16, BF16, F64", path.display())]
    Dtype {
        /// Path of the weights file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// Name of the stored type, as the file has it.
        found: String,
    },
    /// A tensor's bytes lie outside the file, or its end before its beginning.
    #[error(
        "{}: tensor {tensor}: data_offsets [{begin}, {end}] expected within the {available} data bytes of the file{}",
        path.display(), if end > available { " (truncated?)" } else { "" }
    )]
    Offsets {
        /// Path of the weights file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// Offset of the tensor's first byte, counted from the end of the header.
        begin: u64,
        /// Offset just past the tensor's last byte, counted from the end of the header.
        end: u64,
        /// Bytes behind the header.
        available: u64,
    },
    /// A tensor's bytes are more or fewer than its shape needs.
    #[error("{}: tensor {tensor}: {stored} needs {expected} bytes, found {found}", path.display())]
    ByteCount {
        /// Path of the weights file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// Stored type and shape.
        stored: String,
        /// Bytes that the shape needs.
        expected: String,
        /// Bytes between the offsets.
        found: u64,
    },
    /// Two tensors claim the same bytes.
    #[error("{}: tensors {first} and {second} overlap", path.display())]
    Overlap {
        /// Path of the weights file.
        path: PathBuf,
        /// The tensor that begins first.
        first: String,
        /// The tensor that begins inside it.
        second: String,
    },
    /// A tensor that the configuration calls for is not there.
    #[error("{}: tensor {tensor} is missing, expected with shape {expected:?}", path.display())]
    TensorMissing {
        /// The weights file or index.
        path: PathBuf,
        /// Name of the tensor that is missing.
        tensor: String,
        /// The shape that it should have.
        expected: Vec<usize>,
    },
    /// A tensor has another shape than the configuration gives it.
    #[error("{}: tensor {tensor}: config.json gives it shape {expected:?}, found {found:?}", path.display())]
    Shape {
        /// Path of the weights file.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// The shape that follows from the configuration.
        expected: Vec<usize>,
        /// Shape that the stored tensor has.
        found: Vec<usize>,
    },
    /// The weights hold a tensor for which the configuration has no place.
    #[error("{}: tensor {tensor} has no place in the model that config.json describes ({expected})", path.display())]
    UnexpectedTensor {
        /// The weights file or index.
        path: PathBuf,
        /// Name of the tensor that has no place in the model.
        tensor: String,
        /// What the configuration describes.
        expected: String,
    },
    /// The configuration says that input and output embedding are one, but two different ones are stored.
    #[error("{}: config.json ties {output} to {input}, but the two stored tensors differ", path.display())]
    TiedTensorsDiffer {
        /// Path of the weights file, or of the index of its shards.
        path: PathBuf,
        /// Name of the input embedding's tensor.
        input: String,
        /// Name of the output head's tensor.
        output: String,
    },
    /// A weight is NaN or infinite.
    #[error("{}: tensor {tensor}: value {index} is {value}, expected finite weights", path.display())]
    NonFinite {
        /// Path of the weights file.
        path: PathBuf,
        /// Name of the tensor that holds the value.
        tensor: String,
        /// Position in row-major order.
        index: usize,
        /// The value that was found: NaN or infinite.
        value: f32,
    },
    /// A weight is too large for the type that it is to be written in.
    #[error("{}: tensor {tensor}: {value:e} is beyond the range of {dtype}; write f32 instead", path.display())]
    Range {
        /// Path of the file that was to be written.
        path: PathBuf,
        /// Name of the tensor that holds the value.
        tensor: String,
        /// The value that is too large.
        value: f32,
        /// Name of the type that was to be written: `bf16`.
        dtype: &'static str,
    },
    /// A checkpoint that a GGUF file cannot hold.
    #[error("{}: not to be written as GGUF: {reason}", path.display())]
    NotGguf {
        /// Path of the weights that were to be converted.
        path: PathBuf,
        /// What the format has no place for.
        reason: String,
    },
    /// The index names a shard that is not in the folder.
    #[error("{}: shard {shard} of tensor {tensor} is missing from the folder", path.display())]
    ShardMissing {
        /// Path of the index file that names the shard.
        path: PathBuf,
        /// The shard's file name.
        shard: String,
        /// A tensor that it should hold.
        tensor: String,
    },
    /// The index places a tensor in a shard that does not hold it.
    #[error("{}: tensor {tensor} expected here by {}, not found", path.display(), index.display())]
    NotInShard {
        /// Path of the shard that lacks the tensor.
        path: PathBuf,
        /// Path of the index file that places the tensor in the shard.
        index: PathBuf,
        /// Name of the tensor that is not in the shard.
        tensor: String,
    },
    /// A checkpoint would be written over itself.
    #[error("{}: what is read lies there; expected another one", path.display())]
    OntoItself {
        /// Path to write to, which is that of the checkpoint that is read.
        path: PathBuf,
    },
    /// The place to write to is taken.
    #[error("{}: exists already; expected a new or empty folder", path.display())]
    Exists {
        /// Path of the file or folder.
        path: PathBuf,
    },
}

impl From<OutputError> for CheckpointError {
    fn from(error: OutputError) -> Self {
        match error {
            OutputError::InUse(in_use) => Self::InUse(in_use),
            OutputError::Io { path, action, source } => Self::Io { path, action, source },
            OutputError::Exists { path } => Self::Exists { path },
        }
    }
}

impl CheckpointError {
    /// Wraps a system error, with the file and what was being done to it.
    pub(crate) fn io(path: &std::path::Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, action, source }
    }
}
