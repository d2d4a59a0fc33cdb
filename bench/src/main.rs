//! Benches: Acreage beside its peers, in interleaved rounds of one run, so that the machine's moods hit all alike.
//!
//! What counts are ratios within one run and the server's processor time for each I/O; absolute figures move with the
//! machine. The server is pinned to one core and the client to another; every disk file is fully written beforehand,
//! because the first write to a sparse file costs its filesystem more than anything measured here.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command-line tool talks to its terminal")]
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "benches use clocks and wait for programs")]

mod client;
mod fio;
mod goals;
mod http;
mod machine;
mod map;
mod metrics;
mod parts;
mod plan;
mod plot;
mod program;
mod report;
mod results;
mod rounds;
mod snapshots;
mod target;
mod workload;

use anyhow::Result;

use crate::plan::Plan;

const USAGE: &str = "\
cargo xtask bench [--quick | --full] [OPTION…] [NAME…]
cargo xtask bench list            the workloads, the parts and the targets
cargo xtask bench plot FILE.json  pictures and tables of a run, into docs/
cargo xtask bench map [ARGUMENT…] what the map costs: memory, metadata, look-ups, start-up
cargo xtask bench snapshots [ARGUMENT…] what snapshots and clones cost, beside qcow2's

  --quick             one short round over a small span (about five minutes)
  --full              three rounds over 4 GiB, the parts at full size (below twenty minutes); the default lies between
  --targets A,B,…     only these targets of the matrix
  --rounds N          so many rounds
  --seconds N         so long each run
  --span-mib N        so much of a volume is read and written
  --first-writes N    so many first writes each run
  --snapshots N       the length of the series of snapshots under load
  --table-tib N       the size of the fully mapped table of which snapshots are taken
  --chain N           the length of the chain of snapshots in a table
  --mapped-tib N      what is mapped when starting after kill -9
  --idle-seconds N    how long the idle server is watched
  --folder PATH       where the disk files go (default: a fresh folder below the system's temporary one)
  --cores SERVER,CLIENT  the cores to pin to (default 0,1); lists as 0-3:4-7
  NAME                a workload or the beginning of one (read, write-4k …), `matrix` for all of them, or a part
";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("list") => {
            report::list();
            Ok(())
        }
        Some("plot") => plot::run(&arguments[1..]),
        Some("map") => map::run(&arguments[1..]),
        Some("snapshots") => snapshots::run(&arguments[1..]),
        Some("help" | "--help" | "-h") => {
            println!("{USAGE}");
            Ok(())
        }
        _ => rounds::run(&Plan::read(&arguments, USAGE)?),
    }
}
