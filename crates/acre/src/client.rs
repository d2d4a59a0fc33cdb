//! Asking a server: requests become HTTP over a Unix socket, TCP or TLS.

use crate::config::Address;
use crate::tls;
use api::{Error, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// How long a connection may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// The largest answer taken, in bytes.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// How to reach a server.
#[derive(Clone, Debug)]
pub struct Client {
    /// Where it is.
    pub address: Address,
    /// What it asks for over TCP.
    pub token: Option<String>,
    /// Who may have signed its certificate, for `https://`.
    pub ca: Option<PathBuf>,
}

/// A request as HTTP has it.
struct Call {
    method: Method,
    path: String,
    body: Option<Vec<u8>>,
}

impl Call {
    fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), body: None }
    }

    fn with(method: Method, path: impl Into<String>, body: &impl Serialize) -> Self {
        let body = serde_json::to_vec(body).expect("a request is JSON");
        Self { method, path: path.into(), body: Some(body) }
    }
}

fn of_pool(path: &str, pool: &Option<String>) -> String {
    pool.as_ref().map_or_else(|| path.into(), |pool| format!("{path}?pool={}", segment(pool)))
}

/// A name as a path or a query holds it.
fn segment(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn call(request: &Request) -> Call {
    let volume = |name: &str| format!("/v1/volumes/{}", segment(name));
    let snapshot = |name: &str| format!("/v1/snapshots/{}", segment(name));
    match request {
        Request::PoolCreate(pool) => Call::with(Method::POST, "/v1/pools", pool),
        Request::PoolList => Call::new(Method::GET, "/v1/pools"),
        Request::PoolShow { name } => Call::new(Method::GET, format!("/v1/pools/{}", segment(name))),
        Request::PoolDelete { name } => Call::new(Method::DELETE, format!("/v1/pools/{}", segment(name))),
        Request::DiskAdd(disk) => Call::with(Method::POST, "/v1/disks", disk),
        Request::DiskList { pool } => Call::new(Method::GET, of_pool("/v1/disks", pool)),
        Request::DiskShow { id } => Call::new(Method::GET, format!("/v1/disks/{id}")),
        Request::VolumeCreate(new) => Call::with(Method::POST, "/v1/volumes", new),
        Request::VolumeList { pool } => Call::new(Method::GET, of_pool("/v1/volumes", pool)),
        Request::VolumeShow { name } => Call::new(Method::GET, volume(name)),
        Request::VolumeSet { name, set } => Call::with(Method::PATCH, volume(name), set),
        Request::VolumeResize { name, resize } => Call::with(Method::POST, volume(name) + "/resize", resize),
        Request::VolumeRename { name, rename } => Call::with(Method::POST, volume(name) + "/rename", rename),
        Request::VolumeDelete { name, force, snapshots } => {
            Call::new(Method::DELETE, format!("{}?force={force}&snapshots={snapshots}", volume(name)))
        }
        Request::VolumeRollback { name, rollback } => Call::with(Method::POST, volume(name) + "/rollback", rollback),
        Request::VolumeMap { name, query } => {
            let path = format!("{}/map?offset={}&limit={}", volume(name), query.offset, query.limit());
            Call::new(Method::GET, path)
        }
        // Who asks and when is the server's to say.
        Request::SnapshotCreate { create, scheduled: _, now_unix_seconds: _ } => {
            Call::with(Method::POST, "/v1/snapshots", create)
        }
        Request::SnapshotList { volume } => {
            let of = volume.as_ref().map_or_else(String::new, |volume| format!("?volume={}", segment(volume)));
            Call::new(Method::GET, format!("/v1/snapshots{of}"))
        }
        Request::SnapshotShow { name } => Call::new(Method::GET, snapshot(name)),
        Request::SnapshotRename { name, rename } => Call::with(Method::POST, snapshot(name) + "/rename", rename),
        Request::SnapshotDelete { name, force } => {
            Call::new(Method::DELETE, format!("{}?force={force}", snapshot(name)))
        }
        Request::CloneCreate(clone) => Call::with(Method::POST, "/v1/clones", clone),
        Request::CloneFlatten { name } => Call::new(Method::POST, volume(name) + "/flatten"),
        Request::CloneFlattenCancel { name } => Call::new(Method::DELETE, volume(name) + "/flatten"),
        Request::Diff(query) => {
            let from = query.from.as_ref().map_or_else(String::new, |from| format!("from={}&", segment(from)));
            let (to, offset, limit) = (segment(&query.to), query.offset, query.limit());
            Call::new(Method::GET, format!("/v1/diff?{from}to={to}&offset={offset}&limit={limit}"))
        }
        Request::ScheduleSet { name, set } => Call::with(Method::PUT, volume(name) + "/schedule", set),
        Request::ScheduleList => Call::new(Method::GET, "/v1/schedules"),
        Request::ScheduleDelete { name } => Call::new(Method::DELETE, volume(name) + "/schedule"),
        Request::Status => Call::new(Method::GET, "/v1/status"),
        Request::Audit => Call::new(Method::POST, "/v1/audit"),
    }
}

/// The answer to `request`, whose body is `body`.
fn answer(request: &Request, body: &[u8]) -> Result<Response, Error> {
    fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(body).map_err(|error| {
            Error::internal(format!(
                "the server's answer cannot be read ({error}); are client and server of one version?"
            ))
        })
    }
    Ok(match request {
        Request::PoolCreate(_) | Request::PoolShow { .. } => Response::Pool(read(body)?),
        Request::PoolList => Response::Pools(read(body)?),
        Request::PoolDelete { .. }
        | Request::VolumeDelete { .. }
        | Request::SnapshotDelete { .. }
        | Request::ScheduleDelete { .. } => Response::Done,
        Request::DiskAdd(_) | Request::DiskShow { .. } => Response::Disk(read(body)?),
        Request::DiskList { .. } => Response::Disks(read(body)?),
        Request::VolumeCreate(_)
        | Request::VolumeShow { .. }
        | Request::VolumeSet { .. }
        | Request::VolumeResize { .. }
        | Request::VolumeRename { .. }
        | Request::VolumeRollback { .. }
        | Request::CloneCreate(_)
        | Request::CloneFlatten { .. }
        | Request::CloneFlattenCancel { .. } => Response::Volume(read(body)?),
        Request::VolumeList { .. } => Response::Volumes(read(body)?),
        Request::VolumeMap { .. } => Response::VolumeMap(read(body)?),
        Request::SnapshotCreate { .. } | Request::SnapshotList { .. } => Response::Snapshots(read(body)?),
        Request::SnapshotShow { .. } | Request::SnapshotRename { .. } => Response::Snapshot(read(body)?),
        Request::Diff(_) => Response::Diff(read(body)?),
        Request::ScheduleSet { .. } => Response::Schedule(read(body)?),
        Request::ScheduleList => Response::Schedules(read(body)?),
        Request::Status => Response::Status(read(body)?),
        Request::Audit => Response::Audit(read(body)?),
    })
}

