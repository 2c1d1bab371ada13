//! Files that lie where weights, a configuration or a tokenizer should: what they are, and what to do.
//!
//! A clone without Git LFS leaves pointers, a browser saves pages, and other programs have formats of their own. Their names
//! end as those of weights do. What begins as safetensors files do, or is too short to tell, is none of them: it is cut off.

use super::MAX_HEADER_BYTES;

/// What a file is instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disguise {
    /// With its article: "a Git LFS pointer".
    pub found: &'static str,
    /// What the user can do about it, as a phrase: "unpack it first".
    pub advice: &'static str,
}

const fn disguise(found: &'static str, advice: &'static str) -> Disguise {
    Disguise { found, advice }
}

const GIT_LFS: Disguise = disguise(
    "a Git LFS pointer, not the file that it stands for",
    "run `git lfs pull` in its folder, or download the file itself",
);
const PAGE: Disguise = disguise(
    "an HTML page",
    "download the file itself; on the Hugging Face hub its address has /resolve/ where that of the page has /blob/",
);
const INDEX: Disguise = disguise(
    "an index of weights",
    "give the folder that holds it and the files that it names, or call it model.safetensors.index.json",
);
const JSON: Disguise = disguise("JSON text", "give the file of weights");
const TEXT: Disguise = disguise(
    "plain text",
    "give the file of weights, or the folder that holds it",
);
const UNPACK: &str = "unpack it first";

/// First bytes of files of other kinds, and what each such file is.
const MAGIC: [(&[u8], Disguise); 10] = [
    (b"version https://git-lfs.github.com/", GIT_LFS),
    (
        b"GGUF",
        disguise(
            "a GGUF file, as llama.cpp reads them",
            "give it in the place of a checkpoint",
        ),
    ),
    (
        b"PK\x03\x04",
        disguise(
            "a zip archive",
            "call it .pth if torch.save wrote it, or unpack it first",
        ),
    ),
    (b"\x1f\x8b", disguise("a gzip archive", UNPACK)),
    (b"\xfd7zXZ", disguise("an xz archive", UNPACK)),
    (b"\x28\xb5\x2f\xfd", disguise("a zstd archive", UNPACK)),
    (b"BZh", disguise("a bzip2 archive", UNPACK)),
    (
        b"\x93NUMPY",
        disguise("a NumPy array", "convert it to safetensors first"),
    ),
    (
        b"\x89HDF",
        disguise("an HDF5 file", "convert it to safetensors first"),
    ),
    (b"%PDF", disguise("a PDF document", "give the file of weights")),
];
/// Bytes of a safetensors header's length, which come first.
const LENGTH_BYTES: usize = 8;
/// Bytes that are looked at.
const LOOKED_AT: usize = 4096;

/// What bytes are that could not be read as weights, if it is one of the usual things.
pub(crate) fn of_weights(bytes: &[u8]) -> Option<Disguise> {
    if begins_as_safetensors(bytes) {
        return None;
    }
    if let Some((_, found)) = MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Some(*found);
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return Some(disguise("a tar archive", UNPACK));
    }
    if bytes.len() < LENGTH_BYTES {
        return None;
    }
    let text = beginning(bytes)?;
    Some(match text {
        _ if is_page(text) => PAGE,
        _ if text.starts_with('{') && text.contains("\"weight_map\"") => INDEX,
        _ if text.starts_with(['{', '[']) => JSON,
        _ => TEXT,
    })
}

/// What bytes are that could not be read as a file that this program saved. Nobody looks for weights there.
pub(crate) fn of_saved(bytes: &[u8]) -> Option<Disguise> {
    let found = of_weights(bytes)?;
    Some(match found {
        GIT_LFS => GIT_LFS,
        Disguise { found, .. } => disguise(found, "give the file that was saved"),
    })
}

/// Whether a header's length comes first, and its JSON next: lengths may look like the beginnings of archives.
fn begins_as_safetensors(bytes: &[u8]) -> bool {
    bytes
        .split_first_chunk::<LENGTH_BYTES>()
        .is_some_and(|(length, rest)| {
            u64::from_le_bytes(*length) <= MAX_HEADER_BYTES && matches!(rest.first(), None | Some(b'{'))
        })
}

