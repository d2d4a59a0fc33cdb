//! The kill -9 campaign: tenants write, trim and flush over several connections, the server is killed at a random moment,
//! started again, and everything is compared with the ledger. Again and again, on one small pool whose regions pass from
//! tenant to tenant all the time.

mod load;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::MIB;
use crate::ledger::Ledger;
use crate::random::Random;
use crate::server::{Options, Server};
use crate::stamp::{self, SECTOR_BYTES};
use crate::tool::finish;

pub use load::Done;

/// The part of each volume that is written: small, so that its regions are written, freed and taken again all the time.
const SPAN_SECTORS: usize = 24 * MIB as usize / SECTOR_BYTES;
/// The pool: room for both spans and little more, so that what one tenant frees the other one gets.
const DISK_SIZE: &str = "96M";
/// Connections that write to each volume at once.
const CONNECTIONS: usize = 3;
/// Bytes read at once when a volume is verified.
const VERIFY_BYTES: usize = 256 << 10;

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many times the server is killed.
    pub cycles: u32,
    /// Where the random choices start.
    pub seed: u64,
    /// The longest load between two kills.
    pub load_max: Duration,
    /// Further arguments of `acre serve`.
    pub serve: Vec<String>,
}

/// What was done; printed at the end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Kills under load.
    pub kills: u32,
    /// Kills while the server was starting.
    pub kills_at_start: u32,
    /// Kills while a volume was being deleted.
    pub kills_in_delete: u32,
    /// Volumes given to a new tenant.
    pub tenants: u64,
    /// What the connections did.
    pub done: Done,
    /// Sectors compared with the ledger.
    pub sectors_verified: u64,
}

/// One volume, its tenant and its ledger.
struct Tenancy {
    volume: String,
    ledger: Arc<Mutex<Ledger>>,
}

struct Campaign {
    server: Server,
    random: Random,
    tenancies: Vec<Tenancy>,
    sequence: Arc<AtomicU64>,
    outcome: Outcome,
}

/// Runs a campaign; an error names the cycle, what is wrong, and the folder that is kept for a look.
pub fn run(plan: &Plan) -> Result<Outcome> {
    let options = Options { extra: plan.serve.clone(), ..Options::disk(DISK_SIZE) };
    let mut campaign = Campaign {
        server: Server::start(options)?,
        random: Random::new(plan.seed),
        tenancies: Vec::new(),
        sequence: Arc::new(AtomicU64::new(1)),
        outcome: Outcome::default(),
    };
    let began = Instant::now();
    let outcome = campaign.cycles(plan, began);
    if outcome.is_err() {
        eprintln!("the server's folder is kept: {}", campaign.server.keep().display());
    }
    outcome?;
    campaign.server.stop()?;
    campaign.server.audit_offline()?;
    Ok(campaign.outcome)
}

impl Campaign {
    fn cycles(&mut self, plan: &Plan, began: Instant) -> Result<()> {
        self.move_in()?;
        self.move_in()?;
        for cycle in 0..plan.cycles {
            self.cycle(plan).with_context(|| format!("cycle {cycle} of seed {}", plan.seed))?;
            if cycle % 10 == 9 {
                println!("{} cycles, {:.0} s", cycle + 1, began.elapsed().as_secs_f64());
            }
        }
        Ok(())
    }

    fn cycle(&mut self, plan: &Plan) -> Result<()> {
        let load_millis = self.random.between(10, plan.load_max.as_millis().max(11) as u64);
        self.load(Duration::from_millis(load_millis))?;
        self.outcome.kills += 1;
        self.come_back()?;
        self.verify()?;
        self.server.audit()?;
        if self.random.one_in(4) {
            self.move_out()?;
            self.move_in()?;
        }
        Ok(())
    }

