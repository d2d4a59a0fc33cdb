//! Why a stream is refused.

use crate::VERSION;
use thiserror::Error;

/// Why a stream is refused. Nothing behind the place that the message names was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum StreamError {
    /// It is something else.
    #[error("this is no stream of acre export: it does not begin with ACRESTRM")]
    NotAStream,
    /// A newer program made it.
    #[error("the stream is of version {found}, and this program knows versions up to {VERSION}: use a newer acre")]
    NewerVersion {
        /// Its version.
        found: u32,
    },
    /// Its bytes are not those that were written.
    #[error("the stream is damaged at byte {at}: {what}")]
    Damaged {
        /// Where the header or the record begins that is.
        at: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// It ends before its END record.
    #[error("the stream is cut off after {at} bytes: it has no end, so this is not all of it")]
    Truncated {
        /// How many bytes of it are whole records.
        at: u64,
    },
    /// Something follows its END record.
    #[error("the stream ends at byte {at}, and something follows it")]
    Trailing {
        /// Where it ends.
        at: u64,
    },
    /// What was to be encoded is not allowed in a stream.
    #[error("the range at byte {offset} cannot be put in a stream: {what}")]
    Unfit {
        /// Where it lies in the volume.
        offset: u64,
        /// What is wrong with it.
        what: &'static str,
    },
}
