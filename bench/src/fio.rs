//! fio: one run of one workload, and what its report says.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::plan::Plan;
use crate::program::{find, pinned, run};
use crate::workload::{EMPTY_BYTES, State, Workload};

/// The shares of I/Os, in parts of a hundred, whose latency is kept.
pub(crate) const PERCENTILES: [f64; 13] =
    [1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99];

/// What one run measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// I/Os a second.
    pub(crate) iops: f64,
    /// Megabytes (10⁶ bytes) a second.
    pub(crate) megabytes: f64,
    /// Median latency, in microseconds.
    pub(crate) p50_micros: f64,
    /// The latency that 99 of 100 stay below, in microseconds.
    pub(crate) p99_micros: f64,
    /// The latency that 999 of 1000 stay below, in microseconds.
    pub(crate) p999_micros: f64,
    /// The latencies at [`PERCENTILES`], in microseconds.
    pub(crate) percentiles_micros: [f64; PERCENTILES.len()],
    /// I/Os done.
    pub(crate) ios: u64,
    /// Flushes done.
    pub(crate) flushes: u64,
    /// Median latency of a flush, in microseconds; 0 without flushes.
    pub(crate) flush_p50_micros: f64,
    /// Processor time for each I/O, in microseconds: the server's, or the client's own where there is no server.
    pub(crate) processor_micros: f64,
    /// Flushes of our disks and commits of our map for each flush of the client, where the server counts them.
    pub(crate) barriers: Option<f64>,
    /// Flushes that the kernel sent to the device below, for each flush of the client; other programs' are in it.
    pub(crate) kernel_barriers: Option<f64>,
}

/// Where fio sends its I/O.
#[derive(Clone, Debug)]
pub(crate) enum Destination {
    /// A file, by io_uring.
    File(PathBuf),
    /// An NBD export.
    Nbd(String),
}

/// How much one run of fio does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Amount {
    /// For so many seconds, places drawn anew each time.
    Seconds(u32),
    /// So many bytes, no place twice.
    Bytes(u64),
}

/// One run of fio.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    /// fio's name of the pattern.
    pub(crate) pattern: &'static str,
    /// Bytes of each request.
    pub(crate) block_bytes: u64,
    /// Requests in flight.
    pub(crate) depth: u32,
    /// Where the range it touches begins and how long it is, in bytes.
    pub(crate) range: (u64, u64),
    /// How much it does.
    pub(crate) amount: Amount,
}

/// How many first writes a workload makes; at depth one it takes long enough with fewer.
pub(crate) fn writes(plan: &Plan, workload: &Workload) -> u64 {
    if workload.depth == 1 { plan.first_writes / 4 } else { plan.first_writes }
}

/// Runs one workload and gives its figures; the processor time is fio's own.
pub(crate) fn measure(plan: &Plan, workload: &Workload, destination: &Destination) -> Result<Figures> {
    let (length, amount) = match workload.state {
        State::Mapped => (plan.span_bytes, Amount::Seconds(plan.seconds)),
        State::Empty => (EMPTY_BYTES, Amount::Bytes(writes(plan, workload) * workload.block_bytes)),
    };
    let Workload { pattern, block_bytes, depth, .. } = *workload;
    job::<&str>(plan, &Job { pattern, block_bytes, depth, range: (0, length), amount }, destination, &[])
}

/// Runs one job, with further arguments, and gives its figures; the processor time is fio's own.
pub(crate) fn job<S: AsRef<OsStr>>(plan: &Plan, job: &Job, to: &Destination, further: &[S]) -> Result<Figures> {
    report(&run(command(plan, job, to)?.args(further))?)
}

/// The same in the background.
pub(crate) fn start<S: AsRef<OsStr>>(plan: &Plan, job: &Job, to: &Destination, further: &[S]) -> Result<Running> {
    let mut command = command(plan, job, to)?;
    command.args(further).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    Ok(Running(Some(command.spawn().with_context(|| format!("cannot start {command:?}"))?)))
}

/// A run in the background; it ends with this value.
#[derive(Debug)]
pub(crate) struct Running(Option<Child>);

impl Running {
    /// Waits for its end and gives its figures.
    pub(crate) fn figures(mut self) -> Result<Figures> {
        let output = self.0.take().context("it runs")?.wait_with_output()?;
        ensure!(output.status.success(), "fio ended with {}", output.status);
        report(&String::from_utf8_lossy(&output.stdout))
    }

