//! Volumes and their maps for people.

use super::{alerts, percent, sheet, size, size_or_dash, table, text};
use api::{Extent, ExtentState, Volume, VolumeMap, VolumeState};

fn volume_state(state: VolumeState) -> &'static str {
    match state {
        VolumeState::Online => "online",
        VolumeState::Warning => "warning",
        VolumeState::Full => "full",
        VolumeState::Degraded => "degraded",
        VolumeState::Deleting => "deleting",
    }
}

fn extent_state(state: ExtentState) -> &'static str {
    match state {
        ExtentState::Data => "data",
        ExtentState::Partial => "partial",
        ExtentState::Zero => "zero",
        ExtentState::Error => "error",
    }
}

const HEAD: [&str; 9] = ["VOLUME", "POOL", "STATE", "SIZE", "USED", "USE", "REGION", "SNAPSHOTS", "HOSTS"];

pub(in crate::cli) fn volumes(volumes: &[Volume]) -> String {
    let mut table = table(HEAD, &[3, 4, 5, 6, 7, 8]);
    for volume in volumes {
        table.add_row([
            volume.name.clone(),
            volume.pool.clone(),
            volume_state(volume.state).into(),
            size(volume.size_bytes),
            size(volume.used_bytes),
            percent(volume.used_bytes, volume.size_bytes),
            size(volume.region_bytes),
            volume.snapshots.to_string(),
            volume.sessions.len().to_string(),
        ]);
    }
    text(&table)
}

pub(in crate::cli) fn volume(volume: &Volume) -> String {
    let counters = &volume.counters;
    let used = format!("{} ({})", size(volume.used_bytes), percent(volume.used_bytes, volume.size_bytes));
    let holders: Vec<&str> = volume.sessions.iter().map(|session| session.holder.as_str()).collect();
    let lines = [
        ("name", volume.name.clone()),
        ("pool", volume.pool.clone()),
        ("state", volume_state(volume.state).into()),
        ("size", size(volume.size_bytes)),
        ("region size", size(volume.region_bytes)),
        ("used", used),
    ];
    let rest = [
        ("warn above", size_or_dash(volume.warn_bytes)),
        ("limit", size_or_dash(volume.limit_bytes)),
        ("access", if volume.read_only { "read only" } else { "read and write" }.into()),
        ("attached", if holders.is_empty() { "no".into() } else { holders.join(", ") }),
        (
            "reads",
            format!("{} ({}, {} of holes)", counters.reads, size(counters.read_bytes), size(counters.hole_bytes)),
        ),
        (
            "writes",
            format!(
                "{} ({}, {} of zeroes)",
                counters.writes,
                size(counters.write_bytes),
                size(counters.zero_write_bytes)
            ),
        ),
        ("trims", counters.trims.to_string()),
        ("flushes", counters.flushes.to_string()),
    ];
    let lines: Vec<_> = lines.into_iter().chain(space(volume)).chain(rest).collect();
    sheet(&lines) + &alerts(&volume.alerts)
}

/// Where the space is, and whose it is; nothing of it where there are neither snapshots nor an origin.
fn space(volume: &Volume) -> Vec<(&'static str, String)> {
    let space = &volume.space;
    let has_origin = volume.origin.is_some() || space.shared_with_origin_bytes > 0;
    if volume.snapshots == 0 && !has_origin {
        return Vec::new();
    }
    let mut lines = vec![
        ("referenced", format!("{} by the volume as it is now", size(space.referenced_bytes))),
        ("  own", format!("{} of it by nothing else", size(space.own_bytes))),
    ];
    if volume.snapshots > 0 {
        lines.push(("  shared", format!("{} of it with its snapshots", size(space.shared_with_snapshots_bytes))));
    }
    if has_origin {
        lines.push(("  origin's", format!("{} of it with what it began from", size(space.shared_with_origin_bytes))));
    }
    let mut frees = size(space.delete_frees_bytes);
    if volume.snapshots > 0 {
        let alone = size(space.snapshots_bytes);
        lines.push(("snapshots", format!("{}, which alone refer to {alone}", volume.snapshots)));
        frees += ", with its snapshots";
    }
    lines.push(("delete frees", frees));
    if let Some(origin) = &volume.origin {
        let how_far = volume.flattening_percent.map(|percent| format!(", being cut loose: {percent}%"));
        lines.push(("origin", format!("{origin}{}", how_far.unwrap_or_default())));
    } else if let Some(percent) = volume.flattening_percent {
        lines.push(("flattening", format!("{percent}%")));
    }
    lines
}

pub(in crate::cli) fn volume_map(map: &VolumeMap) -> String {
    let mut table = table(["OFFSET", "LENGTH", "STATE", "WRITTEN", "LOGICAL DISK", "DISK"], &[0, 1, 3]);
    for extent in &map.extents {
        table.add_row([
            extent.offset_bytes.to_string(),
            size(extent.length_bytes),
            extent_state(extent.state).into(),
            size_or_dash(extent.written_bytes),
            logical_place(extent),
            physical_place(extent),
        ]);
    }
    let mut lines = text(&table);
    if let Some(next) = map.next_offset_bytes {
        lines += &format!("… more from --offset {next} on\n");
    }
    lines
        + &format!(
            "{} regions of {} mapped ({}) in {} extents, fragmentation {:.3}\n",
            map.mapped_regions,
            size(map.region_bytes),
            size(map.mapped_regions.saturating_mul(map.region_bytes)),
            map.mapped_extents,
            map.fragmentation
        )
}

fn logical_place(extent: &Extent) -> String {
    match (extent.logical_disk, extent.logical_offset_bytes) {
        (Some(disk), Some(offset)) => format!("ld-{disk}+{offset}"),
        _ => "-".into(),
    }
}

fn physical_place(extent: &Extent) -> String {
    let places: Vec<_> = extent.physical.iter().map(|run| format!("disk-{}+{}", run.disk, run.offset_bytes)).collect();
    if places.is_empty() { "-".into() } else { places.join(" ") }
}
