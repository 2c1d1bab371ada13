//! The part of Python's pickle language that a dictionary of tensors is written in.
//!
//! Language: CPython's `pickletools.py`; what `torch.save` writes with it: `torch/serialization.py` and `torch/_utils.py`. The
//! machine has a stack, marks on it, and a memo. Values live in one vector and name each other by index, so that neither a
//! value within itself nor deep nesting can cost more than the pickle's own length, and dropping them is no recursion.

use std::collections::{BTreeMap, HashMap};

use super::error::PthError;
use super::value::{Global, Id, Value, View};

/// Values, operands and memo entries that a pickle may make. A model of 10,000 tensors makes 200,000.
const MAX_VALUES: usize = 1 << 20;
/// Marks that may stand on the stack at once. A dictionary of tensors has four.
const MAX_NESTING: usize = 64;
/// Bytes of a name.
const MAX_TEXT: usize = 4096;
/// The tensors of the dictionary that a pickle makes, by name.
///
/// # Errors
/// One variant of [`PthError`] for each way of being something else.
pub(super) fn tensors(pickle: &[u8]) -> Result<BTreeMap<&str, View<'_>>, PthError> {
    let mut machine = Machine {
        pickle,
        at: 0,
        begin: 0,
        values: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    let root = loop {
        if let Some(root) = machine.step()? {
            break root;
        }
    };
    let Value::Dict(entries) = &machine.values[machine.state_dict(root)] else {
        return Err(machine.operand("a dictionary of tensors", machine.values[root].kind()));
    };
    let mut tensors = BTreeMap::new();
    for (name, value) in entries {
        let name = match &machine.values[*name] {
            Value::Text(name) => *name,
            other => return Err(machine.operand("names of tensors", other.kind())),
        };
        match &machine.values[*value] {
            Value::Tensor(view) => tensors.insert(name, (**view).clone()),
            other => {
                let (name, found) = (name.to_string(), other.kind());
                return Err(PthError::NotATensor { name, found });
            }
        };
    }
    Ok(tensors)
}

/// The machine, at some instruction.
pub(super) struct Machine<'a> {
    pickle: &'a [u8],
    /// The next byte to be read.
    at: usize,
    /// Where the instruction at hand begins.
    begin: usize,
    pub(super) values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<usize, Id>,
}

impl<'a> Machine<'a> {
    /// The dictionary of tensors in a file's value: its entry `state_dict`, beside which trainers keep what else they need to go on,
    /// or the value itself.
    fn state_dict(&self, root: Id) -> Id {
        let Value::Dict(entries) = &self.values[root] else {
            return root;
        };
        let wrapped = entries.iter().find(|(name, value)| {
            matches!(self.values[*name], Value::Text("state_dict"))
                && matches!(self.values[*value], Value::Dict(_))
        });
        wrapped.map_or(root, |(_, value)| *value)
    }

    /// Obeys one instruction. The last one gives the pickle's value.
    fn step(&mut self) -> Result<Option<Id>, PthError> {
        self.begin = self.at;
        let opcode = self.byte()?;
        match opcode {
            // PROTO, FRAME: the version, and lengths that help whoever reads a stream.
            0x80 => drop(self.byte()?),
            0x95 => drop(self.take(8)?),
            b'(' => self.mark()?,
            b'.' => return self.pop().map(Some),
            b'N' => self.push(Value::None)?,
            0x88 | 0x89 => self.push(Value::Bool)?,
            b'J' | b'K' | b'M' | 0x8A | b'G' => self.number(opcode)?,
            b'X' | 0x8C => self.text(opcode)?,
            b')' | 0x85..=0x87 | b't' => self.tuple(opcode)?,
            b']' => self.push(Value::List)?,
            b'a' | b'e' => self.append(opcode)?,
            b'}' => self.push(Value::Dict(Vec::new()))?,
            b's' | b'u' => self.set_items(opcode)?,
            b'q' | b'r' | 0x94 => self.remember(opcode)?,
            b'h' | b'j' => self.recall(opcode)?,
            b'c' | 0x93 => self.global(opcode)?,
            b'Q' => self.storage()?,
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            _ => {
                let offset = self.begin;
                return Err(PthError::Opcode { opcode, offset });
            }
        }
        Ok(None)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], PthError> {
        let taken = self.pickle.get(self.at..).and_then(|rest| rest.get(..count));
        let taken = taken.ok_or(PthError::Truncated {
            offset: self.pickle.len(),
        })?;
        self.at += count;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, PthError> {
        Ok(self.take(1)?[0])
    }

    /// An unsigned little-endian number of at most eight bytes.
    fn unsigned(&mut self, width: usize) -> Result<u64, PthError> {
        Ok(self
            .take(width)?
            .iter()
            .rev()
            .fold(0, |n, byte| n << 8 | u64::from(*byte)))
    }

    pub(super) fn operand(&self, expected: &'static str, found: impl Into<String>) -> PthError {
        PthError::Operand {
            expected,
            found: found.into(),
            offset: self.begin,
        }
    }

    pub(super) fn within(&self, what: &'static str, count: usize, limit: usize) -> Result<(), PthError> {
        let offset = self.begin;
        if count > limit {
            return Err(PthError::Limit { what, limit, offset });
        }
        Ok(())
    }

    pub(super) fn push(&mut self, value: Value<'a>) -> Result<(), PthError> {
        self.within("values", self.values.len() + 1, MAX_VALUES)?;
        self.values.push(value);
        self.push_id(self.values.len() - 1)
    }

    pub(super) fn push_id(&mut self, id: Id) -> Result<(), PthError> {
        self.within("operands", self.stack.len() + 1, MAX_VALUES)?;
        self.stack.push(id);
        Ok(())
    }

    fn mark(&mut self) -> Result<(), PthError> {
        self.within("nesting", self.marks.len() + 1, MAX_NESTING)?;
        self.marks.push(self.stack.len());
        Ok(())
    }

    /// The topmost operand, above the last mark.
    pub(super) fn pop(&mut self) -> Result<Id, PthError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len() > floor {
            true => self.stack.pop().ok_or_else(|| self.operand("an operand", "none")),
            false => Err(self.operand("an operand", "none")),
        }
    }

