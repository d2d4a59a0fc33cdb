//! Snapshots, diffs and schedules for people.

use super::{duration, sheet, size, table, text};
use crate::calendar;
use crate::schedule::{Period, rules};
use api::{Diff, DiffKind, Schedule, Snapshot, SnapshotState};

fn state(snapshot: &Snapshot) -> String {
    match (snapshot.state, snapshot.progress_percent) {
        (SnapshotState::Ready, _) => "ready".into(),
        (SnapshotState::Deleting, Some(percent)) => format!("deleting {percent}%"),
        (SnapshotState::Deleting, None) => "deleting".into(),
        (SnapshotState::KeptByClones, _) => "kept by clones".into(),
    }
}

fn age(snapshot: &Snapshot, now: u64) -> String {
    duration(now.saturating_sub(snapshot.created_unix_seconds))
}

fn clones(snapshot: &Snapshot) -> String {
    if snapshot.clones.is_empty() { "-".into() } else { snapshot.clones.join(" ") }
}

pub(in crate::cli) fn snapshots(snapshots: &[Snapshot], now: u64) -> String {
    let head = ["SNAPSHOT", "TAKEN", "AGE", "SIZE", "REFERENCED", "UNIQUE", "STATE", "CLONES"];
    let mut table = table(head, &[2, 3, 4, 5]);
    for snapshot in snapshots {
        table.add_row([
            snapshot.name.clone(),
            calendar::iso(snapshot.created_unix_seconds),
            age(snapshot, now),
            size(snapshot.size_bytes),
            size(snapshot.referenced_bytes),
            size(snapshot.unique_bytes),
            state(snapshot),
            clones(snapshot),
        ]);
    }
    text(&table)
}

pub(in crate::cli) fn snapshot(snapshot: &Snapshot, now: u64) -> String {
    let taken = format!("{} ({} ago)", calendar::iso(snapshot.created_unix_seconds), age(snapshot, now));
    sheet(&[
        ("name", snapshot.name.clone()),
        ("volume", snapshot.volume.clone()),
        ("state", state(snapshot)),
        ("taken", taken),
        ("by", if snapshot.scheduled { "a schedule" } else { "an operator" }.into()),
        ("size", size(snapshot.size_bytes)),
        ("referenced", size(snapshot.referenced_bytes)),
        ("delete frees", size(snapshot.unique_bytes)),
        ("clones", clones(snapshot)),
    ])
}

pub(in crate::cli) fn diff(diff: &Diff) -> String {
    let mut table = table(["OFFSET", "LENGTH", "NOW"], &[0, 1]);
    for range in &diff.ranges {
        let kind = match range.kind {
            DiffKind::Data => "data",
            DiffKind::Zero => "zero",
        };
        table.add_row([range.offset_bytes.to_string(), range.length_bytes.to_string(), kind.into()]);
    }
    let more = diff.next_offset_bytes.map(|next| format!("… more from --offset {next} on\n")).unwrap_or_default();
    let since = diff.from.as_ref().map_or_else(|| "with nothing".into(), |from| format!("with {from}"));
    let resized = match &diff.from {
        Some(_) if diff.from_size_bytes != diff.size_bytes => {
            format!("; it was {} and is {}", size(diff.from_size_bytes), size(diff.size_bytes))
        }
        _ => String::new(),
    };
    let (count, to) = (diff.ranges.len(), &diff.to);
    let ranges = if count == 1 { "range" } else { "ranges" };
    text(&table)
        + &more
        + &format!(
            "{to} compared {since}: {count} {ranges}, {} of data and {} of zeroes{resized}\n",
            size(diff.data_bytes),
            size(diff.zero_bytes)
        )
}

pub(in crate::cli) fn schedule(schedule: &Schedule) -> String {
    sheet(&[
        ("volume", schedule.volume.clone()),
        ("every", Period(schedule.every_seconds).to_string()),
        ("keep", rules(&schedule.keep)),
    ])
}

pub(in crate::cli) fn schedules(schedules: &[Schedule]) -> String {
    let mut table = table(["VOLUME", "EVERY", "KEEP"], &[1]);
    for schedule in schedules {
        table.add_row([schedule.volume.clone(), Period(schedule.every_seconds).to_string(), rules(&schedule.keep)]);
    }
    text(&table)
}
