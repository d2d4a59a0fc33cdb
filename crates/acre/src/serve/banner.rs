//! What a server says when it is up: where it serves what, and the lines to paste.

use super::plane::Facts;
use std::io::Write;
use std::path::Path;

/// Prints it on standard output.
pub(super) fn print(data: &Path, facts: &Facts, volumes: &[String]) {
    let text = render(data, facts, volumes);
    // A server whose standard output is closed serves all the same.
    std::io::stdout().write_all(text.as_bytes()).ok();
}

fn render(data: &Path, facts: &Facts, volumes: &[String]) -> String {
    let mut text = format!("Acreage {} serves {}\n", env!("CARGO_PKG_VERSION"), data.display());
    for listener in &facts.listeners {
        let tls = if listener.tls == "off" { String::new() } else { format!("  (TLS: {})", listener.tls) };
        text += &format!("  {:4} {}{tls}\n", listener.protocol.to_uppercase(), listener.address);
    }
    let api = facts.listeners.iter().find(|listener| listener.protocol == "api");
    let command = api.map_or_else(|| "acre".into(), |api| format!("acre --api {}", quoted(&api.address)));
    let nbd = facts.listeners.iter().find(|listener| listener.protocol == "nbd");
    if let (Some(nbd), Some(volume)) = (nbd, volumes.iter().find(|name| *name == "demo").or(volumes.first())) {
        let uri = quoted(&uri(&nbd.address, nbd.tls == "require", volume));
        text += &format!(
            "\nLook at the volume {volume}\n  nbdinfo {uri}\nCopy an image into it\n  qemu-img convert -n -O raw IMAGE {uri}\n\
             Mount it\n  mkdir -p /tmp/{volume} && nbdfuse /tmp/{volume} {uri} &\n  mkfs.ext4 /tmp/{volume}/nbd && \
             mount -o loop,discard /tmp/{volume}/nbd /mnt\n"
        );
    }
    text + &format!("\nSee how things are\n  {command} status\n")
}

/// An export's address as NBD clients take it.
fn uri(address: &str, tls: bool, volume: &str) -> String {
    let scheme = if tls { "nbds" } else { "nbd" };
    match address.strip_prefix("unix:") {
        Some(path) => format!("{scheme}+unix:///{volume}?socket={}", path.replace('%', "%25").replace('&', "%26")),
        None => format!("{scheme}://{address}/{volume}"),
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "./:_-+,@%=".contains(character);
    if word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_to_paste_name_the_first_listener_and_survive_a_shell() {
        let listener = |protocol: &str, address: &str| api::Listener {
            protocol: protocol.into(),
            address: address.into(),
            tls: "off".into(),
        };
        let facts = Facts {
            started: std::time::Instant::now(),
            threads: 1,
            table_bytes_max: 64 << 20,
            listeners: vec![
                listener("nbd", "unix:/data/it's/nbd.sock"),
                listener("nbd", "127.0.0.1:10809"),
                listener("api", "unix:/data/api.sock"),
            ],
        };
        let text = render(Path::new("/data"), &facts, &["demo".into()]);
        assert!(text.contains("  NBD  127.0.0.1:10809\n"), "{text}");
        assert!(text.contains("nbdinfo 'nbd+unix:///demo?socket=/data/it'\\''s/nbd.sock'\n"), "{text}");
        assert!(text.contains("acre --api unix:/data/api.sock status\n"), "{text}");
        assert_eq!(uri("127.0.0.1:1", true, "a"), "nbds://127.0.0.1:1/a");
    }
}