    /// All operands above the last mark, which goes.
    fn pop_to_mark(&mut self) -> Result<Vec<Id>, PthError> {
        let floor = self.marks.pop().ok_or_else(|| self.operand("a mark", "none"))?;
        Ok(self.stack.split_off(floor))
    }

    fn number(&mut self, opcode: u8) -> Result<(), PthError> {
        let value = match opcode {
            b'K' => Value::Int(self.unsigned(1)? as i64),
            b'M' => Value::Int(self.unsigned(2)? as i64),
            b'J' => Value::Int(self.unsigned(4)? as u32 as i32 as i64),
            b'G' => {
                self.take(8)?;
                Value::Float
            }
            // LONG1: any length in two's complement.
            _ => {
                let width = usize::from(self.byte()?);
                self.within("bytes of a whole number", width, 8)?;
                let unused = 64 - 8 * width as u32;
                let bits = self.unsigned(width)?;
                Value::Int(bits.checked_shl(unused).unwrap_or(0) as i64 >> unused.min(63))
            }
        };
        self.push(value)
    }

    fn text(&mut self, opcode: u8) -> Result<(), PthError> {
        let length = self.unsigned(if opcode == b'X' { 4 } else { 1 })?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        self.within("bytes of a text", length, MAX_TEXT)?;
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.operand("a text in UTF-8", "other bytes"))?;
        self.push(Value::Text(text))
    }

    fn tuple(&mut self, opcode: u8) -> Result<(), PthError> {
        let elements = match opcode {
            b')' => Vec::new(),
            b't' => self.pop_to_mark()?,
            _ => {
                let mut elements = (0x85..=opcode)
                    .map(|_| self.pop())
                    .collect::<Result<Vec<_>, _>>()?;
                elements.reverse();
                elements
            }
        };
        self.push(Value::Tuple(elements.into()))
    }

    fn append(&mut self, opcode: u8) -> Result<(), PthError> {
        match opcode {
            b'a' => drop(self.pop()?),
            _ => drop(self.pop_to_mark()?),
        }
        let list = self.top()?;
        match &self.values[list] {
            Value::List => Ok(()),
            other => Err(self.operand("a list to append to", other.kind())),
        }
    }

    fn set_items(&mut self, opcode: u8) -> Result<(), PthError> {
        let items = match opcode {
            b's' => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.pop_to_mark()?,
        };
        let (pairs, odd) = items.as_chunks::<2>();
        if !odd.is_empty() {
            return Err(self.operand("pairs of name and value", format!("{} operands", items.len())));
        }
        let dictionary = self.top()?;
        let Value::Dict(entries) = &mut self.values[dictionary] else {
            let found = self.values[dictionary].kind();
            return Err(self.operand("a dictionary to put entries into", found));
        };
        entries.extend(pairs.iter().map(|[name, value]| (*name, *value)));
        Ok(())
    }

    /// The topmost operand, which stays.
    pub(super) fn top(&mut self) -> Result<Id, PthError> {
        let id = self.pop()?;
        self.stack.push(id);
        Ok(id)
    }

    fn remember(&mut self, opcode: u8) -> Result<(), PthError> {
        let key = match opcode {
            b'q' => self.unsigned(1)? as usize,
            b'r' => self.unsigned(4)? as usize,
            _ => self.memo.len(),
        };
        self.within("entries of the memo", key, MAX_VALUES)?;
        let id = self.top()?;
        self.memo.insert(key, id);
        Ok(())
    }

    fn recall(&mut self, opcode: u8) -> Result<(), PthError> {
        let key = self.unsigned(if opcode == b'h' { 1 } else { 4 })? as usize;
        match self.memo.get(&key) {
            Some(id) => self.push_id(*id),
            None => Err(self.operand("an entry of the memo", format!("no entry {key}"))),
        }
    }

    fn global(&mut self, opcode: u8) -> Result<(), PthError> {
        let (module, name) = match opcode {
            b'c' => (self.line()?, self.line()?),
            _ => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (&self.values[module], &self.values[name]) {
                    (Value::Text(module), Value::Text(name)) => (*module, *name),
                    (other, _) => return Err(self.operand("module and name as texts", other.kind())),
                }
            }
        };
        let name = format!("{module}.{name}");
        match Global::named(&name) {
            Some(global) => self.push(Value::Global(global)),
            None => {
                let offset = self.begin;
                Err(PthError::Global { name, offset })
            }
        }
    }

    fn line(&mut self) -> Result<&'a str, PthError> {
        let rest = &self.pickle[self.at..];
        let length = rest.iter().take(MAX_TEXT).position(|byte| *byte == b'\n');
        let Some(length) = length else {
            self.within("bytes of a text", rest.len(), MAX_TEXT)?;
            return Err(PthError::Truncated {
                offset: self.pickle.len(),
            });
        };
        let line = self.take(length)?;
        self.at += 1;
        std::str::from_utf8(line).map_err(|_| self.operand("a text in UTF-8", "other bytes"))
    }
}
