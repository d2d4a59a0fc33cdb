//! A volume with far more mapped than any disk here holds, served by the real server over NBD: reads all over a TiB of it
//! beside reads of 4 GiB, what the server's memory grows by, and its start after kill -9.
//!
//! The disk is a sparse file. The map is made in the server's own metadata store while it is down, by commits as an agent
//! sends them, so that nothing has to be written. Reads then go the whole way, through the map to the file, and
//! find holes there, in which a file system answers at once: no device's time hides what the map costs.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use model::{REGIONS_PER_PAGE, RegionSize, VolumeId};
use rustix::fs::{Advice, fadvise};
use serde_json::{Value, json};

use crate::client::Client;
use crate::fio::{self, Amount, Destination, Figures, Job};
use crate::http;
use crate::map::mapper::Mapper;
use crate::map::measure::TIB;
use crate::map::random::Random;
use crate::map::world::World;
use crate::metrics::Metrics;
use crate::plan::Plan;
use crate::program::Server;
use crate::report;
use crate::results::Results;
use crate::target::serve;

/// Larger than what is mapped: a grant may be a little more than was asked for.
const VOLUME_BYTES: u64 = 1 << 50;
const NEAR_BYTES: u64 = 4 << 30;
const BLOCK: u32 = 4096;
const STARTS: u32 = 5;
/// One round of two runs says little about five parts of a hundred.
const ROUNDS_MIN: u32 = 3;
const START_WITHIN: Duration = Duration::from_secs(30);
const PAGE_BYTES: u64 = RegionSize::DEFAULT.bytes() * REGIONS_PER_PAGE as u64;

/// Where everything of this part lies.
struct Place<'a> {
    plan: &'a Plan,
    folder: &'a Path,
    mapped_bytes: u64,
}

/// Measures.
pub(crate) fn run(plan: &Plan, folder: &Path, results: &mut Results) -> Result<Value> {
    let place = Place { plan, folder, mapped_bytes: plan.scale.mapped_tib.max(1) * TIB };
    let built = place.build()?;
    let (server, mut starts) = place.starts()?;
    let reach = place.reach(&server, results)?;
    drop(server);
    let millis_max = starts.iter().copied().fold(f64::NAN, f64::max);
    starts.sort_by(f64::total_cmp);
    println!("started after kill -9: {:.0} ms to the first answer, worst {millis_max:.0} ms", starts[starts.len() / 2]);
    let mut told = json!({
        "mapped_tib": place.mapped_bytes / TIB, "built_seconds": built,
        "metadata_file_bytes": std::fs::metadata(place.store())?.len(),
        "start_millis": starts, "start_millis_max": millis_max,
    });
    if let (Some(told), Value::Object(reach)) = (told.as_object_mut(), reach) {
        told.extend(reach);
    }
    Ok(told)
}

