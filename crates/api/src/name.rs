//! Names of pools and volumes.

use crate::Error;

/// The longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// Whether `name` may name a `what` ("pool", "volume"): letters, digits, `.`, `_` and `-`, 1 to 255 bytes, the first a
/// letter or a digit. No `/`, which separates path segments, and no `@`, which separates a volume from its snapshot.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`], with the rule in words.
pub fn check_name(what: &str, name: &str) -> Result<(), Error> {
    let shown: String = name.chars().take(64).collect();
    if name.is_empty() {
        return Err(Error::invalid(format!("a {what} needs a name")));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(Error::invalid(format!(
            "the {what} name {shown:?}… has {} bytes; at most {NAME_BYTES_MAX} are allowed",
            name.len()
        )));
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if !name.bytes().all(allowed) || !name.as_bytes()[0].is_ascii_alphanumeric() {
        return Err(Error::invalid(format!(
            "{shown:?} cannot name a {what}: use letters, digits, '.', '_' and '-', starting with a letter or a digit"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn plain_names_are_taken() {
        for name in ["a", "demo", "vm-1.root_disk", "0", &"x".repeat(255)] {
            assert_eq!(check_name("volume", name), Ok(()), "{name}");
        }
    }

    #[test]
    fn names_that_would_mean_something_else_in_a_path_or_a_command_are_refused() {
        for name in ["", ".", "..", "-rf", "a/b", "demo@monday", "a b", "ü", "a\n", &"x".repeat(256)] {
            let error = check_name("volume", name).expect_err(name);
            assert_eq!(error.kind, ErrorKind::Invalid);
            assert!(error.message.contains("volume"), "{error}");
        }
    }
}
