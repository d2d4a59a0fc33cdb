//! `acre serve`: everything in one process, from an empty directory to a mounted volume.

mod banner;
mod first_run;
mod listeners;
mod plane;

use crate::config::{IoChoice, ServeOptions, TlsChoice};
use crate::control::ControlPlane;
use crate::datadir::{self, DataDirectory};
use crate::engine::{self, EngineHandle, EngineOptions};
use crate::http::{self, ApiListener, ApiState};
use crate::tls::ServerTls;
use crate::{logging, schedule, systemd};
use anyhow::{Context, Result};
use api::AuditReport;
use model::ClusterId;
use nbd::server::TlsPolicy;
use plane::{EnginePlane, Facts};
use reactor::{Backend, Listener, Socket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::StoreError;
use store_redb::RedbStore;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// How long an NBD handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// How often it is looked whether the client of `--stdio` is still there.
const STDIO_EVERY: Duration = Duration::from_millis(100);

/// Serves until told to leave (SIGTERM, SIGINT), or until the client of `--stdio` has left. Gives the exit code.
///
/// # Errors
/// Whatever keeps it from starting.
pub fn serve(options: ServeOptions) -> Result<u8> {
    let activated = listeners::activated()?;
    logging::start(&options.log)?;
    let started = Instant::now();
    let data = DataDirectory::open_or_create(&options.data.data)?;
    let tls = ServerTls::load(&options.tls).map_err(|error| api::Error::invalid(format!("{error:#}")))?.map(Arc::new);
    let nbd = listeners::nbd(&options, data.path(), activated)?;
    let api = listeners::api(&options, data.path())?;
    let token = data.token()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let facts = Facts {
        started,
        threads: options.thread_count(),
        table_bytes_max: options.table_bytes_max(),
        listeners: listeners::listed(&nbd, &api, &options),
    };
    if !data.is_ready() {
        first_start(&options, &data, &runtime)?;
    }
    let sockets = if options.stdio { vec![Socket::standard_streams()?] } else { Vec::new() };
    let engine = Arc::new(start_engine(&options, &data, nbd.listeners, sockets, tls.clone())?);
    let plane = Arc::new(EnginePlane::new(Arc::clone(&engine), facts));
    let outcome = runtime.block_on(run(&options, &data, &engine, plane, api, tls, token));
    // Also when something failed on the way: what hosts flushed is safe either way, but leaving well is quicker to start
    // from.
    engine.shutdown();
    tracing::info!("left");
    outcome.map(|()| 0)
}

/// Makes what there is to be at first, with nobody connected: the first host finds the first volume.
fn first_start(options: &ServeOptions, data: &DataDirectory, runtime: &Runtime) -> Result<()> {
    let engine = Arc::new(start_engine(options, data, Vec::new(), Vec::new(), None)?);
    let facts = Facts { started: Instant::now(), threads: 0, table_bytes_max: 0, listeners: Vec::new() };
    let plane = EnginePlane::new(Arc::clone(&engine), facts);
    let outcome = runtime.block_on(first_run::prepare(data, &options.disks, &plane));
    engine.shutdown();
    outcome
}

/// Audits the store of a server that is not running.
///
/// # Errors
/// When there is none, it runs, or its store cannot be read.
pub fn audit(data: &Path) -> Result<AuditReport> {
    let data = DataDirectory::open(data)?;
    let store = RedbStore::open(&data.metadata()).map_err(store_error)?;
    Ok(controller::inspect::audit(&store).map_err(store_error)?)
}

fn store_error(error: StoreError) -> api::Error {
    let message = error.to_string();
    match error {
        StoreError::Full => api::Error::out_of_space(message),
        StoreError::Corrupt(_) => api::Error::corrupt(message),
        StoreError::NewerVersion { .. } => api::Error::invalid(message),
        StoreError::Failed(_) => api::Error::unavailable(message),
    }
}

fn start_engine(
    options: &ServeOptions,
    data: &DataDirectory,
    listeners: Vec<Listener>,
    sockets: Vec<Socket>,
    tls: Option<Arc<ServerTls>>,
) -> Result<EngineHandle> {
    let store = RedbStore::open_or_create(&data.metadata()).map_err(store_error)?;
    let clients = tls.as_ref().filter(|tls| tls.clients.are_given()).map(|tls| {
        let rules = tls.clients.clone();
        Box::new(move |certificate: Option<&[u8]>| rules.allowed(certificate)) as Box<engine::ClientRule>
    });
    engine::start(EngineOptions {
        store: Box::new(store),
        new_cluster: ClusterId(datadir::random_id()?),
        threads: options.thread_count() as usize,
        backend: match options.io {
            IoChoice::Auto => Backend::Auto,
            IoChoice::Uring => Backend::Uring,
            IoChoice::Fallback => Backend::Fallback,
        },
        listeners,
        sockets,
        tls_policy: match options.tls.tls {
            TlsChoice::Off => TlsPolicy::Off,
            TlsChoice::Allow => TlsPolicy::Allow,
            TlsChoice::Require => TlsPolicy::Require,
        },
        tls: tls.map(|tls| Arc::clone(&tls.hosts)),
        clients,
        connections_max: options.connections as usize,
        handshake: HANDSHAKE,
        table_bytes_max: options.table_bytes_max(),
    })
}

async fn run(
    options: &ServeOptions,
    data: &DataDirectory,
    engine: &Arc<EngineHandle>,
    plane: Arc<EnginePlane>,
    api: Vec<ApiListener>,
    tls: Option<Arc<ServerTls>>,
    token: String,
) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    first_run::prepare(data, &options.disks, &*plane).await?;
    let (leave, leaving) = watch::channel(false);
    let state = ApiState { control: Arc::clone(&plane) as Arc<dyn ControlPlane>, token: token.into() };
    let control = Arc::clone(&plane) as Arc<dyn ControlPlane>;
    let schedules = tokio::spawn(schedule::keep(control, plane.schedule_failures(), leaving.clone()));
    let http = tokio::spawn(http::serve(api, state, tls, http::Limits::default(), leaving));
    if !options.stdio {
        let volumes = first_run::volume_names(&*plane).await?;
        banner::print(data.path(), plane.facts(), &volumes);
    }
    systemd::notify(systemd::READY);
    tokio::select! {
        () = asked(&mut terminate, &mut interrupt) => tracing::info!("asked to leave; draining"),
        () = stdio_ended(options.stdio, engine) => tracing::info!("the client on standard input has left"),
    }
    systemd::notify(systemd::STOPPING);
    leave.send_replace(true);
    let drained = async {
        schedules.await.context("the task that keeps to schedules ended in a panic")?;
        http.await.context("the API's task ended in a panic")?.context("the API could not be served")?;
        let engine = Arc::clone(engine);
        tokio::task::spawn_blocking(move || engine.shutdown()).await.context("leaving ended in a panic")
    };
    tokio::select! {
        drained = drained => drained,
        () = asked(&mut terminate, &mut interrupt) => {
            tracing::error!("asked twice; leaving at once");
            std::process::exit(1);
        }
    }
}

async fn asked(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

async fn stdio_ended(stdio: bool, engine: &Arc<EngineHandle>) {
    if !stdio {
        return std::future::pending().await;
    }
    loop {
        let engine = Arc::clone(engine);
        let connections = tokio::task::spawn_blocking(move || engine.connections()).await;
        if connections.is_ok_and(|connections| connections == 0) {
            return;
        }
        tokio::time::sleep(STDIO_EVERY).await;
    }
}
