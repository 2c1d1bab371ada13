//! Lines for whoever watches, beside what is asked for on standard output.

use std::fmt;
use std::io::{self, Write};

/// Writes a line on standard error. Where that is closed or full, there is nobody left to tell.
pub fn say(text: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{text}");
}
