//! What every data thread is given once.

use agent::{AgentConfig, HostId};
use model::ClusterId;
use nbd::server::ServerConfig;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The exports a client certificate opens (`None`: all), or why it opens nothing.
pub type ClientRule = dyn Fn(Option<&[u8]>) -> Result<Option<Arc<BTreeSet<String>>>, String> + Send + Sync;

/// Settings and counters that all data threads share.
pub(crate) struct DataSettings {
    pub(crate) cluster: ClusterId,
    pub(crate) agent: AgentConfig,
    pub(crate) nbd: Arc<ServerConfig>,
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
    pub(crate) clients: Option<Box<ClientRule>>,
    pub(crate) connections_max: usize,
    pub(crate) connections: AtomicUsize,
    pub(crate) hosts: AtomicU64,
}

impl DataSettings {
    /// Counts a new connection; `false` when it is one too many.
    pub(crate) fn connect(&self) -> bool {
        let counted = self.connections.fetch_add(1, Ordering::Relaxed) < self.connections_max;
        if !counted {
            self.disconnect();
        }
        counted
    }

    pub(crate) fn disconnect(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn next_host_id(&self) -> HostId {
        HostId(self.hosts.fetch_add(1, Ordering::Relaxed))
    }

    /// What a TLS client may open, by the certificate it has shown.
    pub(crate) fn exports_of(&self, certificate: Option<&[u8]>) -> Result<Option<Arc<BTreeSet<String>>>, String> {
        self.clients.as_ref().map_or(Ok(None), |rule| rule(certificate))
    }
}
