//! Answers for people.

mod snapshot;
mod volume;

pub(super) use snapshot::{diff, schedule, schedules, snapshot, snapshots};
pub(super) use volume::{volume, volume_map, volumes};

use api::{Alert, AuditReport, Disk, DiskState, Pool, PoolState, Status, TableUsage};
use comfy_table::{CellAlignment, Table, presets};
use model::ByteSize;

fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

fn size_or_dash(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "-".into(), size)
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".into() } else { format!("{}%", u128::from(part) * 100 / u128::from(whole)) }
}

/// A table with a head, nothing but blanks between columns, and numbers to the right.
fn table<const COLUMNS: usize>(head: [&str; COLUMNS], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(head);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn text(table: &Table) -> String {
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Lines of a name and a value.
fn sheet(lines: &[(&str, String)]) -> String {
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    lines.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

fn alerts(alerts: &[Alert]) -> String {
    alerts.iter().map(|alert| format!("ALERT  {}\n", alert.message)).collect()
}

fn pool_state(state: PoolState) -> &'static str {
    match state {
        PoolState::Healthy => "healthy",
        PoolState::Warning => "warning",
        PoolState::Full => "full",
        PoolState::Degraded => "degraded",
    }
}

fn disk_state(state: DiskState) -> &'static str {
    match state {
        DiskState::Online => "online",
        DiskState::Missing => "missing",
        DiskState::Failed => "failed",
    }
}

pub(super) fn pools(pools: &[Pool]) -> String {
    let head = ["POOL", "STATE", "CAPACITY", "USED", "USE", "GRANTED", "FREE", "PROVISIONED", "DISKS", "VOLUMES"];
    let mut table = table(head, &[2, 3, 4, 5, 6, 7, 8, 9]);
    for pool in pools {
        table.add_row([
            pool.name.clone(),
            pool_state(pool.state).into(),
            size(pool.capacity_bytes),
            size(pool.used_bytes),
            percent(pool.used_bytes, pool.capacity_bytes),
            size(pool.granted_bytes),
            size(pool.free_bytes),
            size(pool.provisioned_bytes),
            pool.disks.len().to_string(),
            pool.volumes.to_string(),
        ]);
    }
    text(&table)
}

pub(super) fn pool(pool: &Pool) -> String {
    let disks: Vec<String> = pool.disks.iter().map(|disk| format!("disk-{disk}")).collect();
    let logical = format!("{} of {}", pool.logical_disks, size(pool.logical_disks_bytes));
    let used = format!("{} ({})", size(pool.used_bytes), percent(pool.used_bytes, pool.capacity_bytes));
    let lines = [
        ("name", pool.name.clone()),
        ("state", pool_state(pool.state).into()),
        ("raid", pool.raid.name().into()),
        ("capacity", size(pool.capacity_bytes)),
        ("used", used),
        ("granted", size(pool.granted_bytes)),
        ("free", size(pool.free_bytes)),
        ("provisioned", format!("{} in {} volumes", size(pool.provisioned_bytes), pool.volumes)),
        ("logical disks", logical),
        ("growth", size(pool.growth_bytes)),
        ("disks", if disks.is_empty() { "none; add one with acre disk add".into() } else { disks.join(" ") }),
        ("warn above", size_or_dash(pool.warn_bytes)),
        ("limit", size_or_dash(pool.limit_bytes)),
    ];
    sheet(&lines) + &alerts(&pool.alerts)
}

pub(super) fn disks(disks: &[Disk]) -> String {
    let mut table = table(["DISK", "POOL", "STATE", "SIZE", "CHUNKLETS", "USED", "PATH"], &[3, 4, 5]);
    for disk in disks {
        table.add_row([
            format!("disk-{}", disk.id),
            disk.pool.clone(),
            disk_state(disk.state).into(),
            size(disk.size_bytes),
            disk.chunklets.to_string(),
            disk.chunklets_used.to_string(),
            disk.path.clone(),
        ]);
    }
    text(&table)
}

pub(super) fn disk(disk: &Disk) -> String {
    let counters = &disk.counters;
    sheet(&[
        ("id", format!("disk-{}", disk.id)),
        ("pool", disk.pool.clone()),
        ("path", disk.path.clone()),
        ("state", disk_state(disk.state).into()),
        ("size", size(disk.size_bytes)),
        (
            "chunklets",
            format!("{} of {} used, {} each", disk.chunklets_used, disk.chunklets, size(disk.chunklet_bytes)),
        ),
        ("reads", format!("{} ({})", counters.reads, size(counters.read_bytes))),
        ("writes", format!("{} ({})", counters.writes, size(counters.write_bytes))),
        ("flushes", counters.flushes.to_string()),
        ("discards", counters.discards.to_string()),
        ("errors", counters.errors.to_string()),
    ])
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86400, seconds / 3600 % 24),
    }
}

pub(super) fn status(status: &Status) -> String {
    let lines = [
        ("version", status.version.clone()),
        ("cluster", status.cluster.clone()),
        ("up", duration(status.uptime_seconds)),
        ("threads", format!("{} ({})", status.threads, status.io_engine)),
        ("volumes", format!("{}, {} attached, {} connections", status.volumes, status.sessions, status.connections)),
        ("disks", status.disks.to_string()),
        ("metadata", format!("{}, {} free", size(status.metadata.used_bytes), size(status.metadata.free_bytes))),
        ("tables", tables(&status.tables)),
    ];
    let listeners: String = status
        .listeners
        .iter()
        .map(|listener| {
            let tls = if listener.tls == "off" { String::new() } else { format!(" (TLS: {})", listener.tls) };
            format!("{:8}  {}{tls}\n", listener.protocol, listener.address)
        })
        .collect();
    let pools = if status.pools.is_empty() { "no pools\n".into() } else { pools(&status.pools) };
    format!("{}{listeners}\n{pools}{}", sheet(&lines), alerts(&status.alerts))
}

/// The memory of maps: what they take of what they may, and what it cost that it is not more.
fn tables(usage: &TableUsage) -> String {
    let evicted = if usage.evictions == 0 { String::new() } else { format!(", {} evicted", usage.evictions) };
    format!("{} of {}, {} pages{evicted}", size(usage.used_bytes), size(usage.limit_bytes), usage.pages)
}

pub(super) fn audit(report: &AuditReport) -> String {
    let units = |count: u64| size(count.saturating_mul(model::UNIT_BYTES));
    let verdict = if report.clean { "clean: every region has one owner" } else { "NOT CLEAN" };
    let lines = sheet(&[
        ("audit", verdict.into()),
        ("volumes", report.volumes.to_string()),
        ("logical disks", report.logical_disks.to_string()),
        ("mapped", units(report.mapped_units)),
        ("granted", units(report.granted_units)),
        ("free", units(report.free_units)),
        ("leaked", units(report.leaked_units)),
        ("owned twice", units(report.double_units)),
    ]);
    let findings: String = report.findings.iter().map(|finding| format!("{}\n", finding.message)).collect();
    let missing = report.findings_total.saturating_sub(report.findings.len() as u64);
    let more = if missing > 0 { format!("… and {missing} more\n") } else { String::new() };
    lines + &findings + &more
}
