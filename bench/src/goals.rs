//! The goals (P1 to P5 and P8) and whether a run meets them.

use serde::Serialize;

use crate::fio::Figures;
use crate::rounds::Medians;

/// One goal and what was seen.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Verdict {
    /// Its number.
    pub(crate) id: &'static str,
    /// What is asked for.
    pub(crate) goal: String,
    /// What was measured.
    pub(crate) seen: f64,
    /// Whether that is enough; none when a figure is missing.
    pub(crate) met: bool,
}

/// The run's figures, for looking up.
struct Seen<'a>(&'a Medians);

impl Seen<'_> {
    fn of(&self, workload: &'static str, target: &'static str) -> Option<&Figures> {
        self.0.get(&(workload, target))
    }

    /// Our rate over another's, for one workload.
    fn ratio(&self, workload: &'static str, peer: &'static str) -> Option<f64> {
        Some(self.of(workload, "acre")?.iops / self.of(workload, peer)?.iops)
    }
}

/// Judges every goal for which there are figures.
pub(crate) fn judge(medians: &Medians) -> Vec<Verdict> {
    let seen = Seen(medians);
    let mut verdicts = Vec::new();
    let mut at_least = |id, goal: &str, seen: Option<f64>, wanted: f64| {
        verdicts.extend(seen.map(|seen| Verdict { id, goal: format!("{goal} ≥ {wanted}"), seen, met: seen >= wanted }));
    };
    at_least("P1", "4K read QD64, share of the disk's IOPS", seen.ratio("read-4k-qd64", "disk"), 0.92);
    at_least("P2", "4K write QD64, share of the disk's IOPS", seen.ratio("write-4k-qd64", "disk"), 0.78);
    at_least("P2", "4K write QD16 over qemu-nbd raw", seen.ratio("write-4k-qd16", "qemu-raw"), 1.4);
    at_least("P3", "4K read QD1 over qemu-nbd raw", seen.ratio("read-4k-qd1", "qemu-raw"), 1.2);
    at_least("P3", "4K write QD1 over qemu-nbd raw", seen.ratio("write-4k-qd1", "qemu-raw"), 1.2);
    at_least("P4", "64K read QD16, share of the disk's", seen.ratio("read-64k-qd16", "disk"), 0.95);
    at_least("P4", "1M read QD4, share of the disk's", seen.ratio("read-1m-qd4", "disk"), 0.95);
    at_least("P4", "64K write QD16 over qemu-nbd raw", seen.ratio("write-64k-qd16", "qemu-raw"), 1.4);
    at_least("P4", "1M write QD4 over qemu-nbd raw", seen.ratio("write-1m-qd4", "qemu-raw"), 2.0);
    let first = seen.of("first-4k-qd16", "acre").map(|figures| figures.iops);
    let rewrite = seen.of("write-4k-qd16", "acre").map(|figures| figures.iops);
    at_least(
        "P5",
        "first write QD16 over our own rewrite",
        first.zip(rewrite).map(|(first, again)| first / again),
        0.6,
    );
    at_least("P5", "first write QD16 over qcow2's", seen.ratio("first-4k-qd16", "qcow2"), 3.0);

    let mut at_most = |id, goal: &str, seen: Option<f64>, wanted: f64| {
        verdicts.extend(seen.map(|seen| Verdict { id, goal: format!("{goal} ≤ {wanted}"), seen, met: seen <= wanted }));
    };
    let processor = |workload| seen.of(workload, "acre").map(|figures| figures.processor_micros);
    at_most("P1", "4K read QD64, server µs per I/O", processor("read-4k-qd64"), 6.0);
    at_most("P2", "4K write QD64, server µs per I/O", processor("write-4k-qd64"), 8.0);
    at_most("P3", "4K read QD1, p50 above disk + transport, µs", above_floor(&seen, "read-4k-qd1"), 20.0);
    at_most("P3", "4K write QD1, p50 above disk + transport, µs", above_floor(&seen, "write-4k-qd1"), 20.0);
    let barriers = seen.of("flush-4k-qd1", "acre").and_then(|figures| figures.barriers);
    at_most("P8", "device flushes per flush, steady state", barriers, 1.01);
    verdicts.sort_by_key(|verdict| verdict.id);
    verdicts
}

/// How far our median latency lies above the disk's and the transport's together, in microseconds.
fn above_floor(seen: &Seen<'_>, workload: &'static str) -> Option<f64> {
    let median = |target| seen.of(workload, target).map(|figures| figures.p50_micros);
    Some(median("acre")? - median("disk")? - median("nbdkit-null")?)
}
