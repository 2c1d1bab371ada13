//! The files of golden cases: `ops/OP.json` lists the cases of an operator, `ops/OP.safetensors` holds their tensors as `CASE/TENSOR`.
//! The folder is `$GOLDEN_DIR`, or `tests/golden` of the crate under test.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// One case as it is stored.
pub struct Stored {
    /// `OP/CASE`, for messages.
    pub name: String,
    /// Its entry in the list.
    pub json: Value,
    /// Shape and values of every tensor.
    pub tensors: HashMap<String, (Vec<usize>, Vec<f64>)>,
}

/// Where the golden sets lie.
fn golden_dir() -> PathBuf {
    std::env::var_os("GOLDEN_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"),
        PathBuf::from,
    )
}

/// All cases of an operator; panics when there is none, so that no test passes by finding nothing.
pub fn stored(op: &str) -> Vec<Stored> {
    let folder = golden_dir().join("ops");
    let read = |extension: &str| {
        let path = folder.join(format!("{op}.{extension}"));
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let json: Value = serde_json::from_slice(&read("json")).expect("the case list is JSON");
    let bytes = read("safetensors");
    let file = SafeTensors::deserialize(&bytes).expect("the tensors are safetensors");
    let list = json["cases"].as_array().expect("a list of cases");
    assert!(!list.is_empty(), "{op} has no case");
    list.iter().map(|json| Stored::new(op, json, &file)).collect()
}

impl Stored {
    fn new(op: &str, json: &Value, file: &SafeTensors) -> Self {
        let name = json["name"].as_str().expect("a case has a name");
        let prefix = format!("{name}/");
        let mut tensors = HashMap::new();
        for (path, view) in file.iter() {
            if let Some(tensor) = path.strip_prefix(&prefix) {
                let values = match view.dtype() {
                    Dtype::F64 => of_bytes(view.data(), f64::from_le_bytes),
                    Dtype::F32 => of_bytes(view.data(), |bytes| f64::from(f32::from_le_bytes(bytes))),
                    Dtype::I64 => of_bytes(view.data(), |bytes| i64::from_le_bytes(bytes) as f64),
                    other => panic!("{op}/{path} holds {other:?}"),
                };
                tensors.insert(tensor.to_owned(), (view.shape().to_vec(), values));
            }
        }
        Self {
            name: format!("{op}/{name}"),
            json: json.clone(),
            tensors,
        }
    }
}

fn of_bytes<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f64) -> Vec<f64> {
    bytes
        .as_chunks::<N>()
        .0
        .iter()
        .map(|&bytes| value(bytes))
        .collect()
}
