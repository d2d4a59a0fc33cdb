//! The record codec: variable-length numbers, bounded strings, a version byte in front and a checksum behind.
//!
//! ```text
//! record = version:1  fields…  CRC-32C of all before it:4 (little-endian)
//! number = LEB128, at most 10 bytes, shortest form only
//! string = length (number)  bytes
//! ```

use crate::StoreError;

/// The newest version of any record this program writes and reads.
pub const RECORD_VERSION: u8 = 1;

/// Builds a record.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

impl Writer {
    /// A record with nothing in it yet.
    #[must_use]
    pub fn new() -> Self {
        Self { bytes: vec![RECORD_VERSION] }
    }

    /// Adds one byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// Adds a number, small ones in few bytes.
    pub fn number(&mut self, value: impl Into<u64>) {
        let mut value = value.into();
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// Adds a number that may be missing.
    pub fn option(&mut self, value: Option<u64>) {
        self.u8(u8::from(value.is_some()));
        if let Some(value) = value {
            self.number(value);
        }
    }

    /// Adds bytes as they are; the reader must know how many.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Adds a length and then the bytes.
    pub fn string(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.raw(bytes);
    }

    /// The finished record.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        let checksum = crc32c(&self.bytes);
        self.raw(&checksum.to_le_bytes());
        self.bytes
    }
}

/// Puts a version before `body` and a checksum behind it: a record whose fields another crate encoded.
#[must_use]
pub fn seal(body: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.raw(body);
    writer.finish()
}

/// What [`seal`] was given.
///
/// # Errors
/// [`StoreError::NewerVersion`], or [`StoreError::Corrupt`] when the checksum is wrong.
pub fn open<'a>(what: &'static str, record: &'a [u8]) -> Result<&'a [u8], StoreError> {
    let corrupt = |why| StoreError::Corrupt(format!("{what}: {why}"));
    let (&version, _) = record.split_first().ok_or_else(|| corrupt("it is empty"))?;
    if version > RECORD_VERSION {
        return Err(StoreError::NewerVersion { what, found: version.into(), known: RECORD_VERSION.into() });
    }
    let (checked, checksum) = record.split_last_chunk::<4>().ok_or_else(|| corrupt("it is too short"))?;
    if checked.is_empty() || crc32c(checked) != u32::from_le_bytes(*checksum) {
        return Err(corrupt("its checksum is wrong"));
    }
    Ok(&checked[1..])
}

fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Reads a record. Every method fails rather than reads beyond the end.
#[derive(Debug)]
pub struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Checks the version and the checksum of `record`; `what` names it in errors.
    ///
    /// # Errors
    /// As [`open`].
    pub fn new(what: &'static str, record: &'a [u8]) -> Result<Self, StoreError> {
        Ok(Self { what, rest: open(what, record)? })
    }

    /// The error for a field that cannot be right.
    #[must_use]
    pub fn corrupt(&self, why: &str) -> StoreError {
        StoreError::Corrupt(format!("{}: {why}", self.what))
    }

    /// How many bytes are left.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// One byte.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], as for every method here.
    pub fn u8(&mut self) -> Result<u8, StoreError> {
        let (&byte, rest) = self.rest.split_first().ok_or_else(|| self.corrupt("it ends early"))?;
        self.rest = rest;
        Ok(byte)
    }

    /// A number.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub fn number(&mut self) -> Result<u64, StoreError> {
        let mut value = 0_u64;
        for shift in (0..).step_by(7).take(10) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return if byte == 0 && shift != 0 { Err(self.corrupt("a number is padded")) } else { Ok(value) };
            }
        }
        Err(self.corrupt("a number is too long"))
    }

    /// A number that fits 32 bits.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub fn u32(&mut self) -> Result<u32, StoreError> {
        u32::try_from(self.number()?).map_err(|_| self.corrupt("a number is beyond 32 bits"))
    }

    /// A number that may be missing.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub fn option(&mut self) -> Result<Option<u64>, StoreError> {
        match self.u8()? {
            0 => Ok(None),
            1 => self.number().map(Some),
            _ => Err(self.corrupt("an option is neither there nor missing")),
        }
    }

    /// Yes or no.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub fn bool(&mut self) -> Result<bool, StoreError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.corrupt("a flag is neither set nor clear")),
        }
    }

    /// A count of things that take at least `bytes_each` bytes each, so that no claim makes the reader set memory aside
    /// that the record does not back.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub fn count(&mut self, bytes_each: usize) -> Result<usize, StoreError> {
        let count = self.number()?;
        match usize::try_from(count) {
            Ok(count) if count <= self.rest.len() / bytes_each.max(1) => Ok(count),
            _ => Err(self.corrupt("a count is beyond the record's end")),
        }
    }

    /// So many bytes.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub fn raw(&mut self, length: usize) -> Result<&'a [u8], StoreError> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or_else(|| self.corrupt("it ends early"))?;
        self.rest = rest;
        Ok(bytes)
    }

    /// A string of text.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`].
    pub fn string(&mut self) -> Result<String, StoreError> {
        let length = self.count(1)?;
        let bytes = self.raw(length)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| self.corrupt("a string is not text"))
    }

    /// Says that this was all.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when it was not.
    pub fn finish(self) -> Result<(), StoreError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.corrupt("bytes follow its end")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_come_back(values in prop::collection::vec(any::<u64>(), 0..20), shift in 0_u32..64) {
            let mut writer = Writer::new();
            for value in &values { writer.number(value >> shift); }
            let record = writer.finish();
            let mut reader = Reader::new("test", &record).unwrap();
            for value in &values { prop_assert_eq!(reader.number().unwrap(), value >> shift); }
            prop_assert!(reader.finish().is_ok());
        }
    }

    #[test]
    fn a_flipped_bit_is_seen() {
        let mut record = seal(b"hello");
        assert_eq!(open("test", &record).unwrap(), b"hello");
        record[3] ^= 1;
        assert!(matches!(open("test", &record), Err(StoreError::Corrupt(_))));
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let mut record = seal(b"hello");
        record[0] = RECORD_VERSION + 1;
        assert!(matches!(open("test", &record), Err(StoreError::NewerVersion { .. })));
    }
}
