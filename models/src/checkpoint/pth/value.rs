//! What the instructions of a pickle make.

use crate::checkpoint::header::Dtype;

/// The storage classes of PyTorch: name, type, and the type's name in safetensors.
const STORAGES: [(&str, Dtype, &str); 10] = [
    ("torch.FloatStorage", Dtype::F32, "F32"),
    ("torch.HalfStorage", Dtype::F16, "F16"),
    ("torch.BFloat16Storage", Dtype::Bf16, "BF16"),
    ("torch.DoubleStorage", Dtype::F64, "F64"),
    ("torch.LongStorage", Dtype::Other(64), "I64"),
    ("torch.IntStorage", Dtype::Other(32), "I32"),
    ("torch.ShortStorage", Dtype::Other(16), "I16"),
    ("torch.CharStorage", Dtype::Other(8), "I8"),
    ("torch.ByteStorage", Dtype::Other(8), "U8"),
    ("torch.BoolStorage", Dtype::Other(8), "BOOL"),
];

/// The bytes of one storage, as the pickle describes them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage<'a> {
    pub(super) dtype: Dtype,
    pub(super) dtype_name: &'static str,
    /// The entry's name under `data/`.
    pub(super) key: &'a str,
    /// Number of values in the storage.
    pub(super) values: u64,
}

/// A tensor: some values of a storage. Nothing is checked against the storage's bytes yet.
#[derive(Clone, Debug)]
pub(super) struct View<'a> {
    pub(super) storage: Storage<'a>,
    /// Index of the tensor's first value in the storage, counted in values.
    pub(super) offset: u64,
    pub(super) shape: Vec<u64>,
    /// As many as there are dimensions; in values.
    pub(super) strides: Vec<u64>,
}

/// Python objects that can be named; what a pickle may call among them is done in `calls.rs`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Dtype, &'static str),
}

impl Global {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "collections.OrderedDict" => Self::OrderedDict,
            "torch._utils._rebuild_tensor_v2" => Self::RebuildTensor,
            "torch._utils._rebuild_parameter" => Self::RebuildParameter,
            name => {
                let (_, dtype, dtype_name) = STORAGES.iter().find(|(class, ..)| *class == name)?;
                Self::Storage(*dtype, dtype_name)
            }
        })
    }
}

/// The index of a value.
pub(super) type Id = usize;

/// What instructions of a pickle make: a Python object, as far as dictionaries of tensors need it.
#[derive(Debug)]
pub(super) enum Value<'a> {
    None,
    Bool,
    Int(i64),
    Float,
    Text(&'a str),
    Tuple(Box<[Id]>),
    /// A list, whose elements are never asked for.
    List,
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Box<Storage<'a>>),
    Tensor(Box<View<'a>>),
}

impl Value<'_> {
    /// A word for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Bool => "a truth value",
            Self::Int(_) => "a whole number",
            Self::Float => "a number",
            Self::Text(_) => "a text",
            Self::Tuple(_) => "a tuple",
            Self::List => "a list",
            Self::Dict(_) => "a dictionary",
            Self::Global(_) => "a class or function",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
        }
    }
}