impl Place<'_> {
    fn store(&self) -> PathBuf {
        self.folder.join("data/metadata")
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("nbd.sock")
    }

    fn metrics(&self) -> Result<Metrics> {
        Ok(Metrics::read(&http::get(&self.folder.join("api.sock"), "/metrics")?))
    }

    fn spawn(&self) -> Result<Server> {
        let mut command = serve(self.plan, self.folder, &self.folder.join("disk.raw"))?;
        Server::spawn(&mut command, &self.folder.join("server.log"))
    }

    /// A connection, as soon as there can be one.
    fn connect(&self, server: &Server) -> Result<Client> {
        let until = Instant::now() + START_WITHIN;
        loop {
            match Client::connect(&self.socket(), "span") {
                Ok(client) => return Ok(client),
                Err(error) => {
                    ensure!(Instant::now() < until, "the server does not answer: {error:#}\n{}", server.said());
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }

    /// Makes pool and volume by the server itself, and the map behind its back; gives how long the latter took, in seconds.
    fn build(&self) -> Result<f64> {
        let disk_bytes = self.mapped_bytes / 8 * 9 + (64 << 30);
        File::create(self.folder.join("disk.raw"))?
            .set_len(disk_bytes)
            .context("the file system has no sparse files of this size (--mapped-tib makes it smaller)")?;
        let socket = self.socket();
        let mut command = serve(self.plan, self.folder, &self.folder.join("disk.raw"))?;
        let server = Server::start(&mut command, &socket, &self.folder.join("server.log"))?;
        let api = self.folder.join("api.sock");
        http::post(&api, "/v1/volumes", &json!({"name": "span", "size_bytes": VOLUME_BYTES}))?;
        let volume: Value = serde_json::from_str(&http::get(&api, "/v1/volumes/span")?)?;
        let id = VolumeId(u32::try_from(volume["id"].as_u64().context("a volume has a number")?)?);
        drop(server);
        let begun = Instant::now();
        let (mut world, _) = World::open(&self.store())?;
        let mut mapper = Mapper::attach(&mut world, id)?;
        mapper.map_contiguous(&mut world, self.mapped_bytes / RegionSize::DEFAULT.bytes())?;
        mapper.detach(&mut world)?;
        Ok(begun.elapsed().as_secs_f64())
    }

    /// Starts, kills and starts again, each time with nothing of the metadata in the system's cache; milliseconds to the
    /// first answer to a read, each.
    fn starts(&self) -> Result<(Server, Vec<f64>)> {
        let mut random = Random::new(17);
        let mut millis = Vec::new();
        let mut running: Option<Server> = None;
        loop {
            if let Some(server) = running.take() {
                if millis.len() as u32 > STARTS {
                    // The first one was no start after a kill.
                    return Ok((server, millis.split_off(1)));
                }
                server.kill()?;
                let file = File::open(self.store())?;
                file.sync_all()?;
                fadvise(&file, 0, None, Advice::DontNeed)?;
            }
            let begun = Instant::now();
            let server = self.spawn()?;
            let mut client = self.connect(&server)?;
            client.read(random.below(self.mapped_bytes / u64::from(BLOCK)) * u64::from(BLOCK), BLOCK)?;
            millis.push(begun.elapsed().as_secs_f64() * 1e3);
            running = Some(server);
        }
    }

    /// Touches every page of a TiB, and reads all over it and all over its first 4 GiB in turn.
    fn reach(&self, server: &Server, results: &mut Results) -> Result<Value> {
        let pages = TIB / PAGE_BYTES;
        let mut client = self.connect(server)?;
        let mut touch = || -> Result<Vec<f64>> {
            (0..pages)
                .map(|page| {
                    let begun = Instant::now();
                    client.read(page * PAGE_BYTES, BLOCK)?;
                    Ok(begun.elapsed().as_secs_f64() * 1e6)
                })
                .collect()
        };
        let faults = |metrics: &Metrics| metrics.labelled("acre_faults_total{kind=\"page\"}");
        let (resident, before) = (server.resident_bytes()?, faults(&self.metrics()?));
        let cold = middle(&mut touch()?);
        let grown = server.resident_bytes()?.saturating_sub(resident);
        let faults_per_page = (faults(&self.metrics()?) - before) / pages as f64;
        let warm = middle(&mut touch()?);
        let destination = Destination::Nbd(format!("nbd+unix:///span?socket={}", self.socket().display()));
        for round in 1..=self.plan.rounds.max(ROUNDS_MIN) {
            for (name, span) in [("span-near", NEAR_BYTES), ("span-wide", TIB)] {
                let figures = self.random_reads(server, &destination, span)?;
                println!("{round} {name:<15} {:<12} {}", "acre", report::line(&figures));
                results.push(round, name, "acre", figures);
            }
        }
        let mib = grown as f64 / 1_048_576.0;
        println!(
            "{pages} pages: first read {cold:.0} µs, then {warm:.0} µs, {faults_per_page:.3} faults; {mib:.2} MiB more"
        );
        Ok(json!({
            "pages": pages, "cold_page_micros": cold, "warm_page_micros": warm, "faults_per_page": faults_per_page,
            "resident_mib_per_tib": mib, "resident_bytes": server.resident_bytes()?,
            "table_bytes": self.metrics()?.sum("acre_table_bytes"),
        }))
    }

    fn random_reads(&self, server: &Server, to: &Destination, span: u64) -> Result<Figures> {
        let job = Job {
            pattern: "randread",
            block_bytes: u64::from(BLOCK),
            depth: 64,
            range: (0, span),
            amount: Amount::Seconds(self.plan.seconds),
        };
        let before = server.processor_micros()?;
        let mut figures = fio::job::<&str>(self.plan, &job, to, &[])?;
        figures.processor_micros = (server.processor_micros()? - before) / figures.ios as f64;
        Ok(figures)
    }
}

/// Sorts, and gives the middle one.
fn middle(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
