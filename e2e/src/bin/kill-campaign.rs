//! The kill -9 campaign for as long as one likes: `cargo run -p e2e --bin kill-campaign -- --cycles 1000 --seed 7`.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command-line tool talks to its terminal")]
#![allow(clippy::disallowed_types, reason = "an unnamed seed comes from the clock")]

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use e2e::campaign::{Plan, run};

fn main() -> Result<()> {
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let mut plan = Plan { cycles: 200, seed: clock, load_max: Duration::from_millis(800), serve: Vec::new() };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<u64> {
            let text = arguments.next().with_context(|| format!("{argument} needs a number"))?;
            text.parse().with_context(|| format!("{text:?} is no number"))
        };
        match argument.as_str() {
            "--" => {
                plan.serve = arguments.collect();
                break;
            }
            "--cycles" => plan.cycles = u32::try_from(number()?)?,
            "--seed" => plan.seed = number()?,
            "--load-ms" => plan.load_max = Duration::from_millis(number()?),
            other => {
                bail!("{other:?}? The arguments are --cycles N, --seed S, --load-ms N and, last, -- SERVE-ARGUMENTS")
            }
        }
    }
    println!("{plan:?}");
    println!("{:#?}", run(&plan)?);
    Ok(())
}
