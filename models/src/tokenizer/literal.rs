//! String and bytes literals of Python, as `repr` writes them.
//!
//! Grammar: The Python Language Reference, 2.4.1 "String and Bytes literals". Prefixes but `b`, triple quotes, joined literals
//! and characters by name (`\N{…}`) are not accepted: `repr` writes none of them.

/// The bytes of a literal: a bytes literal's own, a string's in UTF-8.
///
/// # Errors
/// What is wrong with it, in words.
pub(crate) fn parse(literal: &str) -> Result<Vec<u8>, String> {
    let (is_bytes, quoted) = match literal.strip_prefix(['b', 'B']) {
        Some(quoted) => (true, quoted),
        None => (false, literal),
    };
    let quote = quoted.chars().next().filter(|c| matches!(c, '\'' | '"'));
    let inner = quote.and_then(|quote| quoted.strip_prefix(quote)?.strip_suffix(quote));
    let (Some(quote), Some(inner)) = (quote, inner) else {
        return Err("expected a Python string or bytes in quotes".into());
    };
    let mut reader = Reader {
        rest: inner,
        is_bytes,
        out: Vec::with_capacity(inner.len()),
    };
    while let Some(next) = reader.next() {
        match next {
            '\\' => reader.escape()?,
            next if next == quote => return Err(format!("expected \\{quote} inside {quote}…{quote}")),
            next if is_bytes && !next.is_ascii() => {
                return Err(format!("expected ASCII in bytes, found {next:?}"));
            }
            next => reader.put(next),
        }
    }
    Ok(reader.out)
}

struct Reader<'a> {
    rest: &'a str,
    is_bytes: bool,
    out: Vec<u8>,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<char> {
        let next = self.rest.chars().next()?;
        self.rest = &self.rest[next.len_utf8()..];
        Some(next)
    }

    fn put(&mut self, char: char) {
        self.out.extend(char.encode_utf8(&mut [0; 4]).as_bytes());
    }

    /// What follows a backslash.
    fn escape(&mut self) -> Result<(), String> {
        let before = self.rest;
        let kind = self.next().ok_or("expected an escape after \\, found the end")?;
        match kind {
            '\\' | '\'' | '"' => self.put(kind),
            'n' => self.put('\n'),
            'r' => self.put('\r'),
            't' => self.put('\t'),
            'a' => self.put('\x07'),
            'b' => self.put('\x08'),
            'f' => self.put('\x0C'),
            'v' => self.put('\x0B'),
            'x' => self.code(2, 16)?,
            'u' if !self.is_bytes => self.code(4, 16)?,
            'U' if !self.is_bytes => self.code(8, 16)?,
            '0'..='7' => {
                self.rest = before;
                let octal = before.bytes().take(3).take_while(|b| matches!(b, b'0'..=b'7'));
                self.code(octal.count(), 8)?;
            }
            kind => return Err(format!("escape \\{kind} is not known")),
        }
        Ok(())
    }

    /// So many digits: a byte, or the number of a character.
    fn code(&mut self, digits: usize, radix: u32) -> Result<(), String> {
        let text = self
            .rest
            .get(..digits)
            .filter(|text| text.chars().all(|c| c.is_digit(radix)));
        let text = text.ok_or_else(|| format!("expected {digits} digits of base {radix} in an escape"))?;
        let number = u32::from_str_radix(text, radix).map_err(|e| e.to_string())?;
        self.rest = &self.rest[digits..];
        let wrong = || {
            format!(
                "escape of {number:#x}: expected a {}",
                if self.is_bytes { "byte" } else { "character" }
            )
        };
        match self.is_bytes {
            true => self.out.push(u8::try_from(number).map_err(|_| wrong())?),
            false => self.put(char::from_u32(number).ok_or_else(wrong)?),
        }
        Ok(())
    }
}
