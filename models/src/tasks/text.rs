//! Text classification: which class a text is of, from its bytes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::digits::{held_out, split};
use super::{
    Answer, Answers, Example, Input, Item, Sequence, Shape, Split, Task, TaskError, When, expect_length,
};
use crate::input;

/// Number of values of a byte: every id is below it.
const BYTES: usize = 256;
/// The longest file that is read.
const MAX_BYTES: u64 = 1 << 30;

/// Text classification: which class a text is of, from its first T bytes.
///
/// `path` is a folder with a folder of text files for every class, as reviews are published (`pos/1_10.txt`, `neg/1_1.txt`), or a CSV file
/// with a column for the text and one for the class. Classes are numbered in the order of their names. Texts that are shorter than T
/// end earlier: what comes after their end is neither averaged nor read from.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TextClasses {
    /// The texts: a folder with a folder for every class, or a CSV file.
    pub path: PathBuf,
    /// The texts that are held out, of the same form. Default: a share of those in `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_path: Option<PathBuf>,
    /// Share of the texts that is held out, without `held_out_path`.
    #[serde(default = "held_out")]
    pub held_out: f64,
    /// Seed of what is held out.
    #[serde(default)]
    pub shuffle: u64,
    /// Column of the text in a CSV file.
    #[serde(default = "text_column")]
    pub text: String,
    /// Column of the class in a CSV file.
    #[serde(default = "label_column")]
    pub label: String,
}

fn text_column() -> String {
    "text".into()
}

fn label_column() -> String {
    "label".into()
}

/// Texts with their classes.
#[derive(Clone, Debug)]
pub struct LabelledTexts {
    classes: usize,
    training: Vec<(Vec<u8>, u32)>,
    held_out: Vec<(Vec<u8>, u32)>,
}

/// Texts by the name of their class.
type ByClass = BTreeMap<String, Vec<Vec<u8>>>;

impl TextClasses {
    /// Reads the texts; relative paths start from `base`.
    ///
    /// # Errors
    /// [`TaskError::File`] and [`TaskError::Content`]; [`TaskError::Option`] for a share that leaves one part without texts.
    pub fn open(&self, base: &Path) -> Result<LabelledTexts, TaskError> {
        let path = base.join(&self.path);
        let texts = self.read(&path)?;
        if texts.len() < 2 {
            let found = texts.len();
            return Err(TaskError::content(
                &path,
                "",
                "texts of at least 2 classes",
                found,
            ));
        }
        let names: Vec<String> = texts.keys().cloned().collect();
        let classes = names.len();
        let (training, held_out) = match &self.held_out_path {
            None => {
                let mut all: Vec<_> = numbered(texts, &names).collect();
                let mut rng = StdRng::seed_from_u64(self.shuffle);
                let (training, held_out) = split(all.len(), self.held_out, &mut rng)?;
                let mut taken = |list: Vec<usize>| -> Vec<(Vec<u8>, u32)> {
                    list.into_iter()
                        .map(|index| std::mem::take(&mut all[index]))
                        .collect()
                };
                (taken(training), taken(held_out))
            }
            Some(other) => {
                let other = base.join(other);
                let held_out = self.read(&other)?;
                if let Some(name) = held_out.keys().find(|name| !names.contains(name)) {
                    let expected = format!("the classes {}", names.join(", "));
                    return Err(TaskError::content(&other, "", expected, format!("{name:?}")));
                }
                if held_out.is_empty() {
                    return Err(TaskError::content(&other, "", "texts", "none"));
                }
                (
                    numbered(texts, &names).collect(),
                    numbered(held_out, &names).collect(),
                )
            }
        };
        Ok(LabelledTexts {
            classes,
            training,
            held_out,
        })
    }

    fn read(&self, path: &Path) -> Result<ByClass, TaskError> {
        match path.is_dir() {
            true => read_folders(path),
            false => self.read_csv(path),
        }
    }

    fn read_csv(&self, path: &Path) -> Result<ByClass, TaskError> {
        let bytes = input::read(path, MAX_BYTES).map_err(TaskError::file(path))?;
        let mut reader = csv::Reader::from_reader(bytes.as_slice());
        let wrong = |error: csv::Error| {
            let line = error.position().map(|position| position.line());
            let place = line.map_or(String::new(), |line| format!("line {line}: "));
            TaskError::content(path, place, "CSV with a line of names first", error)
        };
        let names = reader.byte_headers().map_err(wrong)?.clone();
        let column = |wanted: &str| {
            let found = names.iter().position(|name| name == wanted.as_bytes());
            found.ok_or_else(|| {
                let names: Vec<_> = names.iter().map(String::from_utf8_lossy).collect();
                let expected = format!("a column {wanted:?} in the first line");
                TaskError::content(
                    path,
                    "line 1: ",
                    expected,
                    format!("columns {}", names.join(", ")),
                )
            })
        };
        let (text, label) = (column(&self.text)?, column(&self.label)?);
        let mut texts = ByClass::new();
        for record in reader.byte_records() {
            let record = record.map_err(wrong)?;
            // Every record has as many fields as the first line.
            let [text, label] = [text, label].map(|column| record.get(column).unwrap_or_default());
            let label = String::from_utf8_lossy(label).trim().to_string();
            texts.entry(label).or_default().push(text.to_vec());
        }
        Ok(texts)
    }
}

/// The texts of every class with the class's place in `names`.
fn numbered(texts: ByClass, names: &[String]) -> impl Iterator<Item = (Vec<u8>, u32)> {
    texts.into_iter().flat_map(move |(name, texts)| {
        let class = names.iter().position(|other| *other == name).unwrap_or(0) as u32;
        texts.into_iter().map(move |text| (text, class))
    })
}

