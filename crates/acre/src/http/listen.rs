//! Accepting operators' connections: so many at a time, each with a bound on how long it may keep us waiting.

use super::{ApiListener, ApiState, guard, router};
use crate::config::TlsChoice;
use crate::tls::ServerTls;
use axum::Router;
use axum::middleware::from_fn_with_state;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// How much operators' connections may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The most connections of one listener at a time; more are closed at once.
    pub connections_max: usize,
    /// How long the head of a request may take to come, and how long a connection may idle before it.
    pub header_within: Duration,
    /// How long connections may take to finish when the server leaves.
    pub drain_within: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections_max: 64, header_within: Duration::from_secs(20), drain_within: Duration::from_secs(5) }
    }
}

/// The first byte of a TLS session.
const TLS_HANDSHAKE: u8 = 22;

/// One listener and all its connections share this.
#[derive(Clone)]
struct Shared {
    router: Router,
    limits: Limits,
    tls: Option<Arc<ServerTls>>,
    room: Arc<Semaphore>,
    leaving: watch::Receiver<bool>,
}

/// Serves every listener until `leaving` becomes true, then lets what is being answered finish.
///
/// # Errors
/// When a listener cannot be used.
pub async fn serve(
    listeners: Vec<ApiListener>,
    state: ApiState,
    tls: Option<Arc<ServerTls>>,
    limits: Limits,
    leaving: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut accepting = JoinSet::new();
    for listener in listeners {
        let room = Arc::new(Semaphore::new(limits.connections_max));
        let open = router(state.clone());
        let shared = Shared { router: open, limits, tls: tls.clone(), room, leaving: leaving.clone() };
        match listener {
            ApiListener::Unix(listener, file) => {
                let listener = UnixListener::from_std(listener)?;
                accepting.spawn(async move {
                    accept(shared, listener, plain).await;
                    drop(file);
                });
            }
            ApiListener::Tcp(listener, _) => {
                let listener = TcpListener::from_std(listener)?;
                let router = shared.router.layer(from_fn_with_state(state.clone(), guard::token));
                let shared = Shared { router, ..shared };
                accepting.spawn(async move {
                    accept(shared, listener, maybe_tls).await;
                });
            }
        }
    }
    while accepting.join_next().await.is_some() {}
    Ok(())
}

/// Comes when the server is to leave.
async fn left(leaving: &mut watch::Receiver<bool>) {
    // An error means that whoever would tell us is gone, which is the same.
    drop(leaving.wait_for(|leaving| *leaving).await);
}

/// Where connections come from.
trait Source: Send + 'static {
    type Stream: Send + 'static;

    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Source for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Source for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

async fn accept<S: Source, F>(shared: Shared, source: S, converse: impl Fn(Shared, S::Stream) -> F + Send)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut conversations = JoinSet::new();
    let mut leaving = shared.leaving.clone();
    loop {
        let accepted = tokio::select! {
            () = left(&mut leaving) => break,
            Some(_) = conversations.join_next() => continue,
            accepted = source.next() => accepted,
        };
        match accepted {
            Ok(stream) => {
                let Ok(permit) = Arc::clone(&shared.room).try_acquire_owned() else { continue };
                let conversation = converse(shared.clone(), stream);
                conversations.spawn(async move {
                    conversation.await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Descriptors have run out, most likely: wait for some to come back rather than spin.
                tracing::warn!(%error, "an operator's connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
    let finish = async { while conversations.join_next().await.is_some() {} };
    // Whoever is still there then is cut off.
    tokio::time::timeout(shared.limits.drain_within, finish).await.ok();
}

async fn plain<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(mut shared: Shared, stream: S) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(shared.limits.header_within);
    let service = TowerToHyperService::new(shared.router);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = left(&mut shared.leaving) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an operator's connection broke");
    }
}

async fn maybe_tls(shared: Shared, stream: TcpStream) {
    let Some(tls) = shared.tls.clone() else { return plain(shared, stream).await };
    let opening = async {
        let mut first = [0];
        let speaks_tls = stream.peek(&mut first).await? == 1 && first[0] == TLS_HANDSHAKE;
        if !speaks_tls && tls.choice == TlsChoice::Allow {
            return Ok((Some(stream), None));
        }
        // Whoever speaks no TLS where it is required fails here.
        let accepted = TlsAcceptor::from(Arc::clone(&tls.operators)).accept(stream).await?;
        io::Result::Ok((None, Some(accepted)))
    };
    match tokio::time::timeout(shared.limits.header_within, opening).await {
        Ok(Ok((Some(stream), _))) => plain(shared, stream).await,
        Ok(Ok((_, Some(stream)))) => plain(shared, stream).await,
        Ok(Ok((None, None)) | Err(_)) | Err(_) => tracing::debug!("an operator's TLS session did not come about"),
    }
}
