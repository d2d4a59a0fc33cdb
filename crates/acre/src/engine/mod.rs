//! The engines at work: data threads, the controller thread, and the handle that the rest of the program holds.

mod catalog;
mod control;
mod data;
mod disks;
mod host;
mod hosts;
mod mailbox;
mod settings;
mod status;
mod tls;
mod turns;

pub use settings::ClientRule;

use agent::AgentConfig;
use anyhow::{Context, Result, anyhow};
use catalog::Catalog;
use control::{Answer, ControlMessage, ControlThread};
use data::{DataMessage, DataThread};
use mailbox::Mailbox;
use model::{ClusterId, DiskId, VolumeId};
use nbd::server::{Limits, ServerConfig, TlsPolicy};
use reactor::{Backend, Listener, Reactor, ReactorConfig, Socket};
use settings::DataSettings;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use store::MetaStore;
use tokio::sync::oneshot;
use wire::NodeId;

/// How long hosts are kept waiting at the start for disks to come into service.
const SETTLE_WITHIN: Duration = Duration::from_secs(20);
/// How long a thread may take to report what it has counted.
const REPORT_WITHIN: Duration = Duration::from_secs(2);

/// What the engines are started with.
pub struct EngineOptions {
    /// The metadata store.
    pub store: Box<dyn MetaStore + Send>,
    /// What a cluster that begins with this store is called: drawn at random.
    pub new_cluster: ClusterId,
    /// How many data threads.
    pub threads: usize,
    /// How they do I/O.
    pub backend: Backend,
    /// Where NBD clients connect.
    pub listeners: Vec<Listener>,
    /// Connections that are there already (`--stdio`).
    pub sockets: Vec<Socket>,
    /// Whether NBD clients may or must use TLS.
    pub tls_policy: TlsPolicy,
    /// Keys and certificates, unless TLS is off.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// What a client certificate opens; all there is, without a rule.
    pub clients: Option<Box<ClientRule>>,
    /// The most NBD connections at one time.
    pub connections_max: usize,
    /// How long an NBD handshake may take.
    pub handshake: Duration,
    /// What the tables of all volumes may take in memory, in bytes; each data thread has an even part of it.
    pub table_bytes_max: u64,
}

/// What the engines have counted, summed up over all threads.
#[derive(Clone, Debug, Default)]
pub struct EngineReport {
    /// Attached volumes: hosts, counters, resident bytes of the table, granted regions.
    pub volumes: BTreeMap<VolumeId, agent::VolumeReport>,
    /// Volumes by name.
    pub names: BTreeMap<VolumeId, String>,
    /// Counters of sessions that have ended.
    pub past: agent::Counters,
    /// Disks: counters, and whether the disk failed.
    pub disks: BTreeMap<DiskId, (node::DiskCounters, bool)>,
    /// Open NBD connections.
    pub connections: u64,
}

impl EngineReport {
    /// What all sessions have counted, those that have ended too.
    #[must_use]
    pub fn total(&self) -> agent::Counters {
        let mut total = self.past;
        self.volumes.values().for_each(|volume| total.add(&volume.counters));
        total
    }
}

/// Running engines.
pub struct EngineHandle {
    controller: Sender<ControlMessage>,
    threads: Vec<Mailbox<DataMessage>>,
    catalog: Catalog,
    backend: Backend,
    joins: Mutex<Option<Joins>>,
}

struct Joins {
    data: Vec<JoinHandle<()>>,
    control: JoinHandle<()>,
}

/// Starts the engines: returns once the controller has recovered and every disk that is there is in service.
///
/// # Errors
/// When the store cannot be read or a reactor cannot be made.
pub fn start(options: EngineOptions) -> Result<EngineHandle> {
    let started = Instant::now();
    let catalog = Catalog::default();
    let (to_controller, controller_messages) = channel();
    let limits = Limits { handshake: options.handshake, ..Limits::default() };
    let cluster = cluster_of(&*options.store)?.unwrap_or(options.new_cluster);
    let table_bytes_max = options.table_bytes_max / options.threads.max(1) as u64;
    let table_bytes_max = usize::try_from(table_bytes_max).unwrap_or(usize::MAX);
    let settings = Arc::new(DataSettings {
        cluster,
        agent: AgentConfig { table_bytes_max, ..AgentConfig::default() },
        nbd: Arc::new(ServerConfig { tls: options.tls_policy, limits }),
        tls: options.tls,
        clients: options.clients,
        connections_max: options.connections_max,
        connections: AtomicUsize::new(0),
        hosts: AtomicU64::new(1),
    });
    let mut data = Vec::new();
    let mut mailboxes = Vec::new();
    let mut starts = Vec::new();
    let mut backend = options.backend;
    for index in 0..options.threads.max(1) {
        let (ready, when_ready) = channel();
        let (start, when_started) = channel();
        let thread = DataThreadStart {
            index,
            settings: Arc::clone(&settings),
            catalog: catalog.clone(),
            controller: to_controller.clone(),
            backend: options.backend,
            started,
        };
        data.push(spawn(format!("acre-data-{index}"), move || thread.run(&ready, &when_started))?);
        let ready = when_ready.recv().context("a data thread died at its start")?;
        let (mailbox, used) = ready.map_err(|error| anyhow!("{error}"))?;
        backend = used;
        mailboxes.push(mailbox);
        starts.push(start);
    }
    let (settled, when_settled) = channel();
    let nodes = (0..mailboxes.len() as u32).map(NodeId).collect();
    let config = controller::Config { new_cluster: cluster, nodes, ..controller::Config::default() };
    let mut control = ControlThread::new(config, options.store, mailboxes.clone(), catalog.clone(), started, settled)
        .context("the metadata store cannot be recovered")?;
    for start in starts {
        // Only now: nobody is served before the controller knows what there is.
        let _ = start.send(mailboxes.clone());
    }
    let control = spawn("acre-control".into(), move || control.run(&controller_messages))?;
    // A host that came earlier would be told of errors that only a moment more would have spared it.
    if when_settled.recv_timeout(SETTLE_WITHIN).is_err() {
        tracing::warn!("serving although not every disk is in service yet");
    }
    mailboxes[0].post(DataMessage::Listen(options.listeners, options.sockets));
    let joins = Mutex::new(Some(Joins { data, control }));
    Ok(EngineHandle { controller: to_controller, threads: mailboxes, catalog, backend, joins })
}

