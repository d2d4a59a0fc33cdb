//! How a request fails, told by what its sender can do about it.

use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// What went wrong, by what the sender can do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The thing named does not exist.
    NotFound,
    /// A thing of that name exists already.
    Exists,
    /// The request makes no sense; the message says how to mend it.
    Invalid,
    /// It cannot be done while something is in use; the message says what.
    Busy,
    /// There is no room for it: trim, delete, raise a limit or add a disk.
    OutOfSpace,
    /// It cannot be answered now (starting, stopping, a store that fails); trying again later may help.
    Unavailable,
    /// The sender may not: no token, a wrong one.
    Forbidden,
    /// It would destroy data; the message says how to force it.
    NeedsForce,
    /// A durable structure contradicts itself.
    Corrupt,
    /// A bug of ours.
    Internal,
}

impl ErrorKind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::NotFound,
        Self::Exists,
        Self::Invalid,
        Self::Busy,
        Self::OutOfSpace,
        Self::Unavailable,
        Self::Forbidden,
        Self::NeedsForce,
        Self::Corrupt,
        Self::Internal,
    ];

    /// The HTTP status that goes with it.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::NotFound => 404,
            Self::Exists | Self::Busy | Self::NeedsForce => 409,
            Self::Invalid => 400,
            Self::OutOfSpace => 507,
            Self::Unavailable => 503,
            Self::Forbidden => 401,
            Self::Corrupt | Self::Internal => 500,
        }
    }

    /// The exit code of a command that fails so. 0 is success, 2 a command line that cannot be read, 1 everything else
    /// that has no code of its own.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Internal => 1,
            Self::Invalid => 2,
            Self::NotFound => 3,
            Self::Exists => 4,
            Self::Busy => 5,
            Self::OutOfSpace => 6,
            Self::Unavailable => 7,
            Self::Forbidden => 8,
            Self::NeedsForce => 9,
            Self::Corrupt => 10,
        }
    }
}

/// Why a request failed: the body of every answer that is not a success.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Error {
    /// What the sender can do about it.
    pub kind: ErrorKind,
    /// For people: the thing, the value seen and the way out.
    pub message: String,
}

macro_rules! constructor {
    ($name:ident, $kind:ident) => {
        #[doc = concat!("An error of kind [`ErrorKind::", stringify!($kind), "`].")]
        #[must_use]
        pub fn $name(message: impl Into<String>) -> Self {
            Self { kind: ErrorKind::$kind, message: message.into() }
        }
    };
}

impl Error {
    constructor!(not_found, NotFound);
    constructor!(exists, Exists);
    constructor!(invalid, Invalid);
    constructor!(busy, Busy);
    constructor!(out_of_space, OutOfSpace);
    constructor!(unavailable, Unavailable);
    constructor!(forbidden, Forbidden);
    constructor!(needs_force, NeedsForce);
    constructor!(corrupt, Corrupt);
    constructor!(internal, Internal);
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_kind_has_an_exit_code_of_its_own_and_an_http_status_of_failure() {
        let codes: BTreeSet<u8> = ErrorKind::ALL.iter().map(|kind| kind.exit_code()).collect();
        assert_eq!(codes.len(), ErrorKind::ALL.len());
        assert!(!codes.contains(&0));
        assert!(ErrorKind::ALL.iter().all(|kind| (400..600).contains(&kind.http_status())));
    }

    #[test]
    fn an_error_travels_as_its_kind_in_snake_case_and_its_message() {
        let error = Error::out_of_space("pool \"fast\" is full");
        let text = serde_json::to_string(&error).expect("an error is JSON");
        assert_eq!(text, r#"{"kind":"out_of_space","message":"pool \"fast\" is full"}"#);
        assert_eq!(serde_json::from_str::<Error>(&text).expect("and back"), error);
    }
}
