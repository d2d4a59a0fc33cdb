//! Measures the reactor alone: random 4 KiB direct I/O on a fully written file.
//!
//! `cargo run --release -p reactor --example random_io -- FILE [SECONDS] [uring|fallback]`; the file is made (1 GiB)
//! where there is none. Prints I/Os per second and the thread's CPU time per I/O, user and system, in microseconds.
#![allow(clippy::disallowed_types, clippy::print_stdout)]

use model::IoBuffer;
use reactor::{Backend, Completion, File, OpenOptions, Operation, Payload, Reactor, ReactorConfig};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const FILE_BYTES: u64 = 1 << 30;
const BLOCK_BYTES: usize = 4096;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let path = arguments.get(1).ok_or("which file?")?;
    let seconds = arguments.get(2).map_or(Ok(5), |text| text.parse())?;
    let backend = match arguments.get(3).map(String::as_str) {
        None | Some("uring") => Backend::Uring,
        Some("fallback") => Backend::Fallback,
        Some(other) => return Err(format!("no backend {other}").into()),
    };
    let options = OpenOptions { direct: true, create: true, ..OpenOptions::default() };
    let file = File::open(Path::new(path), options)?;
    let mut reactor = Reactor::new(ReactorConfig { queue_depth: 128, backend })?;
    if file.size_bytes()? < FILE_BYTES {
        fill(&mut reactor, &file)?;
    }
    println!("{backend:?}, direct: {}, alignment: {} bytes", file.is_direct(), file.alignment_bytes());
    for depth in [1, 16, 64] {
        for write in [false, true] {
            measure(&mut reactor, &file, depth, write, Duration::from_secs(seconds))?;
        }
    }
    Ok(())
}

fn fill(reactor: &mut Reactor, file: &File) -> std::io::Result<()> {
    let mut buffer = IoBuffer::zeroed(1 << 20);
    buffer.bytes_mut().fill(0x5a);
    let (buffer, mut found) = (Arc::new(buffer), Vec::new());
    for offset in (0..FILE_BYTES).step_by(buffer.len()) {
        let (file, buffer) = (file.clone(), Arc::clone(&buffer));
        reactor.submit(0, Operation::Write { file, start: 0, length: buffer.len(), buffer, offset });
    }
    reactor.submit(0, Operation::DataSync { file: file.clone() });
    while reactor.in_flight() > 0 {
        reactor.wait(None, &mut found)?;
        for done in found.drain(..) {
            done.result?;
        }
    }
    Ok(())
}

fn measure(reactor: &mut Reactor, file: &File, depth: usize, write: bool, time: Duration) -> std::io::Result<()> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut offset = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % (FILE_BYTES / BLOCK_BYTES as u64) * BLOCK_BYTES as u64
    };
    let length = BLOCK_BYTES;
    let mut operation = |payload| {
        let (file, start, offset) = (file.clone(), 0, offset());
        match payload {
            Payload::Shared(buffer) => Operation::Write { file, buffer, start, length, offset },
            Payload::Buffer(buffer) => Operation::Read { file, buffer, start, length, offset },
            other => unreachable!("{other:?} of a disk operation"),
        }
    };
    for _ in 0..depth {
        let buffer = IoBuffer::zeroed(BLOCK_BYTES);
        let payload = if write { Payload::Shared(Arc::new(buffer)) } else { Payload::Buffer(buffer) };
        reactor.submit(0, operation(payload));
    }
    let (start, cpu_start) = (Instant::now(), cpu_ticks());
    let (mut completed, mut waits, mut found) = (0u64, 0u64, Vec::<Completion>::new());
    while reactor.in_flight() > 0 {
        reactor.wait(None, &mut found)?;
        waits += 1;
        let more = start.elapsed() < time;
        for done in found.drain(..) {
            done.result?;
            completed += 1;
            if more {
                reactor.submit(0, operation(done.payload));
            }
        }
    }
    let (elapsed, cpu) = (start.elapsed().as_secs_f64(), cpu_ticks());
    // The kernel counts CPU time in hundredths of a second.
    let each_us = |name: &str| (cpu[name] - cpu_start[name]) as f64 * 10_000.0 / completed as f64;
    println!(
        "{} QD{depth}: {:.0} IOPS, CPU {:.2} us/IO (user {:.2}, system {:.2}), {:.1} I/Os a wait",
        if write { "write" } else { "read" },
        completed as f64 / elapsed,
        each_us("user") + each_us("system"),
        each_us("user"),
        each_us("system"),
        completed as f64 / waits as f64,
    );
    Ok(())
}

/// The process's CPU time so far.
fn cpu_ticks() -> BTreeMap<&'static str, u64> {
    let status = std::fs::read_to_string("/proc/self/stat").expect("a process file system");
    let fields: Vec<&str> = status.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let field = |index: usize| fields[index].parse().expect("a number");
    BTreeMap::from([("user", field(11)), ("system", field(12))])
}
