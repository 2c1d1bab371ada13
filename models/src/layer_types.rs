//! Which layers of a hybrid have attention and which are recurrent, as configurations of Hugging Face say it.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::checkpoint::{CheckpointError, Fields};

/// Whether each of the layers has attention, of a list with a word for every layer; `words` are those for recurrent layers and for those with
/// attention. `None` where there is no such list.
///
/// # Errors
/// [`CheckpointError::Field`] for a list of another length or with other words.
pub(crate) fn by_words(
    fields: &Fields<'_>,
    name: &str,
    layers: usize,
    words: [&[&str]; 2],
) -> Result<Option<Vec<bool>>, CheckpointError> {
    let Some(value) = fields.value(name) else {
        return Ok(None);
    };
    let kind = |value: &Value| {
        let word = value.as_str()?;
        words
            .iter()
            .position(|words| words.contains(&word))
            .map(|kind| kind == 1)
    };
    let found: Option<Vec<bool>> = value.as_array().and_then(|list| list.iter().map(kind).collect());
    match found.filter(|found| found.len() == layers) {
        Some(found) => Ok(Some(found)),
        None => {
            let words: Vec<String> = words.concat().iter().map(|word| format!("{word:?}")).collect();
            let expected = format!("a list of {layers} of the words {}", words.join(", "));
            Err(fields.wrong(name, &expected, Some(value)))
        }
    }
}

/// The layers with attention that `layer_types` lists: `"full_attention"` or `"attention"`, beside `"linear_attention"` or `"mamba"`. `None`
/// where there is no such list.
///
/// # Errors
/// As [`by_words`].
pub(crate) fn attention_layers(
    fields: &Fields<'_>,
    layers: usize,
) -> Result<Option<BTreeSet<usize>>, CheckpointError> {
    let words: [&[&str]; 2] = [&["linear_attention", "mamba"], &["full_attention", "attention"]];
    let kinds = by_words(fields, "layer_types", layers, words)?;
    Ok(kinds.map(|kinds| (0..layers).filter(|layer| kinds[*layer]).collect()))
}

/// The last of every `interval` layers.
pub(crate) fn every(interval: usize, layers: usize) -> BTreeSet<usize> {
    (0..layers)
        .filter(|layer| (layer + 1).is_multiple_of(interval))
        .collect()
}

/// The layers as text.
pub(crate) fn list(layers: &BTreeSet<usize>) -> String {
    let indices: Vec<String> = layers.iter().map(usize::to_string).collect();
    indices.join(", ")
}
