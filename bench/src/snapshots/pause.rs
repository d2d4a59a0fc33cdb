//! How long writes stand still while a snapshot is taken: 64 random writes in flight, the latency of every one of them
//! in fio's log, and snapshots by HTTP in between.
//!
//! A snapshot is durable once the disks were flushed, and many devices stop writes while they flush, whoever asked. So
//! the same is done to a plain file, with a flush of it in place of each snapshot; and the server tells for how long it held
//! writes itself.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::fio::{self, Amount, Destination, Job};
use crate::plan::Plan;
use crate::snapshots::rounds::middle;
use crate::snapshots::subject::Ours;

/// Snapshots in one run. A fifth layer would begin merges, which are not what is measured here.
const CUTS: u64 = 3;
/// From the start to the first, from one to the next, and from the last to the end.
const BETWEEN: Duration = Duration::from_secs(1);
/// A write belongs to a cut if it ends between its request and so long after its answer, in milliseconds.
const AFTER_MILLIS: u64 = 5;
/// So long after a cut, in milliseconds, nothing counts as quiet: first writes after it take longer by themselves.
const UNQUIET_MILLIS: u64 = 400;
const DEEP: u32 = 64;

/// One write, as fio's log has it.
#[derive(Clone, Copy, Debug)]
struct Write {
    /// When it ended, in milliseconds since 1970.
    ended: u64,
    millis: f64,
}

/// What one cut was to the writes in flight.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// Request to answer.
    millis: f64,
    /// The longest write.
    longest: f64,
}

/// Measures in so many rounds and prints; gives the figures.
pub(crate) fn run(plan: &Plan, rounds: u32, folder: &Path) -> Result<Value> {
    let bytes = plan.span_bytes / 2;
    let ours = Ours::start(&Plan { span_bytes: bytes, ..plan.clone() }, folder, 2 * CUTS * bytes)?;
    let plain = folder.join("plain.raw");
    let file = std::fs::File::create(&plain).with_context(|| format!("cannot make {}", plain.display()))?;
    let to_plain = Destination::File(plain.clone());
    fio::fill(&Plan { span_bytes: bytes, ..plan.clone() }, &to_plain)?;
    let (mut seen, mut flushed) = (Seen::default(), Seen::default());
    for round in 0..rounds {
        flushed.round(plan, folder, &to_plain, bytes, |_| {
            let begun = Instant::now();
            file.sync_data()?;
            Ok(begun.elapsed())
        })?;
        if round > 0 {
            ours.empty(&["bench"])?;
            ours.fill(plan, "bench", bytes)?;
        }
        let to = ours.destination("bench");
        seen.round(plan, folder, &to, bytes, |number| ours.snapshot(&format!("bench@{number}")))?;
    }
    let metrics = ours.metrics()?;
    let held =
        metrics.labelled("acre_snapshot_pause_seconds_sum") / metrics.labelled("acre_snapshot_pause_seconds_count");
    let held_max = metrics.labelled("acre_snapshot_pause_seconds_max");
    drop(file);
    std::fs::remove_file(&plain)?;
    let mut figures = seen.told("snapshots")?;
    figures["held_millis"] = json!(held * 1e3);
    figures["held_millis_max"] = json!(held_max * 1e3);
    println!("  writes held by us     {:.2} ms (mean; worst {:.2} ms)", held * 1e3, held_max * 1e3);
    figures["flush"] = flushed.told("flushes of a plain file")?;
    Ok(figures)
}

#[derive(Default)]
struct Seen {
    cuts: Vec<Cut>,
    /// Latencies far from any cut, in milliseconds.
    quiet: Vec<f64>,
    /// The longest write of each quiet stretch as long as a cut.
    quiet_longest: Vec<f64>,
}

