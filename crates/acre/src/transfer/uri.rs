//! NBD URIs, as libnbd and QEMU write them.

use crate::config::Address;
use api::Error;
use std::path::PathBuf;

/// Where NBD is served when a URI names no port.
const PORT: u16 = 10809;

/// An export somewhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct NbdUri {
    pub(super) address: Address,
    pub(super) export: String,
}

impl NbdUri {
    /// Reads `nbd://HOST[:PORT]/EXPORT` or `nbd+unix:///EXPORT?socket=PATH`; none when it is no URI of NBD at all.
    pub(super) fn parse(text: &str) -> Option<Result<Self, Error>> {
        let (scheme, rest) = text.split_once("://")?;
        let wrong = |why: &str| Error::invalid(format!("{text:?} {why}"));
        match scheme {
            "nbd" => Some(Self::tcp(rest).map_err(|why| wrong(&why))),
            "nbd+unix" => Some(Self::unix(rest).map_err(|why| wrong(&why))),
            "nbds" | "nbds+unix" | "nbd+vsock" | "nbds+vsock" => Some(Err(wrong(
                "asks for TLS or a vsock, which import does not speak: let nbdcopy copy it to a new volume",
            ))),
            _ => None,
        }
    }

    fn tcp(rest: &str) -> Result<Self, String> {
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let host_port = if has_port { authority.to_owned() } else { format!("{authority}:{PORT}") };
        match host_port.parse() {
            Ok(address @ Address::Tcp(_)) => Ok(Self { address, export: decode(path)? }),
            _ => Err("names no host: write nbd://HOST[:PORT]/EXPORT".into()),
        }
    }

    fn unix(rest: &str) -> Result<Self, String> {
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let socket = query.split('&').find_map(|pair| pair.strip_prefix("socket=")).filter(|path| !path.is_empty());
        let socket = socket.ok_or("names no socket: write nbd+unix:///EXPORT?socket=PATH")?;
        let export = decode(path.strip_prefix('/').unwrap_or(path))?;
        Ok(Self { address: Address::Unix(PathBuf::from(decode(socket)?)), export })
    }
}

/// Resolves `%41`.
fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err("has a % without two digits".into()) };
        bytes.push((high << 4 | low) as u8);
    }
    String::from_utf8(bytes).map_err(|_| "is not text once its % are resolved".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_read_as_others_write_them() {
        let parse = |text: &str| NbdUri::parse(text).map(|parsed| parsed.map(|uri| (uri.address, uri.export)));
        let tcp = |host_port: &str, export: &str| Some(Ok((Address::Tcp(host_port.into()), export.to_owned())));
        assert_eq!(parse("nbd://host:1/demo"), tcp("host:1", "demo"));
        assert_eq!(parse("nbd://host"), tcp("host:10809", ""));
        assert_eq!(parse("nbd://[::1]/a%20b"), tcp("[::1]:10809", "a b"));
        let unix = Some(Ok((Address::Unix("/run/n.sock".into()), "demo".to_owned())));
        assert_eq!(parse("nbd+unix:///demo?socket=/run/n.sock"), unix);
        assert_eq!(parse("nbd+unix:///demo?x=1&socket=%2Frun/n.sock"), unix);
        assert_eq!(parse("image.raw"), None);
        for wrong in ["nbds://host/x", "nbd+unix:///demo", "nbd:///x", "nbd://h/%4"] {
            assert!(matches!(parse(wrong), Some(Err(_))), "{wrong}");
        }
    }
}
