//! A mitigation with its numbers, as a file: what `diagnose` and `compare` write for those that are calibrated, and what
//! `--mitigation @FILE` reads.
//!
//! ```text
//! {"format": "spillway-mitigation", "version": 1, "model": NAME, "text": NAME,
//!  "mitigation": "state-norm:auto", "calibrated": [[{"layer": 0, "first_head": 0, "values": [1.5, ..]}, ..], ..]}
//! ```
//!
//! `calibrated` holds one table for each part that takes numbers from text, with one number per head.

use crate::error::ProgramError;
use crate::output::OutputFolder;
use serde_json::{Map, Value, json};
use spillway_mitigations::Mitigation;
use spillway_models::input;
use std::path::Path;

const FORMAT: &str = "spillway-mitigation";
const VERSION: u64 = 1;
/// The files that [`write()`] writes, as a pattern of those that a command may replace.
pub const FILES: &str = "mitigations/*.json";
/// Characters of a mitigation's text that go into its file's name.
const NAME_LENGTH: usize = 80;

/// What `--mitigation` takes: the text form, or, where numbers were calibrated, `@` and the file in `folder` that holds them.
pub fn spec(mitigation: &Mitigation, folder: &Path) -> String {
    match mitigation.is_calibrated() {
        true => format!("@{}", folder.join(file_name(&mitigation.to_string())).display()),
        false => mitigation.to_string(),
    }
}

/// Writes the mitigation's file, if its numbers were calibrated: on this text, for this model.
///
/// # Errors
/// [`ProgramError::File`].
pub fn write(
    folder: &mut OutputFolder,
    mitigation: &Mitigation,
    model: &str,
    text: &str,
) -> Result<(), ProgramError> {
    if !mitigation.is_calibrated() {
        return Ok(());
    }
    let mut file = Map::new();
    file.insert("format".into(), json!(FORMAT));
    file.insert("version".into(), json!(VERSION));
    file.insert("model".into(), json!(model));
    file.insert("text".into(), json!(text));
    let internal = |error: serde_json::Error| ProgramError::Internal(format!("JSON: {error}"));
    if let Value::Object(stored) = serde_json::to_value(mitigation).map_err(internal)? {
        file.extend(stored);
    }
    folder.write_json(&file_name(&mitigation.to_string()), &file)
}

/// The mitigation in a file that [`write()`] wrote.
///
/// # Errors
/// [`ProgramError::File`], [`ProgramError::Content`].
pub fn read(path: &Path) -> Result<Mitigation, ProgramError> {
    let bytes = input::read(path, input::MAX_SETTINGS).map_err(ProgramError::file("read", path))?;
    parse(path, &bytes)
}

/// The mitigation in the bytes of a file.
///
/// # Errors
/// [`ProgramError::Content`].
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Mitigation, ProgramError> {
    let expected = "a mitigation with its numbers, as spillway diagnose writes it";
    let content = |found: String| ProgramError::content(path, expected, found);
    let value: Value = serde_json::from_slice(bytes).map_err(|error| content(error.to_string()))?;
    let is = |field: &str, expected: Value| value.get(field) == Some(&expected);
    if !is("format", json!(FORMAT)) {
        return Err(content("JSON of something else".into()));
    }
    if !is("version", json!(VERSION)) {
        return Err(content(format!("version {}", value["version"])));
    }
    if !value["calibrated"].is_array() {
        return Err(content("no numbers (calibrated)".into()));
    }
    serde_json::from_value(value).map_err(|error| content(error.to_string()))
}

/// A number that differs between mitigations and between the numbers they have.
///
/// # Errors
/// [`ProgramError::Internal`] for one that cannot be written.
pub fn fingerprint(mitigation: &Mitigation) -> Result<u64, ProgramError> {
    let written = serde_json::to_vec(mitigation);
    let written = written.map_err(|error| ProgramError::Internal(format!("JSON: {error}")))?;
    Ok(fnv1a(written))
}

fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// `mitigations/state-norm-auto.json`: characters that some file system refuses are replaced.
fn file_name(mitigation: &str) -> String {
    let plain = |c: char| match c.is_ascii_alphanumeric() || ".+".contains(c) {
        true => c,
        false => '-',
    };
    let name: String = mitigation.chars().map(plain).collect();
    match name.len() > NAME_LENGTH {
        false => format!("mitigations/{name}.json"),
        // The hash tells long chains apart.
        true => format!(
            "mitigations/{}-{:016x}.json",
            &name[..NAME_LENGTH],
            fnv1a(mitigation.bytes())
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::OutputPlan;
    use spillway_mitigations::calibrate::{Calibration, HeadStatistics, SiteStatistics};
    use std::fs;

    fn calibration() -> Calibration {
        let head = |norm| HeadStatistics {
            norm,
            final_norm: norm,
            forgetting: 0.1,
            step_sizes: Default::default(),
        };
        Calibration {
            tokens: 64,
            sites: vec![SiteStatistics {
                layer: 0,
                first_head: 0,
                heads: vec![head(0.1), head(12.5)],
                step_norms: Default::default(),
            }],
        }
    }

    #[test]
    fn what_is_written_is_read_with_its_numbers_and_text_needs_no_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("out");
        let mut out = OutputFolder::find(&OutputPlan {
            what: "a diagnosis",
            default: "none",
            named: Some(&path),
            force: false,
            resume: false,
            own: &[],
            marks: &[],
        })
        .expect("created");
        let mitigation: Mitigation = "forget:0.9+state-norm:auto*2".parse().expect("a mitigation");
        let calibrated = mitigation.calibrated(&calibration()).expect("numbers");
        write(&mut out, &calibrated, "tiny", "a text").expect("written");
        let spec = spec(&calibrated, &path);
        assert!(
            spec.ends_with("/mitigations/forget-0.9+state-norm-auto-2.json"),
            "{spec}"
        );
        assert_eq!(read(Path::new(&spec[1..])).expect("read"), calibrated);
        let plain: Mitigation = "window:64".parse().expect("a mitigation");
        assert_eq!(super::spec(&plain, &path), "window:64");
        write(&mut out, &plain, "tiny", "a text").expect("nothing to write");
        // Its lock goes with it.
        out.keep();
        drop(out);
        assert_eq!(fs::read_dir(&path).expect("a folder").count(), 1);
    }

    #[test]
    fn other_files_are_refused_and_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.json");
        for (text, found) in [
            ("{", "EOF"),
            ("[]", "something else"),
            (r#"{"format": "spillway-mitigation", "version": 2}"#, "version 2"),
            (
                r#"{"format": "spillway-mitigation", "version": 1, "mitigation": "window:4"}"#,
                "no numbers",
            ),
            (
                r#"{"format": "spillway-mitigation", "version": 1, "mitigation": "state-norm:auto", "calibrated": []}"#,
                "mitigation",
            ),
            (
                r#"{"format": "spillway-mitigation", "version": 1, "mitigation": "state-norm:auto",
                    "calibrated": [[{"layer": 0, "first_head": 0, "values": [-1.0]}]]}"#,
                "mitigation",
            ),
        ] {
            fs::write(&path, text).expect("written");
            let error = read(&path).expect_err(text).to_string();
            assert!(error.contains("x.json") && error.contains(found), "{error}");
        }
        assert!(read(folder.path()).is_err() && read(&folder.path().join("none")).is_err());
    }

    #[test]
    fn long_chains_get_short_names_that_differ() {
        let chain = |last: &str| file_name(&("forget:0.9+".repeat(100) + last));
        assert!(chain("a").len() < 128);
        assert_ne!(chain("a"), chain("b"));
    }
}
