//! What `acre serve` is told on its command line.

use clap::{Args, ValueEnum};
use model::ByteSize;
use std::convert::Infallible;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where the data directory is unless told.
pub const DATA_DIRECTORY: &str = "./acre-data";
/// Where NBD is served on TCP unless told.
pub const NBD_ADDRESS: &str = "127.0.0.1:10809";
/// Where the operator API is served on TCP unless told.
pub const API_ADDRESS: &str = "127.0.0.1:7770";

/// The least that tables may be given.
const TABLE_MEMORY_MIN_BYTES: u64 = 1 << 20;
/// Which part of the memory tables may take unless told.
const TABLE_MEMORY_SHARE: u64 = 8;
/// What they may take at least unless told.
const TABLE_MEMORY_DEFAULT_MIN_BYTES: u64 = 64 << 20;
/// What is taken for the memory where the system does not say.
const MEMORY_UNKNOWN_BYTES: u64 = 4 << 30;

/// An address to listen on or to connect to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// A Unix socket's path.
    Unix(PathBuf),
    /// `HOST:PORT`.
    Tcp(String),
    /// `https://HOST:PORT`, for clients only.
    Tls(String),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err("unix: needs a path".into()) } else { Ok(Self::Unix(path.into())) };
        }
        let (host_port, tls) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (rest.trim_end_matches('/'), true),
            (None, Some(rest)) => (rest.trim_end_matches('/'), false),
            (None, None) => (text, false),
        };
        let sound = host_port
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok());
        match (sound, tls) {
            (true, false) => Ok(Self::Tcp(host_port.into())),
            (true, true) => Ok(Self::Tls(host_port.into())),
            (false, _) => Err(format!("{text:?} is neither unix:PATH nor HOST:PORT")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(host_port) => f.write_str(host_port),
            Self::Tls(host_port) => write!(f, "https://{host_port}"),
        }
    }
}

impl Address {
    /// The addresses a `HOST:PORT` stands for.
    ///
    /// # Errors
    /// When its host is unknown; a message.
    pub fn resolve(host_port: &str) -> Result<Vec<SocketAddr>, String> {
        let found: Vec<_> =
            host_port.to_socket_addrs().map_err(|error| format!("cannot resolve {host_port}: {error}"))?.collect();
        if found.is_empty() { Err(format!("{host_port} has no address")) } else { Ok(found) }
    }
}

/// A disk as `--disk PATH[:SIZE]` and `acre disk add` take it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskSpec {
    /// A file or a raw block device.
    pub path: PathBuf,
    /// The size of a file that is to be made, in bytes.
    pub size_bytes: Option<u64>,
}

impl FromStr for DiskSpec {
    type Err = Infallible;

    /// What follows the last colon is a size if it reads like one; a path with such a colon at its end is written with a
    /// size behind it, or without.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        if let Some((path, size)) = text.rsplit_once(':')
            && !path.is_empty()
            && size.starts_with(|first: char| first.is_ascii_digit())
            && let Ok(ByteSize(bytes)) = size.parse()
        {
            return Ok(Self { path: path.into(), size_bytes: Some(bytes) });
        }
        Ok(Self { path: text.into(), size_bytes: None })
    }
}

/// How data threads do I/O.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum IoChoice {
    /// io_uring where the kernel allows it, else the fallback.
    #[default]
    Auto,
    /// io_uring, or not at all.
    Uring,
    /// Plain system calls.
    Fallback,
}

/// Whether clients over the network may or must use TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum TlsChoice {
    /// No TLS.
    #[default]
    Off,
    /// TLS for those who ask.
    Allow,
    /// TLS only.
    Require,
}

impl IoChoice {
    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::Fallback => "fallback",
        }
    }
}

impl TlsChoice {
    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Allow => "allow",
            Self::Require => "require",
        }
    }
}

/// Where the data directory is.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
pub struct DataOption {
    /// The data directory: metadata, sockets, the API token. Made at the first start, for its owner alone.
    #[arg(long, value_name = "DIR", env = "ACRE_DATA", default_value = DATA_DIRECTORY)]
    pub data: PathBuf,
}

