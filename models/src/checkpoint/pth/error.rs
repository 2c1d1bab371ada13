//! Every way in which a PyTorch file can be wrong, or hold more than tensors.

use thiserror::Error;

/// Why a PyTorch file is refused. [`CheckpointError::Pth`](crate::checkpoint::CheckpointError::Pth) puts the file's name in
/// front.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PthError {
    /// The file is not a zip archive.
    #[error(
        "not a zip archive, which is what torch.save has written since PyTorch 1.6; save an older file anew with Python: \
         torch.save(torch.load('old.pth', map_location='cpu'), 'new.pth')"
    )]
    NotAnArchive,
    /// The archive's directory contradicts itself or the file.
    #[error("zip archive: {what}: expected {expected}, found {found}")]
    Archive {
        /// The part of the archive.
        what: String,
        /// What would have been right.
        expected: String,
        /// What the archive has there, in words.
        found: String,
    },
    /// An entry is compressed or encrypted, so that it cannot be read in place.
    #[error("zip archive: entry {entry:?}: expected stored bytes, as torch.save writes them, found {found}")]
    NotStored {
        /// Name of the entry in the archive.
        entry: String,
        /// How the entry is kept: the number of its compression method, or "encryption".
        found: String,
    },
    /// An entry that is needed is not there.
    #[error("zip archive: entry {entry:?} is missing")]
    EntryMissing {
        /// Name of the entry that is missing.
        entry: String,
    },
    /// The numbers are stored in the order of another machine.
    #[error("byte order: expected \"little\", found {found:?}")]
    ByteOrder {
        /// What the file says.
        found: String,
    },
    /// The pickle ends in the middle of an instruction, or without its end mark.
    #[error("pickle: truncated at byte {offset}")]
    Truncated {
        /// Bytes from the beginning of the pickle.
        offset: usize,
    },
    /// An instruction that no dictionary of tensors needs.
    #[error("pickle: opcode {opcode:#04x} at byte {offset} is not one that a dictionary of tensors needs")]
    Opcode {
        /// The instruction's byte in the pickle.
        opcode: u8,
        /// Bytes from the beginning of the pickle.
        offset: usize,
    },
    /// The pickle asks for a Python object that is none of tensor, storage and dictionary. Nothing is ever run or imported.
    #[error(
        "pickle: {name:?} at byte {offset} is refused: only tensors are read and nothing is run; with Python, \
         torch.save the state_dict alone"
    )]
    Global {
        /// Module and name of the object, as `module.name`.
        name: String,
        /// Bytes from the beginning of the pickle.
        offset: usize,
    },
    /// The pickle is larger or more deeply nested than that of any model.
    #[error("pickle: byte {offset}: {what}: at most {limit} accepted")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The most of it that is accepted.
        limit: usize,
        /// Bytes from the beginning of the pickle.
        offset: usize,
    },
    /// An instruction finds other operands than it needs.
    #[error("pickle: byte {offset}: expected {expected}, found {found}")]
    Operand {
        /// What the instruction needs.
        expected: &'static str,
        /// What the instruction finds, in words.
        found: String,
        /// Bytes from the beginning of the pickle.
        offset: usize,
    },
    /// The outermost dictionary maps a name to something else than a tensor.
    #[error("entry {name:?}: expected a tensor, found {found}; save the dictionary of tensors alone")]
    NotATensor {
        /// Name in the outermost dictionary.
        name: String,
        /// Kind of the value that the name is mapped to, in words: "a list".
        found: &'static str,
    },
    /// A storage has more or fewer bytes than it claims.
    #[error("tensor {tensor}: storage {storage:?} of {values} values needs {expected} bytes, found {found}")]
    StorageBytes {
        /// A tensor in the storage.
        tensor: String,
        /// The storage's entry in the archive.
        storage: String,
        /// Number of values that the pickle gives the storage.
        values: u64,
        /// Bytes that they need.
        expected: String,
        /// Bytes that the storage's entry in the archive has.
        found: u64,
    },
    /// Many tensors share their bytes.
    #[error(
        "{tensors} tensors have {together} bytes together in a file of {file}, because they share storages; expected at most 4 \
         times the file. Save copies with Python: torch.save({{name: t.clone() for name, t in state.items()}}, 'new.pth')"
    )]
    Shared {
        /// Number of tensors in the file.
        tensors: usize,
        /// Bytes that they need together.
        together: u64,
        /// Bytes of the file.
        file: u64,
    },
    /// A tensor lies outside its storage.
    #[error(
        "tensor {tensor}: shape {shape:?} from value {offset} on, expected within the {available} values of its storage"
    )]
    OutsideStorage {
        /// Name of the tensor.
        tensor: String,
        /// Shape of the tensor, outermost dimension first.
        shape: Vec<u64>,
        /// Index of the tensor's first value in its storage, counted in values.
        offset: u64,
        /// Values of the storage.
        available: u64,
    },
    /// A tensor is a view whose values do not follow each other in row-major order.
    #[error(
        "tensor {tensor}: shape {shape:?} with strides {strides:?}: expected values in row-major order; call .contiguous() \
         before torch.save"
    )]
    Strided {
        /// Name of the tensor.
        tensor: String,
        /// Shape of the tensor, outermost dimension first.
        shape: Vec<u64>,
        /// Strides of the tensor, in values.
        strides: Vec<u64>,
    },
}