/// What text is that could not be read as a configuration, a tokenizer or a vocabulary.
pub(crate) fn of_text(text: &str) -> Option<Disguise> {
    let pointer = text
        .starts_with("version https://git-lfs.github.com/")
        .then_some(GIT_LFS);
    pointer.or_else(|| is_page(beginning(text.as_bytes())?).then_some(PAGE))
}

fn is_page(text: &str) -> bool {
    let start: String = text.chars().take(16).collect::<String>().to_ascii_lowercase();
    ["<!doctype html", "<html", "<?xml"]
        .iter()
        .any(|tag| start.starts_with(tag))
}

/// The first characters, if they are text.
fn beginning(bytes: &[u8]) -> Option<&str> {
    let head = bytes.get(..LOOKED_AT).unwrap_or(bytes);
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // The cut may lie inside a character.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    let is_shown = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
    let text = text.trim_start_matches('\u{FEFF}');
    (text.chars().all(is_shown) && !text.trim().is_empty()).then(|| text.trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_have_in_the_place_of_weights_is_named() {
        let found = |bytes: &[u8]| of_weights(bytes).map(|disguise| disguise.found);
        let cases: [(&[u8], &str); 9] = [
            (
                b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
                GIT_LFS.found,
            ),
            (b"\n <!DOCTYPE html><html>", PAGE.found),
            (b"GGUF\x03\0\0\0", "a GGUF file, as llama.cpp reads them"),
            (b"PK\x03\x04\x14\0", "a zip archive"),
            (b"{\"metadata\": {}, \"weight_map\": {}}", INDEX.found),
            (b"{\"d_model\": 8}", JSON.found),
            ("# Model card\n\nÜber".as_bytes(), TEXT.found),
            (b"\x1f\x8b\x08", "a gzip archive"),
            ("\u{FEFF}a text".as_bytes(), TEXT.found),
        ];
        for (bytes, expected) in cases {
            assert_eq!(found(bytes), Some(expected), "{}", bytes.escape_ascii());
        }
        for other in [&b""[..], b"\x10\0\0\0\0\0\0\0{}", b"\xff\xfe", b"  \n"] {
            assert_eq!(found(other), None, "{}", other.escape_ascii());
        }
    }

    #[test]
    fn a_safetensors_file_that_is_cut_off_is_nothing_else() {
        // Lengths of headers whose bytes are those of a gzip, a bzip2 and a zip archive, and of no text.
        for length in [0x8B1F_u64, 0x0068_5A42, 0x0403_4B50, 0x20] {
            let whole = [&length.to_le_bytes()[..], b"{\"a\": {}}"].concat();
            for bytes in [&whole[..], &whole[..9], &whole[..8]] {
                assert_eq!(of_weights(bytes), None, "{}", bytes.escape_ascii());
            }
        }
        for short in [&b" "[..], b"short", b"{\"a\":1"] {
            assert_eq!(of_weights(short), None, "{}", short.escape_ascii());
        }
        let zipped = b"\x1f\x8b\x08\0\0\0\0\0\0\x03";
        assert_eq!(
            of_weights(zipped).map(|disguise| disguise.found),
            Some("a gzip archive")
        );
    }

    #[test]
    fn advice_for_saved_files_does_not_speak_of_weights() {
        let texts = MAGIC
            .iter()
            .map(|(magic, _)| [*magic, b" and more text"].concat());
        let others = [
            "<!DOCTYPE html>",
            "{\"weight_map\": {}}",
            "{\"d_model\": 8}",
            "# A model",
        ];
        let others = others.iter().map(|text| text.as_bytes().to_vec());
        for bytes in texts.chain(others) {
            let Disguise { found, advice } = of_saved(&bytes).expect("a disguise");
            assert!(!advice.contains("weights"), "{found}: {advice}");
        }
    }
}
