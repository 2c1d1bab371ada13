//! Numbers as people read them.

/// A whole number with its digits in groups of three: `1,448`.
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

/// `1 head`, `2 heads`.
pub fn counted(number: u64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", count(number))
}

/// Grouped digits and so many decimals: `−12,345.60`.
pub fn grouped(value: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", value.abs());
    let (whole, rest) = text
        .split_once('.')
        .map_or((text.as_str(), ""), |(whole, rest)| (whole, rest));
    let whole = whole.parse().map_or_else(|_| whole.to_string(), count);
    let point = if rest.is_empty() { "" } else { "." };
    let is_zero = text.chars().all(|c| "0.".contains(c));
    let sign = if value < 0.0 && !is_zero { "\u{2212}" } else { "" };
    format!("{sign}{whole}{point}{rest}")
}

/// With a minus sign in the place of a hyphen before the number.
pub fn minus(number: String) -> String {
    match number.strip_prefix('-') {
        Some(rest) => format!("\u{2212}{rest}"),
        None => number,
    }
}

/// A value with three significant digits, as [`significant`] writes it.
pub fn short(value: f64) -> String {
    significant(value, 3)
}

/// So many significant digits, without zeros at the end; thousands in full.
pub fn significant(value: f64, digits: i32) -> String {
    if !value.is_finite() {
        return "not finite".into();
    }
    match value.abs() {
        v if v < 1e-12 => "0".into(),
        v if !(0.001..1e7).contains(&v) => minus(format!("{value:.*e}", (digits - 1).max(0) as usize)),
        v => {
            let decimals = (digits - 1 - v.log10().floor() as i32).max(0) as usize;
            let text = grouped(value, decimals);
            match text.contains('.') {
                true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
                false => text,
            }
        }
    }
}

/// `64`, `1K`, `1.5K`, `1M`, in units of 1024.
pub fn position(number: f64) -> String {
    const K: f64 = 1024.0;
    let (value, unit) = match number {
        n if n >= K.powi(5) => return significant(n, 4),
        n if n >= K * K * K => (n / (K * K * K), "G"),
        n if n >= K * K => (n / (K * K), "M"),
        n if n >= K => (n / K, "K"),
        n => (n, ""),
    };
    match value {
        v if (v - v.round()).abs() < 0.005 => format!("{v:.0}{unit}"),
        v if v < 1.0 => format!("{}{unit}", significant(v, 4)),
        v if (10.0 * v - (10.0 * v).round()).abs() < 0.05 => format!("{v:.1}{unit}"),
        v => format!("{v:.2}{unit}"),
    }
}

/// `277.5 kB`: bytes in decimal units, as bandwidths are given.
pub fn bytes(number: u64) -> String {
    scaled(number, "B")
}

/// `204.0 MFLOP`: a number of some unit, with the prefix that it needs.
pub fn scaled(number: u64, unit: &str) -> String {
    let value = number as f64;
    let prefixes = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    // What would be rounded to 1000.0 of a unit is 1.0 of the next.
    match prefixes.iter().find(|(size, _)| value >= 0.99995 * size) {
        Some((size, prefix)) => format!("{:.1} {prefix}{unit}", value / size),
        None => format!("{number} {unit}"),
    }
}

/// `4.7 s`, `12 min 5 s`, `3 h 20 min`.
pub fn duration(seconds: f64) -> String {
    match seconds.round() as u64 {
        0..60 => format!("{seconds:.1} s"),
        whole => whole_seconds(whole),
    }
}

/// A time in whole seconds: `46 s`, `12 min 5 s`, `3 h 20 min`.
pub fn whole_seconds(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// The day of a number of seconds since 1970, in the Gregorian calendar at Greenwich: `2026-01-31`.
pub fn day(seconds: u64) -> String {
    let (year, month, day) = civil(seconds / 86_400);
    format!("{year}-{month:02}-{day:02}")
}

/// Year, month and day of a number of days since 1970, counted in eras of 400 years that begin in March, so that leap days come last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
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
        assert_eq!([7, 1448, 1_048_576].map(count), ["7", "1,448", "1,048,576"]);
        assert_eq!(
            [64.0, 1536.0, 1280.0, 1_048_576.0, 0.25].map(position),
            ["64", "1.5K", "1.25K", "1M", "0.25"]
        );
        assert_eq!(
            [0.25, 0.1234, 12.0, -1234.5, 3e-7].map(short),
            ["0.25", "0.123", "12", "\u{2212}1,234", "3.00e-7"]
        );
        assert_eq!(
            [nats(Some(-0.001)), nats(Some(-0.02)), nats(None)],
            ["0.00", "\u{2212}0.02", "–"]
        );
        assert_eq!(list(&["a".into(), "b".into(), "c".into()]), "a, b and c");
        assert_eq!(
            [grouped(-0.001, 2), grouped(-12_345.6, 2)],
            ["0.00", "\u{2212}12,345.60"]
        );
    }

    #[test]
    fn units_have_the_prefix_that_the_number_needs() {
        assert_eq!(
            [12, 277_504, 999_999, 19_400_000, 2_500_000_000].map(bytes),
            ["12 B", "277.5 kB", "1.0 MB", "19.4 MB", "2.5 GB"]
        );
        assert_eq!(scaled(204_000_000, "FLOP"), "204.0 MFLOP");
        assert_eq!(
            [4.71, 725.0, 12_000.0].map(duration),
            ["4.7 s", "12 min 5 s", "3 h 20 min"]
        );
    }

    #[test]
    fn one_is_singular_and_all_else_plural() {
        assert_eq!(
            [0, 1, 2, 1000].map(|n| counted(n, "head")),
            ["0 heads", "1 head", "2 heads", "1,000 heads"]
        );
    }

    #[test]
    fn days_have_their_dates() {
        for (days, date) in [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (20_778, (2026, 11, 21)),
        ] {
            assert_eq!(civil(days), date, "{days}");
        }
    }
}
