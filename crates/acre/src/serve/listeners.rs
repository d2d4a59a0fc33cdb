//! Where a server listens: what the command line, the service manager or nobody said.

use crate::config::{Address, ServeOptions, TlsChoice, check_plaintext};
use crate::http::{self, ApiListener};
use crate::patience::patiently;
use anyhow::{Context, Result, anyhow, bail};
use reactor::Listener;
use std::net::SocketAddr;
use std::path::Path;

/// Where NBD is served.
pub(super) struct NbdListeners {
    pub(super) listeners: Vec<Listener>,
    /// The same, as clients write them.
    pub(super) addresses: Vec<Address>,
}

/// The sockets that the service manager hands over. Taken before anything is opened: a descriptor that it promises and
/// does not give would else be one of our own.
pub(super) fn activated() -> Result<Vec<Listener>> {
    Listener::activated().context("the sockets that LISTEN_FDS promises")
}

/// Listens for NBD. Sockets handed over by the service manager take the place of the default ones.
pub(super) fn nbd(options: &ServeOptions, data: &Path, activated: Vec<Listener>) -> Result<NbdListeners> {
    let mut found = NbdListeners { listeners: Vec::new(), addresses: Vec::new() };
    for listener in activated {
        match listener.tcp_address() {
            Some(address) => {
                check(options, "NBD", address)?;
                found.addresses.push(Address::Tcp(address.to_string()));
            }
            None => found.addresses.push(Address::Unix("(from the service manager)".into())),
        }
        found.listeners.push(listener);
    }
    let addresses = match (options.nbd.is_empty(), found.listeners.is_empty()) {
        (true, false) => Vec::new(),
        _ => options.nbd_addresses(data),
    };
    for address in addresses {
        let elsewhere = || format!("cannot serve NBD on {address}; name another place with --nbd");
        match &address {
            Address::Unix(path) => {
                found.listeners.push(patiently(|| Listener::unix(path)).with_context(elsewhere)?);
                found.addresses.push(Address::Unix(std::path::absolute(path)?));
            }
            Address::Tcp(host_port) => {
                for resolved in Address::resolve(host_port).map_err(|error| anyhow!(error))? {
                    check(options, "NBD", resolved)?;
                    let listener = patiently(|| Listener::tcp(resolved)).with_context(elsewhere)?;
                    let bound = listener.tcp_address().unwrap_or(resolved);
                    found.addresses.push(Address::Tcp(bound.to_string()));
                    found.listeners.push(listener);
                }
            }
            Address::Tls(_) => bail!("listen for NBD on HOST:PORT; whether it speaks TLS is told by --tls"),
        }
    }
    Ok(found)
}

/// Listens for operators.
pub(super) fn api(options: &ServeOptions, data: &Path) -> Result<Vec<ApiListener>> {
    let mut found = Vec::new();
    for address in options.api_addresses(data) {
        if let Address::Tcp(host_port) = &address {
            for resolved in Address::resolve(host_port).map_err(|error| anyhow!(error))? {
                check(options, "the API", resolved)?;
            }
        }
        found.extend(http::bind(&address).context("the API; name another place with --api")?);
    }
    Ok(found)
}

fn check(options: &ServeOptions, what: &str, address: SocketAddr) -> Result<()> {
    check_plaintext(what, address, options.tls.tls, options.allow_plaintext_off_loopback)
        .map_err(|message| api::Error::invalid(message).into())
}

/// All of them, for `acre status`.
pub(super) fn listed(nbd: &NbdListeners, api: &[ApiListener], options: &ServeOptions) -> Vec<api::Listener> {
    let tls = options.tls.tls.name();
    let nbd = nbd.addresses.iter().map(|address| api::Listener {
        protocol: "nbd".into(),
        address: address.to_string(),
        tls: tls.into(),
    });
    let api = api.iter().map(ApiListener::address).map(|address| {
        // Over a Unix socket the API is guarded by permissions and speaks no TLS.
        let tls = if matches!(address, Address::Unix(_)) { TlsChoice::Off.name() } else { tls };
        api::Listener { protocol: "api".into(), address: address.to_string(), tls: tls.into() }
    });
    nbd.chain(api).collect()
}
