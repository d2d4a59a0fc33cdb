//! What an export or an import came to, for people and as JSON.

use model::ByteSize;
use serde::Serialize;

/// What was exported.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ExportReport {
    /// The snapshot.
    pub snapshot: String,
    /// What the stream builds on, if it is incremental.
    pub since: Option<String>,
    /// Bytes of the volume in the stream.
    pub data_bytes: u64,
    /// Bytes of the volume that the stream says are zeroes.
    pub zero_bytes: u64,
    /// The length of the stream, in bytes.
    pub stream_bytes: u64,
    /// How much of the stream was there from an attempt before, in bytes.
    pub resumed_bytes: u64,
}

/// What was imported.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ImportReport {
    /// The volume.
    pub volume: String,
    /// The snapshot that holds what was imported; none after an image.
    pub snapshot: Option<String>,
    /// The volume's size, in bytes.
    pub size_bytes: u64,
    /// Bytes of the source that were read as data.
    pub data_bytes: u64,
    /// It was there already: nothing was written.
    pub was_there: bool,
}

impl ExportReport {
    /// In one line.
    #[must_use]
    pub fn text(&self) -> String {
        let since = self.since.as_ref().map(|since| format!(" since {since}")).unwrap_or_default();
        let resumed = match self.resumed_bytes {
            0 => String::new(),
            bytes => format!(", {} of it from an attempt before", ByteSize(bytes)),
        };
        format!(
            "exported {}{since}: {} of data, {} zeroed, a stream of {}{resumed}",
            self.snapshot,
            ByteSize(self.data_bytes),
            ByteSize(self.zero_bytes),
            ByteSize(self.stream_bytes),
        )
    }
}

impl ImportReport {
    /// In one line.
    #[must_use]
    pub fn text(&self) -> String {
        let holder = self.snapshot.as_ref().unwrap_or(&self.volume);
        if self.was_there {
            return format!("{holder} holds this already");
        }
        format!("imported {holder}: {} of data in {}", ByteSize(self.data_bytes), ByteSize(self.size_bytes))
    }
}
