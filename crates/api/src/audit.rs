//! The audit: every region has exactly one owner.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is wrong with some allocation units.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// Marked as not free, and nobody owns them: space is lost.
    Leak,
    /// More than one owner: data will be or has been overwritten.
    Double,
    /// Mapped by a volume and marked free: they may be given out again.
    MappedButFree,
    /// Mapped by a volume and still in a grant that has not been taken.
    MappedButGranted,
    /// A map entry points beyond its logical disk, or at one that does not exist.
    OutOfRange,
    /// A chunklet belongs to two logical disks, or lies beyond its disk.
    Chunklet,
    /// A stored count differs from what counting gives.
    Count,
    /// A record that cannot be decoded.
    Unreadable,
}

/// Something wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditFinding {
    /// What.
    pub kind: FindingKind,
    /// The logical disk concerned, if one is.
    pub logical_disk: Option<u32>,
    /// The first allocation unit (16 KiB) concerned.
    pub unit: Option<u32>,
    /// How many units are concerned.
    pub units: u32,
    /// For people: who the owners are, what was expected.
    pub message: String,
}

/// What an audit found. Every count is of allocation units of 16 KiB.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct AuditReport {
    /// Whether nothing is wrong.
    pub clean: bool,
    /// How many volumes' maps were read.
    pub volumes: u32,
    /// How many logical disks were checked.
    pub logical_disks: u32,
    /// Units that volumes have mapped.
    pub mapped_units: u64,
    /// Units granted to sessions and not mapped yet.
    pub granted_units: u64,
    /// Units free.
    pub free_units: u64,
    /// Units that nobody owns and that are not free.
    pub leaked_units: u64,
    /// Units with more than one owner.
    pub double_units: u64,
    /// What is wrong, at most [`AuditReport::FINDINGS_MAX`] of it.
    pub findings: Vec<AuditFinding>,
    /// How many findings there are, listed or not.
    pub findings_total: u64,
}

impl AuditReport {
    /// The most findings a report lists.
    pub const FINDINGS_MAX: usize = 1_000;

    /// Notes something wrong.
    pub fn add(&mut self, finding: AuditFinding) {
        self.clean = false;
        self.findings_total += 1;
        match finding.kind {
            FindingKind::Leak => self.leaked_units += u64::from(finding.units),
            FindingKind::Double => self.double_units += u64::from(finding.units),
            _ => {}
        }
        if self.findings.len() < Self::FINDINGS_MAX {
            self.findings.push(finding);
        }
    }
}
