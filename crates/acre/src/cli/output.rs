//! Printing.

use api::Error;
use serde::Serialize;
use std::io::{ErrorKind, Write};

/// Prints a text, with one line end behind it.
pub(super) fn print(out: &mut dyn Write, text: &str) -> Result<(), Error> {
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    match write!(out, "{text}{end}").and_then(|()| out.flush()) {
        // Whoever reads has seen enough, as `head` does.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        printed => printed.map_err(|error| Error::internal(format!("cannot print: {error}"))),
    }
}

/// Prints what the API answers.
pub(super) fn print_json(out: &mut dyn Write, value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::internal(error.to_string()))?;
    print(out, &text)
}
