//! Which files of a repository are read here: one checkpoint's weights, and what lies beside them.

use std::path::PathBuf;

use super::{HubError, Reference};
use crate::checkpoint::{Weights, weights_among};
use crate::tokenizer::is_rwkv_vocabulary;

/// What is read beside weights, where it is there.
const BESIDE: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "spillway.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "chat_template.jinja",
];

/// What of a repository is read, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selection {
    /// The weights, or the index that names their shards.
    pub(super) weights: String,
    /// What lies beside them.
    pub(super) beside: Vec<String>,
}

impl Selection {
    /// What is read of these files, where the weights are those that the reference names or, in a repository of one model, those
    /// that would be found in its folder.
    pub(super) fn of(reference: &Reference, names: &[String]) -> Result<Self, HubError> {
        let weights = match reference.file() {
            Some(file) if names.iter().any(|name| name == file) => file.to_string(),
            Some(_) => return Err(no_weights(reference, names)),
            None => {
                let top = names.iter().filter(|name| !name.contains('/'));
                let mut top: Vec<PathBuf> = top.map(PathBuf::from).collect();
                top.sort();
                match weights_among(&top, |name| top.iter().any(|other| other.as_os_str() == name)) {
                    // The name is one of theirs, or of ours.
                    Weights::One(name) => name.to_string_lossy().into_owned(),
                    Weights::Several(found) => {
                        let repository = reference.to_string();
                        return Err(HubError::SeveralWeights { repository, found });
                    }
                    Weights::None => return Err(no_weights(reference, names)),
                }
            }
        };
        let folder = folder_of(&weights);
        let is_beside = |name: &&String| {
            let own = name.strip_prefix(folder);
            own.is_some_and(|own| BESIDE.contains(&own) || (!own.contains('/') && is_rwkv_vocabulary(own)))
        };
        let beside = names.iter().filter(is_beside).cloned().collect();
        Ok(Self { weights, beside })
    }

    /// Whether the weights are named by an index.
    pub(super) fn is_index(&self) -> bool {
        self.weights.ends_with(".index.json")
    }

    /// The names of the shards that the text of the index names, each once; `None` where it is no index.
    pub(super) fn shards(&self, index: &str) -> Option<Vec<String>> {
        let index: serde_json::Value = serde_json::from_str(index).ok()?;
        let map = index.get("weight_map")?.as_object()?;
        let folder = folder_of(&self.weights);
        let names = map
            .values()
            .map(|name| Some(format!("{folder}{}", name.as_str()?)));
        let mut names: Vec<String> = names.collect::<Option<_>>()?;
        names.sort();
        names.dedup();
        Some(names)
    }
}

/// The folder that a name lies in, with its slash.
fn folder_of(name: &str) -> &str {
    name.rfind('/').map_or("", |slash| &name[..=slash])
}

fn no_weights(reference: &Reference, names: &[String]) -> HubError {
    const SHOWN: usize = 8;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    let found = match (shown.is_empty(), names.len().saturating_sub(SHOWN)) {
        (true, _) => "no files".into(),
        (false, 0) => shown.join(", "),
        (false, more) => format!("{} and {more} more", shown.join(", ")),
    };
    let repository = reference.to_string();
    HubError::NoWeights { repository, found }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(reference: &str, names: &[&str]) -> Result<Selection, HubError> {
        let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        Selection::of(&reference.parse().unwrap(), &names)
    }

    #[test]
    fn safetensors_come_before_other_weights_and_only_what_is_read_comes_along() {
        let found = select(
            "a/b",
            &[
                ".gitattributes",
                "README.md",
                "config.json",
                "model.safetensors",
                "onnx/config.json",
                "pytorch_model.bin",
                "tokenizer.json",
                "tokenizer.model",
            ],
        )
        .unwrap();
        assert_eq!(found.weights, "model.safetensors");
        // SentencePiece's scores are in its own file alone.
        assert_eq!(found.beside, ["config.json", "tokenizer.json", "tokenizer.model"]);
    }

    #[test]
    fn a_repository_of_several_models_wants_one_to_be_named() {
        let names = ["a.pth", "b.pth", "rwkv_vocab_v20230424.txt", "sub/c.pth"];
        let error = select("a/b", &names).unwrap_err();
        assert!(
            matches!(&error, HubError::SeveralWeights { found, .. } if found.as_slice() == ["a.pth", "b.pth"])
        );
        assert!(error.to_string().contains("a/b:a.pth"), "{error}");
        let found = select("a/b:b.pth", &names).unwrap();
        assert_eq!(
            (found.weights.as_str(), found.beside.len()),
            ("b.pth", 1),
            "{found:?}"
        );
        assert_eq!(select("a/b:sub/c.pth", &names).unwrap().beside, [] as [String; 0]);
        assert!(matches!(
            select("a/b:d.pth", &names),
            Err(HubError::NoWeights { .. })
        ));
        assert!(matches!(
            select("a/b", &["README.md"]),
            Err(HubError::NoWeights { .. })
        ));
    }

    #[test]
    fn an_index_names_its_shards() {
        let selection = select("a/b", &["model.safetensors.index.json", "config.json"]).unwrap();
        assert!(selection.is_index());
        let index = r#"{"weight_map": {"x": "two", "y": "one", "z": "two"}}"#;
        assert_eq!(selection.shards(index).unwrap(), ["one", "two"]);
        assert_eq!(selection.shards("[]"), None);
        assert_eq!(selection.shards(r#"{"weight_map": {"x": 1}}"#), None);
    }
}
