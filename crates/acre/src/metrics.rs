//! Counters and gauges, and the Prometheus text made of them.

use api::{Alert, DiskCounters, MetadataUsage, Pool, TableUsage, VolumeCounters};
use std::fmt::Write;

/// Everything `GET /metrics` shows, gathered from the threads that count it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct MetricsSnapshot {
    /// How long the server has been up, in seconds.
    pub uptime_seconds: f64,
    /// The pools as operators see them.
    pub pools: Vec<Pool>,
    /// The disks.
    pub disks: Vec<DiskMetrics>,
    /// The volumes.
    pub volumes: Vec<VolumeMetrics>,
    /// Faults taken by agents, by kind (`page`, `grant`, …), over all volumes.
    pub faults: Vec<(&'static str, u64)>,
    /// Regions mapped for the first time.
    pub regions_assigned: u64,
    /// Of them, those put right beside a neighbour.
    pub regions_adjoining: u64,
    /// Commits of map changes.
    pub map_commits: u64,
    /// Rounds of device flush that served hosts' flushes.
    pub flush_rounds: u64,
    /// Times a volume's writes were held for a snapshot.
    pub pauses: u64,
    /// How long, all told, in seconds.
    pub pause_seconds: f64,
    /// The longest of them, in seconds.
    pub pause_seconds_max: f64,
    /// The volumes' tables in memory.
    pub tables: TableUsage,
    /// Hosts connected now.
    pub connections: u64,
    /// Volumes attached now.
    pub sessions: u64,
    /// Looks at scheduled snapshots that failed.
    pub schedule_failures: u64,
    /// The metadata store's size.
    pub metadata: MetadataUsage,
    /// What is wrong now.
    pub alerts: Vec<Alert>,
}

/// What one disk has done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DiskMetrics {
    /// Its id.
    pub id: u32,
    /// Its pool.
    pub pool: String,
    /// Where it is.
    pub path: String,
    /// Whether it serves.
    pub online: bool,
    /// Its size, in bytes.
    pub size_bytes: u64,
    /// What it has done.
    pub counters: DiskCounters,
}

/// What one volume's hosts have done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VolumeMetrics {
    /// Its name.
    pub name: String,
    /// Its pool.
    pub pool: String,
    /// Its size, in bytes.
    pub size_bytes: u64,
    /// What it has mapped, in bytes.
    pub used_bytes: u64,
    /// How many snapshots it has.
    pub snapshots: u64,
    /// What only they refer to, in bytes.
    pub snapshots_bytes: u64,
    /// What its hosts have done.
    pub counters: VolumeCounters,
}

/// A family of samples that every `T` has one of: its name, kind and help, and the value.
type Figure<T> = (&'static str, &'static str, &'static str, fn(&T) -> u64);

/// A page under construction.
struct Page(String);

impl Page {
    /// One family: its name, what it counts, and its samples with their labels.
    fn family<'a>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Vec<(&'a str, &'a str)>, f64)>,
    ) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            self.0.push_str(name);
            if !labels.is_empty() {
                let labels: Vec<_> =
                    labels.iter().map(|(label, text)| format!("{label}=\"{}\"", escape(text))).collect();
                let _ = write!(self.0, "{{{}}}", labels.join(","));
            }
            let _ = writeln!(self.0, " {value}");
        }
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help, [(Vec::new(), value as f64)]);
    }

    /// A summary without quantiles: how many there were, and their sum.
    fn summary(&mut self, name: &str, help: &str, samples: [(&str, f64); 2]) {
        self.family(name, "summary", help, []);
        for (suffix, value) in samples {
            // Writing to a string cannot fail.
            let _ = writeln!(self.0, "{name}{suffix} {value}");
        }
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, "gauge", help, [(Vec::new(), value)]);
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The page, in the Prometheus text format 0.0.4.
#[must_use]
pub fn render(snapshot: &MetricsSnapshot) -> String {
    let mut page = Page(String::new());
    page.family(
        "acre_build_info",
        "gauge",
        "Always 1; the version is in the label.",
        [(vec![("version", env!("CARGO_PKG_VERSION"))], 1.0)],
    );
    page.gauge("acre_uptime_seconds", "Seconds since the server started.", snapshot.uptime_seconds);
    pools(&mut page, snapshot);
    disks(&mut page, snapshot);
    volumes(&mut page, snapshot);
    page.family(
        "acre_faults_total",
        "counter",
        "Faults that agents took, by kind.",
        snapshot.faults.iter().map(|(kind, count)| (vec![("kind", *kind)], *count as f64)),
    );
    page.counter("acre_regions_assigned_total", "Regions mapped for the first time.", snapshot.regions_assigned);
    let adjoining = "Of them, those put right beside a neighbour.";
    page.counter("acre_regions_adjoining_total", adjoining, snapshot.regions_adjoining);
    page.counter("acre_map_commits_total", "Commits of map changes.", snapshot.map_commits);
    let rounds = "Rounds of device flush that served hosts' flushes.";
    page.counter("acre_flush_rounds_total", rounds, snapshot.flush_rounds);
    let paused = "Times a volume's writes were held for a snapshot, and for how long.";
    let samples = [("_count", snapshot.pauses as f64), ("_sum", snapshot.pause_seconds)];
    page.summary("acre_snapshot_pause_seconds", paused, samples);
    let longest = "The longest of them, of the sessions there are and were.";
    page.gauge("acre_snapshot_pause_seconds_max", longest, snapshot.pause_seconds_max);
    let behind = "Times a snapshot schedule could not be kept to, and was to be tried again.";
    page.counter("acre_snapshot_schedule_failures_total", behind, snapshot.schedule_failures);
    tables(&mut page, &snapshot.tables);
    page.gauge("acre_metadata_used_bytes", "What the metadata store takes.", snapshot.metadata.used_bytes as f64);
    page.gauge("acre_metadata_free_bytes", "What it may still take.", snapshot.metadata.free_bytes as f64);
    page.gauge("acre_connections", "Hosts connected now.", snapshot.connections as f64);
    page.gauge("acre_sessions", "Volumes attached now.", snapshot.sessions as f64);
    page.family(
        "acre_alert",
        "gauge",
        "1 for each thing that is wrong now.",
        snapshot
            .alerts
            .iter()
            .map(|alert| (vec![("kind", alert.kind.name()), ("subject", alert.subject.as_str())], 1.0)),
    );
    page.0
}