/// The cluster that a store belongs to, unless it is new.
fn cluster_of(store: &dyn MetaStore) -> Result<Option<ClusterId>> {
    let Some(record) = store.get(&store::Key::Meta.encode())? else { return Ok(None) };
    Ok(Some(<store::records::MetaRecord as store::records::Record>::decode(&record)?.cluster))
}

#[allow(clippy::disallowed_methods)]
fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let guarded = move || {
        let _guard = EndsTheProcess;
        body();
    };
    std::thread::Builder::new().name(name).spawn(guarded).context("the system has no room for another thread")
}

/// An engine whose own invariant is broken must not be worked around by the others: the process ends, as by kill -9, and
/// a restart begins from what is durable.
struct EndsTheProcess;

impl Drop for EndsTheProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("an invariant is broken; this process ends, and what was flushed is safe");
            std::process::abort();
        }
    }
}

/// What a data thread needs to begin; the reactor is made on the thread itself.
struct DataThreadStart {
    index: usize,
    settings: Arc<DataSettings>,
    catalog: Catalog,
    controller: Sender<ControlMessage>,
    backend: Backend,
    started: Instant,
}

impl DataThreadStart {
    fn run(
        self,
        ready: &Sender<Result<(Mailbox<DataMessage>, Backend), reactor::ReactorError>>,
        started: &Receiver<Vec<Mailbox<DataMessage>>>,
    ) {
        let config = ReactorConfig { backend: self.backend, ..ReactorConfig::default() };
        let reactor = match Reactor::new(config) {
            Ok(reactor) => reactor,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        let (mailbox, messages) = Mailbox::new(reactor.waker());
        let backend = reactor.backend();
        let mut thread =
            DataThread::new(self.index, self.settings, self.catalog, self.controller, reactor, self.started);
        if ready.send(Ok((mailbox, backend))).is_err() {
            return;
        }
        let Ok(threads) = started.recv() else { return };
        thread.threads = threads;
        if let Err(error) = thread.run(&messages) {
            // Nothing this thread serves can go on; better all of it ends than that some hosts wait for ever.
            tracing::error!("the kernel refuses further I/O: {error}");
            std::process::abort();
        }
    }
}

impl EngineHandle {
    /// Asks the controller.
    ///
    /// # Errors
    /// The controller's own; unavailable while the engines shut down.
    pub async fn request(&self, request: api::Request) -> Answer {
        let (answer, waiting) = oneshot::channel();
        let gone = || api::Error::unavailable("the server is shutting down");
        self.controller.send(ControlMessage::Api(request, answer)).map_err(|_| gone())?;
        waiting.await.map_err(|_| gone())?
    }

    /// What has been counted so far. Asks every data thread, each of which answers between two rounds.
    #[must_use]
    pub fn report(&self) -> EngineReport {
        let (reply, replies) = channel();
        for thread in &self.threads {
            thread.post(DataMessage::Report(reply.clone()));
        }
        drop(reply);
        let exports = self.catalog.current();
        let names = exports.iter().map(|export| (export.volume, export.name.clone())).collect();
        let mut report = EngineReport { names, ..EngineReport::default() };
        while let Ok(thread) = replies.recv_timeout(REPORT_WITHIN) {
            report.connections += thread.connections;
            report.past.add(&thread.past);
            report.volumes.extend(thread.volumes.into_iter().map(|volume| (volume.volume, volume)));
            for (disk, counters, failed) in thread.disks {
                let entry = report.disks.entry(disk).or_default();
                entry.0.add(&counters);
                entry.1 |= failed;
            }
        }
        report
    }

    /// How the data threads do I/O.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// How many NBD connections are open now, over all threads.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.report().connections
    }

    /// Takes leave of hosts, commits, detaches and ends every thread. Safe to call twice.
    pub fn shutdown(&self) {
        let Some(joins) = self.joins.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        for thread in &self.threads {
            thread.post(DataMessage::Shutdown);
        }
        for data in joins.data {
            if data.join().is_err() {
                tracing::error!("a data thread ended in a panic");
            }
        }
        let _ = self.controller.send(ControlMessage::Shutdown);
        if joins.control.join().is_err() {
            tracing::error!("the controller thread ended in a panic");
        }
    }
}
