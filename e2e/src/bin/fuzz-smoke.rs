//! A smoke run of every decoder on the stable toolchain: bytes made of what the formats are made of, and mutations of
//! bytes that were interesting before. A coverage-guided fuzzer finds more; this finds what anyone would.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command-line tool talks to its terminal")]
#![allow(clippy::disallowed_types, reason = "the run lasts for a time")]

use std::panic::catch_unwind;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use e2e::random::Random;

/// A decoder: it may do anything with the bytes but panic.
type Decoder = fn(&[u8]);

const TARGETS: &[(&str, Decoder)] = &[
    ("nbd-server", nbd::fuzzing::server),
    ("nbd-client", nbd::fuzzing::client),
    ("pool-page", pool::fuzzing::page),
    ("pool-label", pool::fuzzing::label),
    ("store-key", store::fuzzing::key),
    ("store-record", store::fuzzing::record),
    ("store-table-page", store::fuzzing::table_page),
    ("stream-decoder", stream::fuzzing::stream),
    ("qcow2-image", qcow2::fuzzing::image),
];

/// Words that the formats know: random bytes would never meet them.
const WORDS: &[&[u8]] = &[
    b"NBDMAGIC",
    b"IHAVEOPT",
    b"base:allocation",
    b"base:",
    b"fuzz",
    b"ACRE",
    b"ACRESTRM\x01\0\0\0",
    b"DATA",
    b"ZERO",
    b"CHKP",
    b"END!",
    b"QFI\xfb\0\0\0\x03",
    &0x2560_9513_u32.to_be_bytes(),
    &0x21e4_1c71_u32.to_be_bytes(),
    &0x6744_6698_u32.to_be_bytes(),
    &0x668e_33ef_u32.to_be_bytes(),
    &0x6e8a_278c_u32.to_be_bytes(),
    &0x0003_e889_0455_65a9_u64.to_be_bytes(),
];

/// Inputs that are kept to be mutated.
const KEPT_MAX: usize = 64;

struct Arguments {
    seconds: u64,
    seed: u64,
    target: Option<String>,
    input: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = arguments()?;
    let wanted = |name: &str| arguments.target.as_deref().is_none_or(|target| target == name);
    let targets: Vec<_> = TARGETS.iter().filter(|(name, _)| wanted(name)).collect();
    if targets.is_empty() {
        let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        bail!("no such target; there are {}", names.join(", "));
    }
    if let Some(file) = &arguments.input {
        let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        targets.iter().for_each(|(_, decode)| decode(&bytes));
        return Ok(());
    }
    let share = Duration::from_millis(arguments.seconds * 1000 / targets.len() as u64);
    for (name, decode) in targets {
        let count = smoke(name, *decode, arguments.seed, share)?;
        println!("{name:<18} {count} inputs, none a panic");
    }
    Ok(())
}

/// Feeds a decoder for a while; gives how many inputs it took, or an error that says where the fatal one lies.
fn smoke(name: &str, decode: Decoder, seed: u64, length: Duration) -> Result<u64> {
    let mut random = Random::new(seed);
    let mut kept: Vec<Vec<u8>> = Vec::new();
    let until = Instant::now() + length;
    let mut count = 0;
    while Instant::now() < until {
        let bytes = if kept.is_empty() || random.one_in(2) {
            compose(&mut random)
        } else {
            let index = random.below(kept.len() as u64) as usize;
            mutate(&mut random, &kept[index])
        };
        if catch_unwind(|| decode(&bytes)).is_err() {
            let file = std::env::temp_dir().join(format!("fuzz-{name}-{seed}"));
            std::fs::write(&file, &bytes)?;
            bail!(
                "{name} panicked on input {count} of seed {seed}; again: fuzz-smoke --target {name} --input {}",
                file.display()
            );
        }
        count += 1;
        if random.one_in(16) {
            if kept.len() == KEPT_MAX {
                kept.swap_remove(random.below(KEPT_MAX as u64) as usize);
            }
            kept.push(bytes);
        }
    }
    Ok(count)
}

/// Bytes put together from words, numbers of every width, zeroes and noise.
fn compose(random: &mut Random) -> Vec<u8> {
    let mut bytes = vec![random.bits() as u8, random.bits() as u8];
    for _ in 0..random.between(1, 24) {
        let small = match random.below(4) {
            0 => random.below(4),
            1 => random.below(64),
            2 => random.below(70_000),
            _ => u64::MAX >> random.below(64),
        };
        match random.below(8) {
            0 => bytes.extend(WORDS[random.below(WORDS.len() as u64) as usize]),
            1 => bytes.push(small as u8),
            2 => bytes.extend((small as u16).to_be_bytes()),
            3 => bytes.extend((small as u32).to_be_bytes()),
            4 => bytes.extend(small.to_be_bytes()),
            5 => bytes.extend(small.to_le_bytes()),
            6 => bytes.resize(bytes.len() + random.below(40) as usize, 0),
            _ => {
                let mut noise = vec![0; random.below(40) as usize];
                random.fill(&mut noise);
                bytes.extend(noise);
            }
        }
    }
    bytes
}

/// The same bytes with a few changed, cut, doubled or moved.
fn mutate(random: &mut Random, source: &[u8]) -> Vec<u8> {
    let mut bytes = source.to_vec();
    for _ in 0..random.between(1, 6) {
        if bytes.is_empty() {
            return compose(random);
        }
        let at = random.below(bytes.len() as u64) as usize;
        match random.below(5) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.bits() as u8,
            2 => bytes.truncate(at),
            3 => {
                let tail = bytes[at..].to_vec();
                bytes.extend(tail);
                bytes.truncate(1 << 16);
            }
            _ => {
                let word = WORDS[random.below(WORDS.len() as u64) as usize];
                bytes.splice(at..at, word.iter().copied());
            }
        }
    }
    bytes
}

fn arguments() -> Result<Arguments> {
    let mut found = Arguments { seconds: 20, seed: 1, target: None, input: None };
    let mut rest = std::env::args().skip(1);
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--seconds" => found.seconds = value()?.parse()?,
            "--seed" => found.seed = value()?.parse()?,
            "--target" => found.target = Some(value()?),
            "--input" => found.input = Some(value()?.into()),
            other => bail!("{other:?}? The arguments are --seconds N, --seed S, --target NAME and --input FILE"),
        }
    }
    Ok(found)
}