impl Client {
    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// The server's own; [`api::ErrorKind::Unavailable`] when it cannot be reached.
    pub fn request(&self, request: &Request) -> Result<Response, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Error::internal(error.to_string()))?;
        runtime.block_on(self.send(request))
    }

    async fn send(&self, request: &Request) -> Result<Response, Error> {
        let call = call(request);
        let (status, body) = match &self.address {
            Address::Unix(path) => self.converse(self.reach(UnixStream::connect(path)).await?, call).await?,
            Address::Tcp(host_port) => self.converse(self.reach(TcpStream::connect(host_port)).await?, call).await?,
            Address::Tls(host_port) => self.converse(self.reach_tls(host_port).await?, call).await?,
        };
        if status.is_success() {
            return answer(request, &body);
        }
        Err(serde_json::from_slice(&body).unwrap_or_else(|_| {
            let text: String = String::from_utf8_lossy(&body).chars().take(200).collect();
            Error::unavailable(format!("{} answered {status}: {text}", self.address))
        }))
    }

    async fn reach<S>(&self, connecting: impl Future<Output = io::Result<S>>) -> Result<S, Error> {
        let connected = tokio::time::timeout(CONNECT_WITHIN, connecting).await;
        let why = match connected {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", CONNECT_WITHIN.as_secs()),
        };
        Err(Error::unavailable(format!(
            "no server at {}: {why}; start one with `acre serve`, or name another with --api or ACRE_API",
            self.address
        )))
    }

    async fn reach_tls(&self, host_port: &str) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Error> {
        let Some(ca) = &self.ca else {
            return Err(Error::invalid(
                "for https:// name the authority that signed the server's certificate: --ca FILE",
            ));
        };
        let invalid = |error: anyhow::Error| Error::invalid(format!("{error:#}"));
        let config = tls::client_config(ca).map_err(invalid)?;
        let name = tls::server_name(host_port).map_err(invalid)?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        self.reach(async { connector.connect(name, TcpStream::connect(host_port).await?).await }).await
    }

    async fn converse<S>(&self, stream: S, call: Call) -> Result<(StatusCode, Bytes), Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let broken = |error: &dyn std::fmt::Display| {
            Error::unavailable(format!(
                "the connection to {} broke: {error}; whether it was carried out is unknown",
                self.address
            ))
        };
        let mut request = hyper::Request::builder().method(call.method).uri(call.path).header(header::HOST, "acre");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if call.body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let body = Full::new(Bytes::from(call.body.unwrap_or_default()));
        let request = request.body(body).map_err(|error| Error::invalid(error.to_string()))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        let conversation = async {
            let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            Ok((status, body.map_err(|error| broken(&error))?.to_bytes()))
        };
        tokio::pin!(conversation);
        tokio::select! {
            answered = &mut conversation => answered,
            // The connection ends first when the server closes it behind its answer; the answer is there all the same.
            _ = connection => conversation.await,
        }
    }
}
