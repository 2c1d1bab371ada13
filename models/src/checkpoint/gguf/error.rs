//! Every way in which a GGUF file can be wrong, or hold what is not read.

use thiserror::Error;

/// Why a GGUF file is refused. [`CheckpointError::Gguf`](crate::checkpoint::CheckpointError::Gguf) puts the file's name in front.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GgufError {
    /// A version of the container that is not read, such as 1, or numbers in the order of another machine.
    #[error("GGUF version {found}: expected 2 or 3, little-endian")]
    Version {
        /// Version that the file names, read as little-endian.
        found: u32,
    },
    /// The file ends within its header.
    #[error("GGUF header: truncated at byte {offset}")]
    Truncated {
        /// Bytes from the beginning.
        offset: usize,
    },
    /// Something beyond what a file of a model has.
    #[error("GGUF header: {what}: expected at most {limit}, found {found}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The most that is read.
        limit: u64,
        /// What the file says.
        found: u64,
    },
    /// A text that is none.
    #[error("GGUF header: text at byte {offset} is not UTF-8")]
    Text {
        /// Bytes from the beginning.
        offset: usize,
    },
    /// A type of value that the format does not have.
    #[error("GGUF header: {key:?} has values of type {found}, which the format does not have")]
    ValueType {
        /// Name of the field whose values are of that type.
        key: String,
        /// The number of the type.
        found: u32,
    },
    /// A field is missing or of another type.
    #[error("GGUF field {key:?}: expected {expected}, found {found}")]
    Field {
        /// Name of the field that is missing or wrong.
        key: String,
        /// What would have been accepted.
        expected: &'static str,
        /// What the file has in the field's place, in words.
        found: String,
    },
    /// A type of tensor that is not read.
    #[error(
        "GGUF tensor {tensor:?}: type {found} is not read (f32, f16, bf16, q8_0, q4_0, q4_K, q5_K and q6_K are)"
    )]
    TensorType {
        /// Name of the tensor whose type is not read.
        tensor: String,
        /// The number of the type.
        found: u32,
    },
    /// A tensor that does not lie in the file, or whose rows are not whole blocks.
    #[error("GGUF tensor {tensor:?}: {reason}")]
    Tensor {
        /// Name of the tensor that is wrong.
        tensor: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An architecture that is not read from GGUF.
    #[error(
        "GGUF architecture {found:?} is not read from this format (mamba, mamba2, rwkv6, rwkv7, llama, jamba, falcon-h1, granitehybrid, \
             nemotron_h, nemotron_h_moe, qwen3next, qwen35, qwen35moe and kimi-linear are); take the checkpoint that it was made of"
    )]
    Architecture {
        /// Name of the architecture, as the file has it.
        found: String,
    },
}
