//! The data of those options that have some, taken apart.

use super::handshake::text;
use crate::protocol::{BASE_ALLOCATION, STRING_BYTES_MAX, option_reply};

/// Why an option's data are refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    pub(super) reply: u32,
    pub(super) message: &'static str,
}

const MALFORMED: Refusal = Refusal { reply: option_reply::ERR_INVALID, message: "the option's data are malformed" };
const NOT_TEXT: Refusal = Refusal { reply: option_reply::ERR_INVALID, message: "a name is not text" };
const NAME_TOO_LONG: Refusal =
    Refusal { reply: option_reply::ERR_TOO_BIG, message: "a name is longer than 4096 bytes" };
const TOO_MANY_QUERIES: Refusal = Refusal { reply: option_reply::ERR_TOO_BIG, message: "too many queries" };

/// Reads fields off the front of an option's data.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Refusal> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(MALFORMED)?;
        self.0 = tail;
        Ok(head)
    }

    fn number16(&mut self) -> Result<u16, Refusal> {
        self.bytes(2)?.try_into().map(u16::from_be_bytes).map_err(|_| MALFORMED)
    }

    fn number32(&mut self) -> Result<u32, Refusal> {
        self.bytes(4)?.try_into().map(u32::from_be_bytes).map_err(|_| MALFORMED)
    }

    fn string(&mut self) -> Result<String, Refusal> {
        let length = self.number32()? as usize;
        let bytes = self.bytes(length)?;
        if length > STRING_BYTES_MAX {
            return Err(NAME_TOO_LONG);
        }
        text(bytes).ok_or(NOT_TEXT)
    }

    fn end(&self) -> Result<(), Refusal> {
        if self.0.is_empty() { Ok(()) } else { Err(MALFORMED) }
    }
}

/// The data of INFO and GO.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ExportQuery {
    pub(super) name: String,
    requests: u8,
}

impl ExportQuery {
    pub(super) fn parse(data: &[u8]) -> Result<Self, Refusal> {
        let mut fields = Fields(data);
        let name = fields.string()?;
        let count = fields.number16()?;
        let mut requests = 0;
        for _ in 0..count {
            let kind = fields.number16()?;
            requests |= if kind < 8 { 1 << kind } else { 0 };
        }
        fields.end()?;
        Ok(Self { name, requests })
    }

    pub(super) fn asks(&self, kind: u16) -> bool {
        self.requests >> kind & 1 == 1
    }
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ContextQueries {
    pub(super) name: String,
    pub(super) queries: Vec<String>,
}

impl ContextQueries {
    pub(super) fn parse(data: &[u8], queries_max: u32) -> Result<Self, Refusal> {
        let mut fields = Fields(data);
        let name = fields.string()?;
        let count = fields.number32()?;
        if count > queries_max {
            return Err(TOO_MANY_QUERIES);
        }
        let queries = (0..count).map(|_| fields.string()).collect::<Result<_, _>>()?;
        fields.end()?;
        Ok(Self { name, queries })
    }

    /// What was asked outside the `base:` namespace; queries of no namespace at all are none of ours and are ignored.
    pub(super) fn foreign(&self) -> Vec<String> {
        let foreign = self.queries.iter().filter(|query| query.contains(':') && !query.starts_with("base:"));
        foreign.cloned().collect()
    }

    /// Whether `base:allocation` is wanted. Only a listing knows the wildcard, and takes no query at all for every one.
    pub(super) fn wants_base(&self, listing: bool) -> bool {
        let named = self.queries.iter().any(|query| query == BASE_ALLOCATION || listing && query == "base:");
        named || listing && self.queries.is_empty()
    }
}
