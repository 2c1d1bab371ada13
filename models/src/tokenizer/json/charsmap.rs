//! The character map of SentencePiece's normaliser: a trie in a double array, and the texts that its leaves point to.
//!
//! `[bytes of the array: u32][array of u32][texts, each ended by a zero]`, all in base 64. The library follows whatever the
//! array says. Here every place that it can come to is visited once, so that none leads outside.
//!
//! Format: Darts-clone, <https://github.com/s-yata/darts-clone>.

/// Checks a map, and gives the length of the longest text that it puts in the place of one character.
///
/// # Errors
/// One sentence on what is wrong with it.
pub(super) fn longest_replacement(base64: &str) -> Result<usize, String> {
    let bytes = decode_base64(base64).ok_or("precompiled_charsmap is not base 64")?;
    let (length, rest) = bytes
        .split_first_chunk::<4>()
        .ok_or("precompiled_charsmap is too short for its own length")?;
    let length = u32::from_le_bytes(*length) as usize / 4 * 4;
    let (array, texts) = rest.split_at_checked(length).ok_or_else(|| {
        format!(
            "precompiled_charsmap claims an array of {length} bytes, and {} follow",
            rest.len()
        )
    })?;
    let array: Vec<u32> = array
        .chunks_exact(4)
        .map(|unit| u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]]))
        .collect();
    let texts = std::str::from_utf8(texts).map_err(|_| "the texts of precompiled_charsmap are not UTF-8")?;
    check(&array, texts)?;
    Ok(texts.split('\0').map(str::len).max().unwrap_or(0))
}

/// Visits every node that a text can lead to.
fn check(array: &[u32], texts: &str) -> Result<(), String> {
    let outside = || "precompiled_charsmap leads outside itself".to_string();
    let root = offset(*array.first().ok_or("precompiled_charsmap is empty")?);
    let mut seen = vec![false; array.len()];
    let mut waiting = vec![root];
    while let Some(node) = waiting.pop() {
        for byte in 1..=usize::from(u8::MAX) {
            let unit = *array.get(node ^ byte).ok_or_else(outside)?;
            if unit & (1 << 31 | 0xFF) != byte as u32 {
                continue;
            }
            let next = node ^ byte ^ offset(unit);
            if unit >> 8 & 1 == 1 {
                let text = *array.get(next).ok_or_else(outside)? & !(1 << 31);
                if !texts.is_char_boundary(text as usize) {
                    return Err(outside());
                }
            }
            let seen = seen.get_mut(next).ok_or_else(outside)?;
            if !std::mem::replace(seen, true) {
                waiting.push(next);
            }
        }
    }
    Ok(())
}

/// Where a unit's children are, relative to itself by exclusive or.
fn offset(unit: u32) -> usize {
    (unit as usize >> 10) << ((unit & 1 << 9) >> 6)
}

/// The bytes of standard base 64.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').as_bytes();
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 3);
    for group in digits.chunks(4) {
        let mut bits = 0u32;
        for digit in group {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        bits <<= 6 * (4 - group.len());
        let [_, first, second, third] = bits.to_be_bytes();
        bytes.extend_from_slice(&[first, second, third][..group.len() * 6 / 8]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_64_is_read_with_every_ending() {
        for (text, bytes) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
        ] {
            assert_eq!(decode_base64(text).as_deref(), Some(bytes.as_bytes()));
        }
        assert_eq!(decode_base64("Zm9*"), None);
    }

    #[test]
    fn an_array_that_points_behind_its_end_is_refused() {
        // The root's children begin at 256, and "a" has a leaf there.
        let mut array = vec![0u32; 512];
        array[0] = 256 << 10;
        array[256 ^ usize::from(b'a')] = u32::from(b'a') | 1 << 8 | (1 << 10);
        let leaf = 256 ^ usize::from(b'a') ^ 1;
        array[leaf] = 1 << 31 | 2;
        assert_eq!(check(&array, "x\0y\0"), Ok(()));
        assert!(check(&array, "x").is_err(), "the text is too short");
        assert!(check(&array, "xé").is_err(), "inside a character");
        assert!(check(&array[..300], "x\0y\0").is_err(), "the array is too short");
        assert!(check(&[], "").is_err());
    }
}