    /// Whether it has not come to its end.
    pub(crate) fn goes_on(&mut self) -> bool {
        self.0.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_none()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Writes the whole span once, in order.
pub(crate) fn fill(plan: &Plan, destination: &Destination) -> Result<()> {
    let mut command = base(plan, destination)?;
    command.args(["--rw=write", "--bs=1M", "--iodepth=4", "--end_fsync=1"]).arg(format!("--size={}", plan.span_bytes));
    run(&mut command).map(drop)
}

fn command(plan: &Plan, job: &Job, to: &Destination) -> Result<Command> {
    let mut command = base(plan, to)?;
    command.arg(format!("--rw={}", job.pattern)).arg(format!("--bs={}", job.block_bytes));
    command.arg(format!("--iodepth={}", job.depth));
    let (offset, length) = job.range;
    command.arg(format!("--offset={offset}")).arg(format!("--size={length}"));
    match job.amount {
        Amount::Seconds(seconds) => {
            command.args(["--norandommap", "--time_based"]).arg(format!("--runtime={seconds}"));
        }
        Amount::Bytes(bytes) => {
            command.arg(format!("--io_size={bytes}"));
        }
    }
    Ok(command)
}

fn base(plan: &Plan, destination: &Destination) -> Result<Command> {
    let mut command = pinned(&plan.cores.1, &find("fio").context("fio is missing (apt-get install fio)")?);
    command.args(["--name=bench", "--thread", "--output-format=json", "--randrepeat=0", "--refill_buffers=0"]);
    // From before the submission: what a file takes while it is asked is not seen otherwise, and then it looks twice as quick.
    command.args(["--lat_percentiles=1", "--clat_percentiles=0"]);
    let list: Vec<String> = PERCENTILES.iter().map(f64::to_string).collect();
    command.arg(format!("--percentile_list={}", list.join(":")));
    match destination {
        Destination::File(path) => {
            command.args(["--ioengine=io_uring", "--direct=1"]).arg(format!("--filename={}", path.display()));
        }
        Destination::Nbd(uri) => {
            command.args(["--ioengine=nbd"]).arg(format!("--uri={uri}"));
        }
    }
    Ok(command)
}

/// The figures in what fio printed: notes, perhaps, and then JSON.
fn report(output: &str) -> Result<Figures> {
    let json = output.find('{').map(|begin| &output[begin..]).context("fio printed no JSON")?;
    figures(&serde_json::from_str(json)?)
}

fn figures(report: &Value) -> Result<Figures> {
    let job = report["jobs"].get(0).context("no job in fio's report")?;
    ensure!(job["error"] == 0, "fio met error {}", job["error"]);
    let sides = [&job["read"], &job["write"]];
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    let busiest = if number(&sides[0]["total_ios"]) > 0.0 { sides[0] } else { sides[1] };
    let ios = number(&busiest["total_ios"]);
    ensure!(ios > 0.0, "fio did no I/O");
    let percentile = |latency: &Value, percent: f64| number(&latency["percentile"][format!("{percent:.6}")]) / 1000.0;
    let latency = |percent: f64| percentile(&busiest["lat_ns"], percent);
    let runtime_micros = number(&job["job_runtime"]) * 1000.0;
    let own = (number(&job["usr_cpu"]) + number(&job["sys_cpu"])) / 100.0 * runtime_micros;
    Ok(Figures {
        iops: number(&busiest["iops"]),
        megabytes: number(&busiest["bw_bytes"]) / 1e6,
        p50_micros: latency(50.0),
        p99_micros: latency(99.0),
        p999_micros: latency(99.9),
        percentiles_micros: PERCENTILES.map(latency),
        ios: ios as u64,
        flushes: number(&job["sync"]["total_ios"]) as u64,
        flush_p50_micros: percentile(&job["sync"]["lat_ns"], 50.0),
        processor_micros: own / ios,
        barriers: None,
        kernel_barriers: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(error: u32, reads: u64) -> String {
        let percentiles =
            json!({"50.000000": 168_960, "99.000000": 2_277_376, "99.900000": 20_316_160, "99.990000": 21_626_880});
        let document = json!({"jobs": [{
            "error": error, "job_runtime": 2000, "usr_cpu": 2.0, "sys_cpu": 13.0,
            "read": {"total_ios": reads, "iops": 4416.5, "bw_bytes": 18_090_000, "lat_ns": {"percentile": percentiles}},
            "write": {"total_ios": 0, "iops": 0.0},
            "sync": {"total_ios": 12, "lat_ns": {"percentile": {"50.000000": 577_536}}},
        }]});
        format!("fio: a note of its own\n{document}")
    }

    #[test]
    fn a_report_gives_rates_latencies_and_the_clients_own_time() {
        let figures = report(&said(0, 1000)).expect("a report");
        assert_eq!((figures.iops, figures.megabytes, figures.ios, figures.flushes), (4416.5, 18.09, 1000, 12));
        assert_eq!((figures.p50_micros, figures.p99_micros, figures.p999_micros), (168.96, 2277.376, 20_316.16));
        assert_eq!(figures.percentiles_micros[4], 168.96);
        assert_eq!(figures.percentiles_micros[12], 21_626.88);
        assert_eq!(figures.flush_p50_micros, 577.536);
        // 15 % of two seconds, for a thousand I/Os.
        assert_eq!(figures.processor_micros, 300.0);
    }

    #[test]
    fn a_run_that_failed_or_did_nothing_gives_no_figures() {
        assert!(report(&said(5, 1000)).is_err());
        assert!(report(&said(0, 0)).is_err());
        assert!(report("no JSON at all").is_err());
    }
}
