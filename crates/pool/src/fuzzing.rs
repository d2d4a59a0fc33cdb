//! The decoders of this crate as plain functions of bytes, for fuzz targets and tests. None may panic.

use crate::label::{DiskLabel, LabelBlock, TAIL_BYTES};
use crate::{Page, judge};
use model::ClusterId;

/// Pages of the allocation bitmap.
pub fn page(bytes: &[u8]) {
    if let Ok(page) = Page::decode(bytes) {
        assert_eq!(Page::decode(&page.encode()), Ok(page), "a page comes back");
    }
}

/// Disk labels, and the judgement of a disk by its two ends.
pub fn label(bytes: &[u8]) {
    if let LabelBlock::Label(label) = DiskLabel::decode(bytes) {
        assert_eq!(DiskLabel::decode(&label.encode()), LabelBlock::Label(label), "a label comes back");
    }
    let (head, tail) = bytes.split_at(bytes.len().saturating_sub(TAIL_BYTES));
    let _ = judge(head, tail, ClusterId(1));
}