/// What `acre serve` is told.
#[derive(Clone, Debug, Args)]
pub struct ServeOptions {
    /// Where the data directory is.
    #[command(flatten)]
    pub data: DataOption,
    /// A disk for the default pool: a file (made with SIZE if it is not there) or a raw block device, claimed only if it
    /// is blank or ours. May be given more than once. Without any, the first start makes a file in the data directory.
    #[arg(long = "disk", value_name = "PATH[:SIZE]")]
    pub disks: Vec<DiskSpec>,
    /// Where to serve NBD: unix:PATH or HOST:PORT. May be given more than once, and replaces the default listeners:
    /// nbd.sock in the data directory and 127.0.0.1:10809.
    #[arg(long, value_name = "ADDRESS")]
    pub nbd: Vec<Address>,
    /// Where to serve the operator API: unix:PATH or HOST:PORT. May be given more than once, and replaces the default
    /// listeners: api.sock in the data directory and 127.0.0.1:7770. Over TCP it asks for the token in api-token.
    #[arg(long, value_name = "ADDRESS", id = "listen_api")]
    pub api: Vec<Address>,
    /// Serve one NBD client on standard input and output, and leave when it does. No default listeners then.
    #[arg(long)]
    pub stdio: bool,
    /// How many data threads; a volume lives on one of them. [default: one for each processor, at most 8]
    #[arg(long, env = "ACRE_THREADS", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: Option<u32>,
    /// How data threads do I/O.
    #[arg(long, value_enum, default_value_t, env = "ACRE_IO")]
    pub io: IoChoice,
    /// TLS for NBD and for the API over TCP.
    #[command(flatten)]
    pub tls: TlsOptions,
    /// Let NBD and API listeners leave loopback without TLS: whoever reaches them can read and write every volume.
    #[arg(long)]
    pub allow_plaintext_off_loopback: bool,
    /// The most NBD connections at a time; more are closed at once.
    #[arg(long, value_name = "COUNT", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,
    /// What the maps of all attached volumes may take in memory, as in 512M; at least 1M. Each data thread has an even part
    /// of it. [default: an eighth of the memory there is, at least 64M]
    #[arg(long, value_name = "SIZE", env = "ACRE_TABLE_MEMORY", value_parser = table_memory)]
    pub table_memory: Option<ByteSize>,
    /// What to log, as in `info` or `warn,acre=debug`.
    #[arg(long, value_name = "FILTER", env = "ACRE_LOG", default_value = "info")]
    pub log: String,
}

/// How TLS is set up.
#[derive(Clone, PartialEq, Eq, Debug, Default, Args)]
pub struct TlsOptions {
    /// Whether clients may or must use TLS.
    #[arg(long, value_enum, default_value_t)]
    pub tls: TlsChoice,
    /// The server's certificate and those above it, PEM.
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The server's private key, PEM.
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Ask NBD clients for a certificate signed by one of these, PEM. (Operators show the token instead.)
    #[arg(long, value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// Which client may open which volumes, TOML: a table `clients` from a DNS name of a client's certificate or its
    /// `sha256:…` fingerprint to a list of volumes (`["*"]` for all). Clients that are not in it are refused.
    #[arg(long, value_name = "FILE", requires = "tls_client_ca")]
    pub tls_clients: Option<PathBuf>,
}

impl ServeOptions {
    /// Where NBD is to be served.
    #[must_use]
    pub fn nbd_addresses(&self, data: &Path) -> Vec<Address> {
        self.or_default(&self.nbd, data.join("nbd.sock"), NBD_ADDRESS)
    }

    /// Where the operator API is to be served.
    #[must_use]
    pub fn api_addresses(&self, data: &Path) -> Vec<Address> {
        self.or_default(&self.api, data.join("api.sock"), API_ADDRESS)
    }

    fn or_default(&self, given: &[Address], socket: PathBuf, tcp: &str) -> Vec<Address> {
        match (given.is_empty(), self.stdio) {
            (false, _) => given.to_vec(),
            (true, true) => Vec::new(),
            (true, false) => vec![Address::Unix(socket), Address::Tcp(tcp.into())],
        }
    }

    /// What tables may take in memory, in bytes.
    #[must_use]
    pub fn table_bytes_max(&self) -> u64 {
        let default = || (memory_bytes() / TABLE_MEMORY_SHARE).max(TABLE_MEMORY_DEFAULT_MIN_BYTES);
        self.table_memory.map_or_else(default, |ByteSize(bytes)| bytes)
    }

