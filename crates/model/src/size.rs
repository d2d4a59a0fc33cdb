//! Sizes as people write and read them.

use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// A number of bytes that reads `64k`, `1.5T`, `10GiB` or `4096`, and prints like `1.5 TiB`. Units are powers of 1,024.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ByteSize(pub u64);

/// Why a size could not be read.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{text:?} is not a size: {reason}; write a number with an optional unit, such as 4096, 64k, 1.5T or 10GiB")]
pub struct SizeError {
    text: String,
    reason: &'static str,
}

const UNITS: [(&str, u32); 7] = [("", 0), ("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40), ("PiB", 50), ("EiB", 60)];

impl FromStr for ByteSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let fail = |reason| SizeError { text: text.chars().take(64).collect(), reason };
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(split);
        let shift = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            "p" | "pb" | "pib" => 50,
            "e" | "eb" | "eib" => 60,
            _ => return Err(fail("its unit is unknown")),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || fraction.contains('.') || (number.contains('.') && fraction.is_empty()) {
            return Err(fail("its number is malformed"));
        }
        if fraction.len() > 18 || whole.len() > 20 {
            return Err(fail("it has too many digits"));
        }
        let whole: u128 = whole.parse().map_err(|_| fail("its number is malformed"))?;
        let scale = 10_u128.pow(fraction.len() as u32);
        let part: u128 =
            if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| fail("its number is malformed"))? };
        let scaled = (whole * scale + part) << shift;
        if !scaled.is_multiple_of(scale) {
            return Err(fail("it is not a whole number of bytes"));
        }
        u64::try_from(scaled / scale).map(Self).map_err(|_| fail("it is beyond 16 EiB"))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exponent = UNITS.iter().rposition(|(_, shift)| self.0 >> shift != 0).unwrap_or(0);
        let (unit, shift) = UNITS[exponent];
        if shift == 0 {
            return f.pad(&format!("{} B", self.0));
        }
        let hundredths = ((u128::from(self.0) * 100) >> shift) as u64;
        let text = match (hundredths / 100, hundredths % 100) {
            (whole, 0) => format!("{whole} {unit}"),
            (whole, part) if part % 10 == 0 => format!("{whole}.{} {unit}", part / 10),
            (whole, part) => format!("{whole}.{part:02} {unit}"),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        for (text, bytes) in
            [("64k", 65536), ("1.5T", 3 << 39), ("4096", 4096), ("10GiB", 10 << 30), (" 2 MB ", 2 << 20), ("0.5k", 512)]
        {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in
            ["", "k", "1.", ".5k", "1..2k", "12x", "-1", "1.3", "99999999999P", "1e9", "16E", "9999999999999999999999"]
        {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_print_in_the_largest_unit_that_fits() {
        for (bytes, text) in [
            (0, "0 B"),
            (512, "512 B"),
            (65536, "64 KiB"),
            (3 << 39, "1.5 TiB"),
            (1 << 50, "1 PiB"),
            (1_100_000, "1.04 MiB"),
        ] {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
    }
}
