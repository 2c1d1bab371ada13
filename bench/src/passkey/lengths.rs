//! Lists of lengths as they are typed: `1k..64k`, `1k,2k,5000`, or both.

use crate::values::parse_tokens;

/// Lengths in tokens, ascending, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lengths(pub Vec<u64>);

/// Reads lengths between commas; `A..B` doubles from A and ends with B.
///
/// # Errors
/// One sentence that says what would have been accepted.
pub fn parse_lengths(text: &str) -> Result<Lengths, String> {
    let mut lengths = Vec::new();
    for part in text.split(',') {
        match part.split_once("..") {
            None => lengths.push(parse_tokens(part)?),
            Some((first, last)) => lengths.extend(doubling(parse_tokens(first)?, parse_tokens(last)?)?),
        }
    }
    lengths.sort_unstable();
    lengths.dedup();
    if lengths.first() == Some(&0) {
        return Err("expected lengths of at least 1 token, found 0".into());
    }
    Ok(Lengths(lengths))
}

fn doubling(first: u64, last: u64) -> Result<Vec<u64>, String> {
    if first == 0 || first > last {
        return Err(format!(
            "expected FIRST..LAST with 0 < FIRST ≤ LAST, found {first}..{last}"
        ));
    }
    let doubled = std::iter::successors(Some(first), |length| length.checked_mul(2));
    let mut lengths: Vec<u64> = doubled.take_while(|length| *length < last).collect();
    lengths.push(last);
    Ok(lengths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_double_and_lists_are_sorted() {
        assert_eq!(parse_lengths("1k..8k"), Ok(Lengths(vec![1024, 2048, 4096, 8192])));
        assert_eq!(parse_lengths("3000..8k"), Ok(Lengths(vec![3000, 6000, 8192])));
        assert_eq!(
            parse_lengths("2k,5000,1k,2k"),
            Ok(Lengths(vec![1024, 2048, 5000]))
        );
        assert_eq!(parse_lengths("1k..2k,9k"), Ok(Lengths(vec![1024, 2048, 9216])));
        assert_eq!(parse_lengths("7..7"), Ok(Lengths(vec![7])));
    }

    #[test]
    fn impossible_lengths_are_refused() {
        for bad in ["", "0", "4k..1k", "0..4k", "1k..", "1k,,2k", "a..b", "-1"] {
            assert!(parse_lengths(bad).is_err(), "{bad}");
        }
    }
}