    /// How many data threads to run.
    #[must_use]
    pub fn thread_count(&self) -> u32 {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.threads.unwrap_or_else(|| u32::try_from(processors.min(8)).unwrap_or(8))
    }
}

fn table_memory(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse().map_err(|error| format!("{error}"))?;
    if size.0 < TABLE_MEMORY_MIN_BYTES {
        return Err(format!("{size} is too little for tables: say {} or more", ByteSize(TABLE_MEMORY_MIN_BYTES)));
    }
    Ok(size)
}

/// The memory this process may use, in bytes: the machine's, or its control group's if that is less.
fn memory_bytes() -> u64 {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let machine = read("/proc/meminfo").and_then(|text| memory_total(&text));
    let group = read("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse().ok());
    machine.into_iter().chain(group).min().unwrap_or(MEMORY_UNKNOWN_BYTES)
}

/// The line `MemTotal` of `/proc/meminfo`, in bytes.
fn memory_total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Whether `address` may be listened on without TLS.
///
/// # Errors
/// When it leaves loopback and nobody allowed that; a message that says how to.
pub fn check_plaintext(what: &str, address: SocketAddr, tls: TlsChoice, allowed: bool) -> Result<(), String> {
    if address.ip().is_loopback() || tls == TlsChoice::Require || allowed {
        return Ok(());
    }
    Err(format!(
        "{what} on {address} would leave loopback without TLS, and anybody on the network could use it; set --tls \
         require with --tls-cert and --tls-key, listen on 127.0.0.1, or say --allow-plaintext-off-loopback"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_unix_path_or_a_host_and_a_port() {
        assert_eq!("unix:/run/a.sock".parse(), Ok(Address::Unix("/run/a.sock".into())));
        assert_eq!("127.0.0.1:7770".parse(), Ok(Address::Tcp("127.0.0.1:7770".into())));
        assert_eq!("[::1]:80".parse(), Ok(Address::Tcp("[::1]:80".into())));
        assert_eq!("https://store:7770/".parse(), Ok(Address::Tls("store:7770".into())));
        for wrong in ["", "unix:", "host", "host:", "host:99999", ":80", "/path", "http://a/b:80"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn memory_for_tables_is_as_told_or_a_share_of_what_there_is() {
        assert_eq!(memory_total("MemFree: 1 kB\nMemTotal:       16384 kB\n"), Some(16 << 20));
        assert_eq!(memory_total("MemTotal: lots\n"), None);
        assert_eq!(table_memory("16M"), Ok(ByteSize(16 << 20)));
        for wrong in ["", "1023K", "0", "-1M", "much"] {
            assert!(table_memory(wrong).is_err(), "{wrong}");
        }
        assert!(table_memory("4k").unwrap_err().contains("1 MiB"));
    }

    #[test]
    fn a_disk_is_a_path_and_perhaps_a_size() {
        let spec = |text: &str| text.parse::<DiskSpec>().unwrap();
        assert_eq!(spec("/dev/sdb"), DiskSpec { path: "/dev/sdb".into(), size_bytes: None });
        assert_eq!(spec("disk:1.5G"), DiskSpec { path: "disk".into(), size_bytes: Some(3 << 29) });
        assert_eq!(
            spec("/dev/disk/by-path/pci-0:lun"),
            DiskSpec { path: "/dev/disk/by-path/pci-0:lun".into(), size_bytes: None }
        );
    }

    #[test]
    fn a_listener_leaves_loopback_only_with_tls_or_when_told_in_so_many_words() {
        let check = |address: &str, tls, allowed| check_plaintext("NBD", address.parse().unwrap(), tls, allowed);
        assert!(check("127.0.0.1:1", TlsChoice::Off, false).is_ok());
        assert!(check("[::1]:1", TlsChoice::Off, false).is_ok());
        assert!(check("0.0.0.0:1", TlsChoice::Off, false).unwrap_err().contains("--allow-plaintext-off-loopback"));
        assert!(check("10.1.1.1:1", TlsChoice::Allow, false).is_err());
        assert!(check("[::]:1", TlsChoice::Require, false).is_ok());
        assert!(check("10.1.1.1:1", TlsChoice::Off, true).is_ok());
    }
}