/// The files in the folders of a folder, each of the class that its folder is called by; hidden ones are left out.
fn read_folders(path: &Path) -> Result<ByClass, TaskError> {
    let list = |folder: &Path| -> Result<Vec<PathBuf>, TaskError> {
        let entries = fs::read_dir(folder).map_err(TaskError::file(folder))?;
        let paths = entries.map(|entry| Ok(entry.map_err(TaskError::file(folder))?.path()));
        let mut paths: Vec<PathBuf> = paths.collect::<Result<_, TaskError>>()?;
        let hidden = |path: &PathBuf| name(path).starts_with('.');
        paths.retain(|path| !hidden(path));
        // The system gives them in any order.
        paths.sort();
        Ok(paths)
    };
    let mut texts = ByClass::new();
    for class in list(path)?.into_iter().filter(|path| path.is_dir()) {
        let files = list(&class)?.into_iter().filter(|path| path.is_file());
        let read = files.map(|file| input::read(&file, MAX_BYTES).map_err(TaskError::file(&file)));
        let read: Vec<Vec<u8>> = read.collect::<Result<_, _>>()?;
        if !read.is_empty() {
            texts.insert(name(&class), read);
        }
    }
    Ok(texts)
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

impl Task for LabelledTexts {
    fn check(&self, length: usize) -> Result<(), TaskError> {
        expect_length(length, 1, "a text")
    }

    fn shape(&self) -> Shape {
        Shape {
            input: Input::Tokens(BYTES),
            answer: Answer::Class(self.classes),
            when: When::AtTheEnd,
        }
    }

    fn count(&self, part: Split) -> Option<u64> {
        Some(self.part(part).len() as u64)
    }

    fn example(&self, length: usize, item: Item, _: &mut StdRng) -> Example {
        let (text, class) = &self.part(item.part)[item.index as usize];
        let mut tokens: Vec<u32> = text.iter().take(length).map(|byte| u32::from(*byte)).collect();
        // A text without bytes is read as one byte 0.
        let steps = tokens.len().max(1);
        tokens.resize(length, 0);
        Example::once(Sequence::Tokens(tokens), Answers::Classes(vec![*class]), steps)
    }
}

impl LabelledTexts {
    fn part(&self, part: Split) -> &[(Vec<u8>, u32)] {
        match part {
            Split::Training => &self.training,
            Split::HeldOut => &self.held_out,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(path: &Path) -> TextClasses {
        TextClasses {
            path: path.into(),
            held_out_path: None,
            held_out: 0.25,
            shuffle: 0,
            text: text_column(),
            label: label_column(),
        }
    }

    fn all(texts: &LabelledTexts) -> Vec<(Vec<u8>, u32)> {
        let mut all = [texts.training.clone(), texts.held_out.clone()].concat();
        all.sort();
        all
    }

    #[test]
    fn folders_and_a_csv_file_hold_the_same_texts() {
        let folder = tempfile::tempdir().unwrap();
        let mut csv = "id,text,label\n".to_string();
        for (class, index) in [("neg", 1), ("neg", 2), ("pos", 3), ("pos", 4)] {
            let path = folder.path().join("texts").join(class);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join(format!("{index}.txt")), format!("text, {index}")).unwrap();
            csv += &format!("{index},\"text, {index}\",{class}\n");
        }
        fs::write(folder.path().join("texts/README"), "no class").unwrap();
        fs::write(folder.path().join("texts.csv"), csv).unwrap();
        let folders = task(Path::new("texts")).open(folder.path()).unwrap();
        let csv = task(Path::new("texts.csv")).open(folder.path()).unwrap();
        assert_eq!(all(&folders), all(&csv));
        assert_eq!(all(&csv)[2], (b"text, 3".to_vec(), 1));
        assert_eq!((csv.training.len(), csv.held_out.len(), csv.classes), (3, 1, 2));
        let both = TextClasses {
            held_out_path: Some("texts".into()),
            ..task(Path::new("texts.csv"))
        };
        let both = both.open(folder.path()).unwrap();
        assert_eq!((both.training.len(), both.held_out.len()), (4, 4));
    }

    #[test]
    fn texts_are_cut_or_end_early() {
        let texts = LabelledTexts {
            classes: 2,
            training: vec![(b"abc".to_vec(), 1), (Vec::new(), 0)],
            held_out: vec![(b"z".to_vec(), 0)],
        };
        let mut rng = StdRng::seed_from_u64(0);
        let mut read = |length, index| {
            let example = texts.example(length, Item::training(index), &mut rng);
            (example.inputs, example.steps)
        };
        assert_eq!(read(2, 0), (Sequence::Tokens(vec![97, 98]), 2));
        assert_eq!(read(5, 0), (Sequence::Tokens(vec![97, 98, 99, 0, 0]), 3));
        assert_eq!(read(2, 1), (Sequence::Tokens(vec![0, 0]), 1));
    }

    #[test]
    fn what_is_no_set_of_texts_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("texts.csv");
        for (text, words) in [
            ("text,class\na,b\n", "line 1: expected a column \"label\""),
            (
                "text,label\na,b\n",
                "expected texts of at least 2 classes, found 1",
            ),
            ("text,label\na,b\nc\n", "line 3: expected CSV"),
            ("", "line 1: expected a column \"text\""),
        ] {
            fs::write(&path, text).unwrap();
            let error = task(&path).open(Path::new("")).unwrap_err().to_string();
            assert!(error.contains(words), "{text:?}: {error}");
        }
        let error = task(folder.path()).open(Path::new("")).unwrap_err().to_string();
        assert!(
            error.contains("expected texts of at least 2 classes, found 0"),
            "{error}"
        );
        assert!(matches!(
            task(Path::new("none.csv")).open(Path::new("")),
            Err(TaskError::File { .. })
        ));
    }
}