impl Seen {
    /// One run of writes, cut several times by `cut`, which tells how long it took.
    fn round(
        &mut self,
        plan: &Plan,
        folder: &Path,
        to: &Destination,
        bytes: u64,
        mut cut: impl FnMut(u64) -> Result<Duration>,
    ) -> Result<()> {
        let seconds = (CUTS + 1) as u32 * BETWEEN.as_secs() as u32 + 1;
        let job = Job {
            pattern: "randwrite",
            block_bytes: 4 << 10,
            depth: DEEP,
            range: (0, bytes),
            amount: Amount::Seconds(seconds),
        };
        let prefix = folder.join("log");
        let further = [format!("--write_lat_log={}", prefix.display()), "--log_unix_epoch=1".to_owned()];
        let cuts = std::thread::scope(|scope| {
            let writing = scope.spawn(|| fio::job(plan, &job, to, &further));
            let cuts = (1..=CUTS).map(|number| {
                std::thread::sleep(BETWEEN);
                let begun = millis_now()?;
                let took = cut(number)?;
                Ok((begun, millis_now()?, took.as_secs_f64() * 1e3))
            });
            let cuts: Result<Vec<(u64, u64, f64)>> = cuts.collect();
            writing.join().map_err(|_| anyhow::anyhow!("fio's thread panicked"))??;
            cuts
        })?;
        self.take(&writes(&folder.join("log_lat.1.log"))?, &cuts)
    }

    fn take(&mut self, writes: &[Write], cuts: &[(u64, u64, f64)]) -> Result<()> {
        let mut longest_cut = 1;
        for (begun, ended, millis) in cuts {
            let inside = |write: &&Write| (*begun..=ended + AFTER_MILLIS).contains(&write.ended);
            let longest = writes.iter().filter(inside).map(|write| write.millis).fold(f64::NAN, f64::max);
            ensure!(longest.is_finite(), "no write ended near a cut");
            self.cuts.push(Cut { millis: *millis, longest });
            longest_cut = longest_cut.max(ended - begun + AFTER_MILLIS);
        }
        let is_quiet = |write: &&Write| {
            cuts.iter()
                .all(|(begun, ended, _)| write.ended + AFTER_MILLIS < *begun || ended + UNQUIET_MILLIS < write.ended)
        };
        let mut stretches = std::collections::BTreeMap::<u64, f64>::new();
        for write in writes.iter().filter(is_quiet) {
            self.quiet.push(write.millis);
            let longest = stretches.entry(write.ended / longest_cut).or_default();
            *longest = longest.max(write.millis);
        }
        self.quiet_longest.extend(stretches.values());
        Ok(())
    }

    fn told(mut self, what: &str) -> Result<Value> {
        ensure!(!self.quiet.is_empty(), "no write is far from a cut");
        self.quiet.sort_by(f64::total_cmp);
        let quiet = |share: f64| self.quiet[((self.quiet.len() - 1) as f64 * share) as usize];
        let (p50, p999) = (quiet(0.5), quiet(0.999));
        let mut longest: Vec<f64> = self.cuts.iter().map(|cut| cut.longest).collect();
        let mut answers: Vec<f64> = self.cuts.iter().map(|cut| cut.millis).collect();
        let (median, answer) = (middle(&mut longest), middle(&mut answers));
        let worst = longest.last().copied().context("there were cuts")?;
        let stretch = middle(&mut self.quiet_longest);
        let stretch_worst = self.quiet_longest.last().copied().context("there were quiet stretches")?;
        println!("\n{what} under {DEEP} random 4 KiB writes in flight: {} of them", self.cuts.len());
        println!("  answered after        {answer:.2} ms (median; worst {:.2} ms)", answers[answers.len() - 1]);
        println!("  longest write in one  {median:.2} ms (median; worst {worst:.2} ms)");
        println!("  without: longest in a stretch as long {stretch:.2} ms (median; worst {stretch_worst:.2} ms)");
        println!("  without: p50 {p50:.2} ms, p99.9 {p999:.2} ms of {} writes", self.quiet.len());
        Ok(json!({
            "depth": DEEP, "cuts": self.cuts.len(),
            "answer_millis": answer, "answer_millis_max": answers.last(),
            "longest_write_millis": median, "longest_write_millis_max": worst,
            "quiet_longest_millis": stretch, "quiet_longest_millis_max": stretch_worst,
            "quiet_p50_millis": p50, "quiet_p999_millis": p999,
        }))
    }
}

fn millis_now() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}

/// fio's log: when each I/O ended (ms), how long it took (ns), and what does not matter here.
fn writes(file: &Path) -> Result<Vec<Write>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("fio left no log {}", file.display()))?;
    let mut writes = Vec::new();
    for line in text.lines() {
        let mut fields = line.split(", ");
        let mut field = || fields.next()?.trim().parse::<u64>().ok();
        let (ended, nanos) = field().zip(field()).with_context(|| format!("{line:?} is no line of fio's log"))?;
        writes.push(Write { ended, millis: nanos as f64 / 1e6 });
    }
    Ok(writes)
}
