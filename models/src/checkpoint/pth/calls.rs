//! What calls and persistent ids in a pickle stand for: each of the few is done here, and none is run.

use super::error::PthError;
use super::pickle::Machine;
use super::value::{Global, Id, Storage, Value, View};

/// Dimensions of a tensor.
const MAX_RANK: usize = 16;
/// Elements of the tuples that describe tensors and storages.
const MAX_ARGUMENTS: usize = 7;

impl<'a> Machine<'a> {
    /// The object that a persistent id stands for: `("storage", class, key, device, number of values)`.
    pub(super) fn storage(&mut self) -> Result<(), PthError> {
        let wrong = "a storage: (\"storage\", class, key, device, values)";
        let id = self.pop()?;
        let found = self.values[id].kind();
        let Value::Tuple(parts) = &self.values[id] else {
            return Err(self.operand(wrong, found));
        };
        let parts = self.parts(parts)?;
        let storage = match parts.as_slice() {
            [
                Value::Text("storage"),
                Value::Global(Global::Storage(dtype, dtype_name)),
                Value::Text(key),
                Value::Text(_),
                Value::Int(values),
            ] if *values >= 0 => Storage {
                dtype: *dtype,
                dtype_name,
                key,
                values: *values as u64,
            },
            _ => return Err(self.operand(wrong, format!("another tuple of {}", parts.len()))),
        };
        self.push(Value::Storage(Box::new(storage)))
    }

    /// The values of a short tuple.
    fn parts(&self, ids: &[Id]) -> Result<Vec<&Value<'a>>, PthError> {
        self.within("elements of a tuple", ids.len(), MAX_ARGUMENTS)?;
        Ok(ids.iter().map(|id| &self.values[*id]).collect())
    }

    /// Stands for the call of a function: those of the closed list, each done here.
    pub(super) fn reduce(&mut self) -> Result<(), PthError> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Value::Global(function) = self.values[function] else {
            return Err(self.operand("a function to call", self.values[function].kind()));
        };
        let Value::Tuple(arguments) = &self.values[arguments] else {
            return Err(self.operand("a tuple of arguments", self.values[arguments].kind()));
        };
        let count = arguments.len();
        match function {
            Global::OrderedDict if arguments.is_empty() => self.push(Value::Dict(Vec::new())),
            Global::OrderedDict => Err(self.operand("no arguments of OrderedDict", format!("{count}"))),
            Global::RebuildTensor => {
                let view = self.view(arguments)?;
                self.push(Value::Tensor(Box::new(view)))
            }
            // (tensor, requires_grad, hooks)
            Global::RebuildParameter => match arguments.first() {
                Some(tensor) if matches!(self.values[*tensor], Value::Tensor(_)) => self.push_id(*tensor),
                _ => Err(self.operand("a tensor as first argument", format!("{count} arguments"))),
            },
            Global::Storage(..) => Err(self.operand("a function to call", "a storage class")),
        }
    }

    /// The tensor of `(storage, offset, shape, strides, requires_grad, hooks)`, after which newer files may have an empty
    /// dictionary. One that is not empty may say that the values are to be negated or conjugated.
    fn view(&self, arguments: &[Id]) -> Result<View<'a>, PthError> {
        let wrong = "a tensor: (storage, offset, shape, strides, requires_grad, hooks)";
        let parts = self.parts(arguments)?;
        let (storage, offset, shape, strides) = match parts.as_slice() {
            [
                Value::Storage(storage),
                Value::Int(offset),
                Value::Tuple(shape),
                Value::Tuple(strides),
                _,
                _,
                metadata @ ..,
            ] if metadata
                .iter()
                .all(|m| matches!(m, Value::None) || matches!(m, Value::Dict(d) if d.is_empty())) =>
            {
                (storage, offset, shape, strides)
            }
            _ => return Err(self.operand(wrong, format!("{} other arguments", parts.len()))),
        };
        self.within("dimensions", shape.len(), MAX_RANK)?;
        let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
        if shape.len() != strides.len() {
            return Err(self.operand(
                "as many strides as dimensions",
                format!("{shape:?} and {strides:?}"),
            ));
        }
        Ok(View {
            storage: **storage,
            offset: self.size(*offset)?,
            shape,
            strides,
        })
    }

    fn sizes(&self, ids: &[Id]) -> Result<Vec<u64>, PthError> {
        let size = |id: &Id| match &self.values[*id] {
            Value::Int(size) => self.size(*size),
            other => Err(self.operand("a whole number", other.kind())),
        };
        ids.iter().map(size).collect()
    }

    fn size(&self, value: i64) -> Result<u64, PthError> {
        u64::try_from(value).map_err(|_| self.operand("a whole number from 0", value.to_string()))
    }

    /// Gives an object its attributes. Those of a dictionary say nothing about tensors (`_metadata`, versions of modules).
    pub(super) fn build(&mut self) -> Result<(), PthError> {
        self.pop()?;
        let object = self.top()?;
        match &self.values[object] {
            Value::Dict(_) => Ok(()),
            other => Err(self.operand("a dictionary to give attributes to", other.kind())),
        }
    }
}
