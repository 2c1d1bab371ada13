//! Numbers as people read them.

/// `1,448`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `64`, `1K`, `1.5K`, `1M`, in units of 1024.
pub fn position(number: f64) -> String {
    let (value, unit) = match number {
        n if n >= 1024.0 * 1024.0 => (n / (1024.0 * 1024.0), "M"),
        n if n >= 1024.0 => (n / 1024.0, "K"),
        n => (n, ""),
    };
    if (value - value.round()).abs() < 0.05 {
        format!("{value:.0}{unit}")
    } else {
        format!("{value:.1}{unit}")
    }
}

/// `256 KiB`.
pub fn bytes(number: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = number as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value >= 100.0 || unit == 0 {
        format!("{value:.0} {}", units[unit])
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

/// A loss or a difference of losses, two decimals; a dash when there is none. Never `-0.00`.
pub fn nats(value: Option<f64>) -> String {
    match value {
        None => "–".into(),
        Some(value) if value.abs() < 0.005 => "0.00".into(),
        Some(value) if value < 0.0 => format!("\u{2212}{:.2}", -value),
        Some(value) => format!("{value:.2}"),
    }
}

/// A factor: `2.9`, `14`, `more than 1,000,000`.
pub fn factor(value: f64) -> String {
    match value {
        v if !v.is_finite() => "beyond every number".into(),
        v if v >= 1e6 => "more than 1,000,000".into(),
        v if v >= 10.0 => count(v.round() as u64),
        v if v >= 1.995 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// `a`, `a and b`, `a, b and c`.
pub fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_people_read_them() {
        assert_eq!(
            [count(7), count(1448), count(1_048_576)],
            ["7", "1,448", "1,048,576"]
        );
        assert_eq!(
            [position(64.0), position(1536.0), position(1_048_576.0)],
            ["64", "1.5K", "1M"]
        );
        assert_eq!([bytes(100), bytes(273_408)], ["100 B", "267 KiB"]);
        assert_eq!(
            [nats(Some(-0.001)), nats(Some(-0.02)), nats(None)],
            ["0.00", "\u{2212}0.02", "–"]
        );
        assert_eq!(list(&["a".into(), "b".into(), "c".into()]), "a, b and c");
    }
}