fn tables(page: &mut Page, usage: &TableUsage) {
    page.gauge("acre_table_bytes", "What loaded tables occupy in memory.", usage.used_bytes as f64);
    page.gauge("acre_table_limit_bytes", "What they may occupy.", usage.limit_bytes as f64);
    page.gauge("acre_table_pages", "Table pages in memory.", usage.pages as f64);
    page.counter("acre_table_misses_total", "Table pages that had to be asked for.", usage.misses);
    page.counter("acre_table_evictions_total", "Table pages evicted for want of memory.", usage.evictions);
    let early = "Times changes were committed early because they stood in the way of an eviction.";
    page.counter("acre_table_early_commits_total", early, usage.early_commits);
}

fn pools(page: &mut Page, snapshot: &MetricsSnapshot) {
    let figures: [Figure<Pool>; 6] = [
        ("acre_pool_capacity_bytes", "gauge", "What the pool's disks hold for volumes.", |pool| pool.capacity_bytes),
        ("acre_pool_used_bytes", "gauge", "What volumes have mapped.", |pool| pool.used_bytes),
        ("acre_pool_granted_bytes", "gauge", "Set aside for writers and not mapped yet.", |pool| pool.granted_bytes),
        ("acre_pool_free_bytes", "gauge", "Left to be mapped.", |pool| pool.free_bytes),
        ("acre_pool_provisioned_bytes", "gauge", "What its volumes claim to be.", |pool| pool.provisioned_bytes),
        ("acre_pool_logical_disks", "gauge", "How many logical disks it has.", |pool| u64::from(pool.logical_disks)),
    ];
    for (name, kind, help, figure) in figures {
        let samples = snapshot.pools.iter().map(|pool| (vec![("pool", pool.name.as_str())], figure(pool) as f64));
        page.family(name, kind, help, samples);
    }
}

fn disks(page: &mut Page, snapshot: &MetricsSnapshot) {
    let ids: Vec<String> = snapshot.disks.iter().map(|disk| format!("disk-{}", disk.id)).collect();
    let figures: [Figure<DiskMetrics>; 9] = [
        ("acre_disk_online", "gauge", "Whether the disk serves.", |disk| u64::from(disk.online)),
        ("acre_disk_size_bytes", "gauge", "Its size.", |disk| disk.size_bytes),
        ("acre_disk_reads_total", "counter", "Reads.", |disk| disk.counters.reads),
        ("acre_disk_read_bytes_total", "counter", "Bytes read.", |disk| disk.counters.read_bytes),
        ("acre_disk_writes_total", "counter", "Writes.", |disk| disk.counters.writes),
        ("acre_disk_write_bytes_total", "counter", "Bytes written.", |disk| disk.counters.write_bytes),
        ("acre_disk_flushes_total", "counter", "Flushes.", |disk| disk.counters.flushes),
        ("acre_disk_discards_total", "counter", "Discards.", |disk| disk.counters.discards),
        ("acre_disk_errors_total", "counter", "Operations that failed.", |disk| disk.counters.errors),
    ];
    for (name, kind, help, figure) in figures {
        let samples = snapshot.disks.iter().zip(&ids).map(|(disk, id)| {
            let labels = vec![("disk", id.as_str()), ("pool", disk.pool.as_str()), ("path", disk.path.as_str())];
            (labels, figure(disk) as f64)
        });
        page.family(name, kind, help, samples);
    }
}

