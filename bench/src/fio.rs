//! fio: one run of one workload, and what its report says.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use crate::Plan;
use crate::program::{find, pinned, run};
use crate::workload::{EMPTY_BYTES, State, Workload};

/// What one run measured.
#[derive(Clone, Copy, Debug, Default, Serialize)]
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
    /// I/Os done.
    pub(crate) ios: u64,
    /// Flushes done.
    pub(crate) flushes: u64,
    /// Processor time for each I/O, in microseconds: the server's, or the client's own where there is no server.
    pub(crate) processor_micros: f64,
    /// Device flushes for each flush of the client, where the server counts them.
    pub(crate) barriers: Option<f64>,
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

/// Runs one workload and gives its figures; the processor time is fio's own.
pub(crate) fn measure(plan: &Plan, workload: &Workload, destination: &Destination) -> Result<Figures> {
    let (length, amount) = match workload.state {
        State::Mapped => (plan.span_bytes, Amount::Seconds(plan.seconds)),
        State::Empty => {
            // At depth one it takes long enough with fewer.
            let writes = if workload.depth == 1 { plan.first_writes / 4 } else { plan.first_writes };
            (EMPTY_BYTES, Amount::Bytes(writes * workload.block_bytes))
        }
    };
    let Workload { pattern, block_bytes, depth, .. } = *workload;
    let further: &[&str] = if workload.flush { &["--fsync=1"] } else { &[] };
    job(plan, &Job { pattern, block_bytes, depth, range: (0, length), amount }, destination, further)
}

/// Runs one job, with further arguments, and gives its figures; the processor time is fio's own.
pub(crate) fn job<S: AsRef<OsStr>>(plan: &Plan, job: &Job, to: &Destination, further: &[S]) -> Result<Figures> {
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
    let output = run(command.args(further))?;
    let json = output.find('{').map(|begin| &output[begin..]).context("fio printed no JSON")?;
    figures(&serde_json::from_str(json)?)
}

/// Writes the whole span once, in order.
pub(crate) fn fill(plan: &Plan, destination: &Destination) -> Result<()> {
    let mut command = base(plan, destination)?;
    command.args(["--rw=write", "--bs=1M", "--iodepth=4", "--end_fsync=1"]).arg(format!("--size={}", plan.span_bytes));
    run(&mut command).map(drop)
}

fn base(plan: &Plan, destination: &Destination) -> Result<Command> {
    let mut command = pinned(plan.cores.1, &find("fio").context("fio is missing (apt-get install fio)")?);
    command.args(["--name=bench", "--thread", "--output-format=json", "--randrepeat=0", "--refill_buffers=0"]);
    command.args(["--percentile_list=50:99:99.9"]);
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

fn figures(report: &Value) -> Result<Figures> {
    let job = report["jobs"].get(0).context("no job in fio's report")?;
    ensure!(job["error"] == 0, "fio met error {}", job["error"]);
    let sides = [&job["read"], &job["write"]];
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    let busiest = if number(&sides[0]["total_ios"]) > 0.0 { sides[0] } else { sides[1] };
    let ios = number(&busiest["total_ios"]);
    ensure!(ios > 0.0, "fio did no I/O");
    let percentile = |name: &str| number(&busiest["clat_ns"]["percentile"][name]) / 1000.0;
    let runtime_micros = number(&job["job_runtime"]) * 1000.0;
    let own = (number(&job["usr_cpu"]) + number(&job["sys_cpu"])) / 100.0 * runtime_micros;
    Ok(Figures {
        iops: number(&busiest["iops"]),
        megabytes: number(&busiest["bw_bytes"]) / 1e6,
        p50_micros: percentile("50.000000"),
        p99_micros: percentile("99.000000"),
        p999_micros: percentile("99.900000"),
        ios: ios as u64,
        flushes: number(&job["sync"]["total_ios"]) as u64,
        processor_micros: own / ios,
        barriers: None,
    })
}
