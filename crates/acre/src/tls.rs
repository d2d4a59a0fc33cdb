//! TLS from files: the server's certificate, what clients must show, and which volumes it opens for them.

use crate::config::{TlsChoice, TlsOptions};
use anyhow::{Context, Result, bail};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// The volumes a client may open: all of them, or these.
pub type AllowedVolumes = Option<Arc<BTreeSet<String>>>;

/// TLS as a server speaks it.
#[derive(Debug)]
pub struct ServerTls {
    /// Whether clients may or must.
    pub choice: TlsChoice,
    /// For hosts, which may have to show a certificate.
    pub hosts: Arc<ServerConfig>,
    /// For operators, who show a token and need no certificate.
    pub operators: Arc<ServerConfig>,
    /// Which client may open what.
    pub clients: ClientRules,
}

/// Which client may open which volumes.
#[derive(Clone, Debug, Default)]
pub struct ClientRules(Option<BTreeMap<String, AllowedVolumes>>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientsFile {
    clients: BTreeMap<String, Vec<String>>,
}

impl ServerTls {
    /// Reads what the options name; none when TLS is off.
    ///
    /// # Errors
    /// When a file is missing or does not hold what it should.
    pub fn load(options: &TlsOptions) -> Result<Option<Self>> {
        if options.tls == TlsChoice::Off {
            return Ok(None);
        }
        let (Some(certificate), Some(key)) = (&options.tls_cert, &options.tls_key) else {
            bail!("--tls {} needs --tls-cert FILE and --tls-key FILE", options.tls.name());
        };
        let chain = certificates(certificate)?;
        let key = PrivateKeyDer::from_pem_file(key)
            .map_err(|error| anyhow::anyhow!("no private key in {}: {error}", key.display()))?;
        let configure = |verifier| {
            let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
            let config = builder.with_client_cert_verifier(verifier).with_single_cert(chain.clone(), key.clone_key());
            config.map(Arc::new).context("the certificate does not fit its key")
        };
        let hosts = match &options.tls_client_ca {
            None => configure(WebPkiClientVerifier::no_client_auth())?,
            Some(path) => {
                let roots = Arc::new(roots(path)?);
                configure(WebPkiClientVerifier::builder_with_provider(roots, provider()).build()?)?
            }
        };
        let operators = configure(WebPkiClientVerifier::no_client_auth())?;
        if options.tls_clients.is_some() && options.tls != TlsChoice::Require {
            bail!("rules for clients bind nobody who may leave TLS out; with --tls-clients, give --tls require");
        }
        let clients = options.tls_clients.as_deref().map_or(Ok(ClientRules::default()), ClientRules::load)?;
        Ok(Some(Self { choice: options.tls, hosts, operators, clients }))
    }
}

impl ClientRules {
    /// Reads a file of rules.
    ///
    /// # Errors
    /// When it cannot be read or holds anything else.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Whether there are rules at all.
    #[must_use]
    pub fn are_given(&self) -> bool {
        self.0.is_some()
    }

    fn parse(text: &str) -> Result<Self> {
        let file: ClientsFile = toml::from_str(text)?;
        let mut rules = BTreeMap::new();
        for (client, volumes) in file.clients {
            let client = client.to_ascii_lowercase();
            let fingerprint = client.strip_prefix("sha256:").map(|digits| digits.replace(':', ""));
            if let Some(digits) = &fingerprint
                && (digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            {
                bail!("{client:?} is not sha256: and 64 hexadecimal digits");
            }
            let client = fingerprint.map_or(client, |digits| format!("sha256:{digits}"));
            let all = volumes.iter().any(|volume| volume == "*");
            rules.insert(client, (!all).then(|| Arc::new(volumes.into_iter().collect())));
        }
        Ok(Self(Some(rules)))
    }

    /// What the client with this certificate (DER) may open: everything where there are no rules.
    ///
    /// # Errors
    /// When it may open nothing; why.
    pub fn allowed(&self, certificate: Option<&[u8]>) -> Result<AllowedVolumes, String> {
        let Some(rules) = &self.0 else { return Ok(None) };
        let certificate = certificate.ok_or("this server opens volumes to clients with a certificate only")?;
        let names = names_of(certificate)?;
        let allowed = names.iter().find_map(|name| rules.get(name));
        allowed.cloned().ok_or_else(|| format!("no rule opens a volume to {}", names.join(", ")))
    }
}

/// The names a certificate is known by in the rules: its fingerprint, then its DNS names.
fn names_of(certificate: &[u8]) -> Result<Vec<String>, String> {
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate);
    let digits: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut names = vec![format!("sha256:{digits}")];
    let der = CertificateDer::from(certificate);
    let parsed = webpki::EndEntityCert::try_from(&der).map_err(|error| format!("unreadable certificate: {error}"))?;
    names.extend(parsed.valid_dns_names().map(str::to_ascii_lowercase));
    Ok(names)
}

/// TLS as a client of the operator API speaks it, trusting the authorities in the file at `ca`.
///
/// # Errors
/// When the file holds no certificate.
pub fn client_config(ca: &Path) -> Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots(ca)?).with_no_client_auth())
}

/// The name a server must prove to be, from `HOST:PORT`.
///
/// # Errors
/// When the host can be no certificate's name.
pub fn server_name(host_port: &str) -> Result<ServerName<'static>> {
    let host = host_port.rsplit_once(':').map_or(host_port, |(host, _)| host).trim_matches(['[', ']']);
    ServerName::try_from(host.to_owned()).with_context(|| format!("{host:?} cannot be in a certificate"))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| anyhow::anyhow!("no certificates in {}: {error}", path.display()))?;
    if found.is_empty() {
        bail!("no certificates in {}", path.display());
    }
    Ok(found)
}

fn roots(path: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).with_context(|| format!("an authority in {}", path.display()))?;
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_known_by_a_dns_name_or_its_fingerprint_and_strangers_open_nothing() {
        let own = rcgen::generate_simple_self_signed(vec!["Host-1.example".into()]).unwrap();
        let other = rcgen::generate_simple_self_signed(vec!["host-2.example".into()]).unwrap();
        let fingerprint = names_of(other.cert.der()).unwrap().remove(0).to_uppercase().replace("SHA256", "sha256");
        let text = format!("[clients]\n\"host-1.EXAMPLE\" = [\"demo\", \"vm\"]\n\"{fingerprint}\" = [\"*\"]\n");
        let rules = ClientRules::parse(&text).unwrap();
        let allowed = rules.allowed(Some(own.cert.der())).unwrap().unwrap();
        assert!(allowed.contains("demo") && !allowed.contains("other"));
        assert_eq!(rules.allowed(Some(other.cert.der())), Ok(None));
        let stranger = rcgen::generate_simple_self_signed(vec!["host-3.example".into()]).unwrap();
        assert!(rules.allowed(Some(stranger.cert.der())).unwrap_err().contains("host-3.example"));
        assert!(rules.allowed(None).is_err());
        assert_eq!(ClientRules::default().allowed(None), Ok(None));
    }

    #[test]
    fn rules_that_cannot_be_meant_are_refused() {
        assert!(ClientRules::parse("[clients]\n\"sha256:12\" = []").is_err());
        assert!(ClientRules::parse("[hosts]\na = []").is_err());
    }
}
