//! What a server costs that nobody asks anything: many attached volumes, each with a client that stays connected.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::client::Client;
use crate::http;
use crate::plan::Plan;
use crate::results::Results;
use crate::target::{Kind, Target};

const VOLUME_BYTES: u64 = 1 << 40;
/// Until what the connections and the reads have stirred up has come to rest.
const REST: Duration = Duration::from_secs(6);

/// Measures.
pub(crate) fn run(plan: &Plan, folder: &Path, _: &mut Results) -> Result<Value> {
    let small = Plan { first_writes: 0, ..plan.over(64 << 20) };
    let target = Target::prepare(&small, "acre", Kind::Acre, folder)?;
    let server = target.server.as_ref().ok_or_else(|| anyhow::anyhow!("the server was started"))?;
    let (api, nbd) = (target.folder.join("api.sock"), target.folder.join("nbd.sock"));
    let mut clients = Vec::new();
    for number in 0..plan.scale.idle_volumes {
        let name = format!("idle-{number}");
        http::post(&api, "/v1/volumes", &json!({"name": name, "size_bytes": VOLUME_BYTES}))?;
        let mut client = Client::connect(&nbd, &name)?;
        client.read(0, 4096)?;
        clients.push(client);
    }
    std::thread::sleep(REST);
    let watched = Duration::from_secs(u64::from(plan.scale.idle_seconds));
    let (before, sleeps) = (server.thread_nanos()?, server.sleeps()?);
    std::thread::sleep(watched);
    let micros = server.thread_nanos()?.since(&before) as f64 / 1000.0;
    let wakes = server.sleeps()?.since(&sleeps) as f64 / watched.as_secs_f64();
    let percent = micros / watched.as_micros() as f64 * 100.0;
    // They are still served.
    clients.iter_mut().try_for_each(|client| client.read(4096, 4096).map(drop))?;
    let (volumes, seconds) = (clients.len(), watched.as_secs());
    println!("{volumes} volumes, {seconds} s: {percent:.4} % of a core, woken {wakes:.1} times a second");
    Ok(json!({
        "volumes": volumes, "seconds": seconds, "processor_micros": micros, "percent": percent,
        "wakes_per_second": wakes, "resident_bytes": server.resident_bytes()?,
    }))
}