    /// Writes from every connection until the server is killed in the middle of it.
    fn load(&mut self, length: Duration) -> Result<()> {
        let killed = Arc::new(AtomicBool::new(false));
        let mut workers: Vec<JoinHandle<Result<Done>>> = Vec::new();
        for tenancy in &self.tenancies {
            for connection in 0..CONNECTIONS {
                let session = self.server.session(&tenancy.volume)?;
                let mut load = load::Load::new(
                    session,
                    Arc::clone(&tenancy.ledger),
                    Arc::clone(&self.sequence),
                    Random::new(self.random.bits()),
                    load::Share { own: connection, of: CONNECTIONS, sectors: SPAN_SECTORS },
                );
                let killed = Arc::clone(&killed);
                workers.push(std::thread::spawn(move || load.run(&killed)));
            }
        }
        std::thread::sleep(length);
        killed.store(true, Ordering::SeqCst);
        self.server.kill()?;
        for worker in workers {
            let done = worker.join().map_err(|_| anyhow!("a connection's thread panicked"))??;
            self.outcome.done.add(done);
        }
        Ok(())
    }

    /// Starts the server again, sometimes killing it once more while it starts; sometimes audits before.
    fn come_back(&mut self) -> Result<()> {
        if self.random.one_in(5) {
            self.server.audit_offline().context("before the restart")?;
        }
        if self.random.one_in(5) {
            self.server.launch()?;
            std::thread::sleep(Duration::from_millis(self.random.between(0, 80)));
            self.server.kill()?;
            self.outcome.kills_at_start += 1;
        }
        self.server.resume()?;
        self.server.judge_log()
    }

    /// Reads every span and compares it with its ledger.
    fn verify(&mut self) -> Result<()> {
        for tenancy in &self.tenancies {
            let mut session = self.server.session(&tenancy.volume)?;
            let mut ledger = tenancy.ledger.lock().map_err(|_| anyhow!("a connection's thread panicked"))?;
            let mut wrong = Vec::new();
            for first in (0..SPAN_SECTORS).step_by(VERIFY_BYTES / SECTOR_BYTES) {
                let bytes = session.read((first * SECTOR_BYTES) as u64, VERIFY_BYTES as u64)?;
                for (index, sector) in bytes.chunks_exact(SECTOR_BYTES).enumerate() {
                    if let Err(message) = ledger.verify(first + index, stamp::read(sector)) {
                        wrong.push(message);
                    }
                    self.outcome.sectors_verified += 1;
                }
            }
            ensure!(
                wrong.is_empty(),
                "volume {}: {} sectors are wrong, the first of them:\n{}",
                tenancy.volume,
                wrong.len(),
                wrong[..wrong.len().min(10)].join("\n")
            );
            session.leave()?;
        }
        Ok(())
    }

    /// Gives a fresh volume to a new tenant, who must find nothing but zeroes in it.
    fn move_in(&mut self) -> Result<()> {
        self.outcome.tenants += 1;
        let tenant = self.outcome.tenants;
        let volume = format!("tenant-{tenant}");
        let region = if tenant.is_multiple_of(2) { "16k" } else { "64k" };
        self.server.create_volume(&volume, "1T", &["--region-size", region])?;
        let ledger = Arc::new(Mutex::new(Ledger::new(tenant, SPAN_SECTORS)));
        self.tenancies.push(Tenancy { volume, ledger });
        Ok(())
    }

    /// Deletes a tenant's volume, sometimes with a kill in the middle of it.
    fn move_out(&mut self) -> Result<()> {
        let leaving = self.tenancies.remove(self.random.below(2) as usize);
        if self.random.one_in(2) && !self.server.is_standin() {
            let mut command = self.server.acre_command();
            command.args(["volume", "delete", &leaving.volume, "--force"]);
            let deleting = std::thread::spawn(move || finish(&mut command));
            std::thread::sleep(Duration::from_millis(self.random.between(0, 25)));
            self.server.kill()?;
            self.outcome.kills_in_delete += 1;
            // It may have been told that it succeeded, or not; either is right.
            deleting.join().map_err(|_| anyhow!("the deleting thread panicked"))??;
            self.come_back()?;
            self.verify()?;
            self.server.audit()?;
            let list = self.server.acre(&["volume", "list"])?;
            let volumes = list.as_array().context("volume list is not a list")?;
            if !volumes.iter().any(|volume| volume["name"] == leaving.volume.as_str() && volume["state"] != "deleting")
            {
                return Ok(());
            }
        }
        self.server.delete_volume(&leaving.volume)
    }
}
