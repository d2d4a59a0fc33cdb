//! A request's header, and whether its export can serve it.

use super::{ExportInfo, Limits, Style};
use crate::fields::number;
use crate::protocol::{
    EXTENDED_REQUEST_BYTES, EXTENDED_REQUEST_MAGIC, ErrorCode, REQUEST_BYTES, REQUEST_MAGIC, command, command_flags,
};

/// A request's header, compact or extended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) flags: u16,
    pub(super) command: u16,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// What the stream begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Parsed {
    Header(Header),
    Incomplete,
    BadMagic,
}

/// How many bytes a header of this style has.
pub(super) const fn header_bytes(style: Style) -> usize {
    match style {
        Style::Extended => EXTENDED_REQUEST_BYTES,
        Style::Simple | Style::Structured => REQUEST_BYTES,
    }
}

impl Header {
    /// Reads the header that the stream begins with. A wrong magic number is told as soon as it is seen.
    pub(super) fn parse(bytes: &[u8], style: Style) -> Parsed {
        let (magic, length) = match style {
            Style::Extended => (EXTENDED_REQUEST_MAGIC, number::<8>(bytes, 24)),
            Style::Simple | Style::Structured => (REQUEST_MAGIC, number::<4>(bytes, 24)),
        };
        match number::<4>(bytes, 0) {
            Some(seen) if seen != u64::from(magic) => return Parsed::BadMagic,
            _ => {}
        }
        let fields = (number::<2>(bytes, 4), number::<2>(bytes, 6), number::<8>(bytes, 8), number::<8>(bytes, 16));
        let ((Some(flags), Some(command), Some(cookie), Some(offset)), Some(length)) = (fields, length) else {
            return Parsed::Incomplete;
        };
        Parsed::Header(Self { flags: flags as u16, command: command as u16, cookie, offset, length })
    }

    /// How many bytes of payload follow the header.
    pub(super) fn payload_bytes(&self, style: Style) -> u64 {
        // A write has its payload even without the flag that extended headers ask of it: QEMU's client (10.0) leaves it
        // out, and a write that really brought nothing would be none.
        let announced = style == Style::Extended && self.flags & command_flags::PAYLOAD_LEN != 0;
        let has_payload = self.command == command::WRITE || announced;
        if has_payload { self.length } else { 0 }
    }

    /// Whether the request makes sense for `export`. Its length is the effect length here: that of a BLOCK_STATUS with
    /// a payload is checked once that is here.
    pub(super) fn validate(&self, style: Style, export: &ExportInfo, limits: &Limits) -> Result<(), ErrorCode> {
        self.validate_flags(style)?;
        let is_write = matches!(self.command, command::WRITE | command::TRIM | command::WRITE_ZEROES);
        if is_write && export.read_only {
            return Err(ErrorCode::NotPermitted);
        }
        match self.command {
            command::FLUSH if self.offset == 0 && self.length == 0 => return Ok(()),
            command::FLUSH => return Err(ErrorCode::Invalid),
            command::DISC => return Ok(()),
            _ => {}
        }
        let too_long = self.length > u64::from(limits.payload_bytes);
        match self.command {
            command::WRITE if too_long => return Err(ErrorCode::Invalid),
            // A simple reply cannot be cut into chunks; where one could, the client is told to ask for less.
            command::READ if too_long && style == Style::Simple => return Err(ErrorCode::Invalid),
            command::READ if too_long => return Err(ErrorCode::Overflow),
            _ => {}
        }
        if self.flags & command_flags::PAYLOAD_LEN != 0 && self.command == command::BLOCK_STATUS {
            return Ok(());
        }
        self.validate_range(export)
    }

    fn validate_flags(&self, style: Style) -> Result<(), ErrorCode> {
        use command_flags as flag;
        let allowed = match self.command {
            command::READ if style == Style::Simple => 0,
            command::READ => flag::DF,
            command::WRITE if style == Style::Extended => flag::PAYLOAD_LEN,
            command::BLOCK_STATUS if style == Style::Extended => flag::REQ_ONE | flag::PAYLOAD_LEN,
            command::BLOCK_STATUS => flag::REQ_ONE,
            command::WRITE_ZEROES => flag::NO_HOLE | flag::FAST_ZERO,
            command::WRITE | command::DISC | command::FLUSH | command::TRIM | command::CACHE => 0,
            _ => return Err(ErrorCode::Invalid),
        };
        // FUA is taken on every command: some clients set it everywhere, and the protocol lets them.
        if self.flags & !(allowed | flag::FUA) != 0 {
            return Err(ErrorCode::Invalid);
        }
        Ok(())
    }

    /// Whether the range is within the export and made of whole blocks.
    pub(super) fn validate_range(&self, export: &ExportInfo) -> Result<(), ErrorCode> {
        let within = self.offset.checked_add(self.length).is_some_and(|end| end <= export.size_bytes);
        if !within {
            let beyond_is_full = matches!(self.command, command::WRITE | command::WRITE_ZEROES);
            return Err(if beyond_is_full { ErrorCode::NoSpace } else { ErrorCode::Invalid });
        }
        let mask = u64::from(export.minimum_block_bytes) - 1;
        if (self.offset | self.length) & mask != 0 {
            return Err(ErrorCode::Invalid);
        }
        Ok(())
    }
}