fn volumes(page: &mut Page, snapshot: &MetricsSnapshot) {
    let figures: [Figure<VolumeMetrics>; 14] = [
        ("acre_volume_size_bytes", "gauge", "What the volume claims to be.", |volume| volume.size_bytes),
        ("acre_volume_used_bytes", "gauge", "What it and its snapshots have mapped.", |volume| volume.used_bytes),
        ("acre_volume_snapshots", "gauge", "How many snapshots it has.", |volume| volume.snapshots),
        ("acre_volume_snapshot_bytes", "gauge", "What only its snapshots refer to.", |volume| volume.snapshots_bytes),
        ("acre_volume_reads_total", "counter", "Reads.", |volume| volume.counters.reads),
        ("acre_volume_read_bytes_total", "counter", "Bytes read.", |volume| volume.counters.read_bytes),
        ("acre_volume_writes_total", "counter", "Writes.", |volume| volume.counters.writes),
        ("acre_volume_write_bytes_total", "counter", "Bytes written.", |volume| volume.counters.write_bytes),
        ("acre_volume_trims_total", "counter", "Trims and writes of zeroes.", |volume| volume.counters.trims),
        ("acre_volume_hole_bytes_total", "counter", "Bytes read as zeroes, asking no disk.", |volume| {
            volume.counters.hole_bytes
        }),
        ("acre_volume_zero_write_bytes_total", "counter", "Bytes of zeroes written, taking no space.", |volume| {
            volume.counters.zero_write_bytes
        }),
        ("acre_volume_out_of_space_total", "counter", "Writes that failed for want of space.", |volume| {
            volume.counters.out_of_space
        }),
        ("acre_volume_flushes_total", "counter", "Flushes.", |volume| volume.counters.flushes),
        ("acre_volume_errors_total", "counter", "Requests that failed.", |volume| volume.counters.errors),
    ];
    for (name, kind, help, figure) in figures {
        let samples = snapshot.volumes.iter().map(|volume| {
            (vec![("volume", volume.name.as_str()), ("pool", volume.pool.as_str())], figure(volume) as f64)
        });
        page.family(name, kind, help, samples);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_help_type_and_labelled_samples_and_names_cannot_break_it() {
        let snapshot = MetricsSnapshot {
            volumes: vec![VolumeMetrics {
                name: "de\"mo".into(),
                pool: "default".into(),
                used_bytes: 65536,
                snapshots: 3,
                ..VolumeMetrics::default()
            }],
            faults: vec![("page", 3)],
            tables: TableUsage { used_bytes: 7, limit_bytes: 9, misses: 3, ..TableUsage::default() },
            connections: 2,
            pauses: 4,
            pause_seconds: 0.5,
            ..MetricsSnapshot::default()
        };
        let page = render(&snapshot);
        assert!(page.contains("# TYPE acre_volume_used_bytes gauge\n"));
        assert!(page.contains("acre_volume_used_bytes{volume=\"de\\\"mo\",pool=\"default\"} 65536\n"), "{page}");
        assert!(page.contains("acre_volume_snapshots{volume=\"de\\\"mo\",pool=\"default\"} 3\n"), "{page}");
        assert!(page.contains("\nacre_snapshot_schedule_failures_total 0\n"), "{page}");
        assert!(page.contains("acre_faults_total{kind=\"page\"} 3\n"));
        assert!(page.contains("\nacre_table_bytes 7\n") && page.contains("\nacre_table_limit_bytes 9\n"));
        assert!(page.contains("# TYPE acre_table_misses_total counter\nacre_table_misses_total 3\n"));
        let pauses = "# TYPE acre_snapshot_pause_seconds summary\nacre_snapshot_pause_seconds_count 4\nacre_snapshot_pause_seconds_sum 0.5\n";
        assert!(page.contains(pauses), "{page}");
        assert!(page.contains("\nacre_connections 2\n"));
        assert!(page.ends_with('\n'));
    }
}
