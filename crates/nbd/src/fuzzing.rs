//! The bodies of the fuzz targets: plain functions of bytes, so that a fuzzer and a smoke test run the same.
//!
//! The first bytes choose a configuration and how the rest is cut into pieces; the rest is what the peer sends.

use crate::client::{Client, ClientConfig, ClientEvent, Style};
use crate::memory::MemoryServer;
use crate::protocol::{GREETING_MAGIC, OPTION_MAGIC, handshake_flags, info, option};
use crate::server::{ExportInfo, Limits, ServerConfig, TlsPolicy};

/// A hostile client against a server.
///
/// # Panics
/// When the connection breaks a promise: that is what the fuzzer looks for.
pub fn server(data: &[u8]) {
    let Some((&[mode, cut], script)) = data.split_first_chunk::<2>() else { return };
    let limits = Limits { requests: 16, memory_bytes: 1 << 20, payload_bytes: 256 << 10, ..Limits::default() };
    let tls = [TlsPolicy::Off, TlsPolicy::Allow, TlsPolicy::Require, TlsPolicy::Off][usize::from(mode & 3)];
    let mut export = ExportInfo::new("fuzz", 1 << 30);
    export.read_only = mode & 4 != 0;
    let mut server = MemoryServer::new(ServerConfig { tls, limits }, export);
    server.hold_requests = mode & 8 != 0;
    // Random bytes hardly ever find their way through a handshake: most runs are led through it.
    if mode & 16 != 0 {
        let style = [Style::Simple, Style::Structured, Style::Extended, Style::Extended][usize::from(mode >> 5 & 3)];
        server.hear(&preamble(style));
    }
    let piece = usize::from(cut).max(1);
    for bytes in script.chunks(piece) {
        let mut left = bytes;
        while server.closed.is_none() {
            left = &left[server.hear(left)..];
            if std::mem::take(&mut server.wants_tls) {
                server.connection.tls_upgraded();
            }
            if left.is_empty() {
                break;
            }
            // Whoever is not heard listens first.
            let said = server.say(usize::MAX).len();
            let held = server.held.len();
            server.answer_held(|count| count - 1);
            if said == 0 && held == 0 && server.closed.is_none() {
                let target = server.connection.wanted_receive(&mut server.pool);
                server.connection.received(target.expect("a connection with nothing to do listens"), 0);
            }
        }
        if mode & 128 != 0 {
            server.say(1 + usize::from(cut));
        }
        let bound = limits.memory_bytes + (1 << 20) + limits.reply_header_bytes + limits.stream_bytes;
        assert!(server.connection.memory_bytes() <= bound, "memory is bounded");
    }
    server.answer_held(|_| 0);
    server.connection.peer_closed(&mut server.pool);
    server.take_events();
    assert!(server.closed.is_some(), "a connection whose client is gone closes");
}

/// What a client says to get to the transmission phase.
#[must_use]
pub fn preamble(style: Style) -> Vec<u8> {
    let mut bytes = u32::from(handshake_flags::FIXED_NEWSTYLE | handshake_flags::NO_ZEROES).to_be_bytes().to_vec();
    let mut say = |code: u32, data: &[u8]| {
        bytes.extend(OPTION_MAGIC.to_be_bytes());
        bytes.extend(code.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend_from_slice(data);
    };
    match style {
        Style::Simple => {}
        Style::Structured => say(option::STRUCTURED_REPLY, &[]),
        Style::Extended => say(option::EXTENDED_HEADERS, &[]),
    }
    if style != Style::Simple {
        let mut data = 0_u32.to_be_bytes().to_vec();
        data.extend(1_u32.to_be_bytes());
        data.extend(15_u32.to_be_bytes());
        data.extend(b"base:allocation");
        say(option::SET_META_CONTEXT, &data);
    }
    let mut data = 0_u32.to_be_bytes().to_vec();
    data.extend(1_u16.to_be_bytes());
    data.extend(info::BLOCK_SIZE.to_be_bytes());
    say(option::GO, &data);
    bytes
}

/// A hostile server against a client.
///
/// # Panics
/// When the client breaks a promise: that is what the fuzzer looks for.
pub fn client(data: &[u8]) {
    let Some((&[mode, cut], script)) = data.split_first_chunk::<2>() else { return };
    let style = [Style::Simple, Style::Structured, Style::Extended, Style::Extended][usize::from(mode & 3)];
    let config = ClientConfig {
        style,
        tls: mode & 4 != 0,
        by_export_name: mode & 8 != 0,
        no_zeroes: mode & 16 != 0,
        fixed_newstyle: mode & 32 == 0,
        ..ClientConfig::new("fuzz")
    };
    let mut client = Client::new(config.clone());
    if mode & 64 != 0 {
        // Led through the handshake by an honest server, and left to the other one afterwards.
        let policy = if config.tls { TlsPolicy::Allow } else { TlsPolicy::Off };
        let server_config = ServerConfig { tls: policy, limits: Limits::default() };
        let mut server = MemoryServer::new(server_config, ExportInfo::new("fuzz", 1 << 20));
        converse(&mut client, &mut server);
        make_requests(&mut client, style);
    } else {
        client.received(&GREETING_MAGIC.to_be_bytes());
        client.received(&OPTION_MAGIC.to_be_bytes());
    }
    for bytes in script.chunks(usize::from(cut).max(1)) {
        client.received(bytes);
        while let Some(event) = client.next_event() {
            match event {
                ClientEvent::UpgradeTls => client.tls_upgraded(),
                ClientEvent::Opened(_) => {
                    client.read(0, 4096, 0);
                    client.block_status(0, 4096, 0);
                }
                ClientEvent::Reply(_) | ClientEvent::Failed(_) => {}
            }
        }
        let _unheard = client.take_output();
    }
}

/// Lets the two talk until both have nothing more to say; gives the client's events.
pub fn converse(client: &mut Client, server: &mut MemoryServer) -> Vec<ClientEvent> {
    let mut events = Vec::new();
    let mut unheard = Vec::new();
    loop {
        let said = server.say(usize::MAX);
        client.received(&said);
        let mut quiet = said.is_empty();
        while let Some(event) = client.next_event() {
            if event == ClientEvent::UpgradeTls {
                client.tls_upgraded();
            }
            events.push(event);
            quiet = false;
        }
        unheard.extend(client.take_output());
        if std::mem::take(&mut server.wants_tls) {
            server.connection.tls_upgraded();
            quiet = false;
        }
        let heard = server.hear(&unheard);
        unheard.drain(..heard);
        if quiet && heard == 0 {
            return events;
        }
    }
}

/// Inputs of [`server`] that make sense, to be spoilt: handshakes and requests in every form.
#[must_use]
pub fn server_seeds() -> Vec<Vec<u8>> {
    [Style::Simple, Style::Structured, Style::Extended].map(|style| scripted(style).0).into()
}

/// Inputs of [`client`] that make sense, to be spoilt: what a server says to those requests.
#[must_use]
pub fn client_seeds() -> Vec<Vec<u8>> {
    [Style::Simple, Style::Structured, Style::Extended].map(|style| scripted(style).1).into()
}

/// One request of each kind, and one that is refused.
fn make_requests(client: &mut Client, style: Style) {
    client.write(512, &[7; 1024], 0);
    client.read(0, 4096, 0);
    client.flush();
    client.trim(0, 4096, 0);
    client.write_zeroes(4096, 8192, 0);
    client.cache(0, 4096);
    client.block_status(0, 65_536, 0);
    if style == Style::Extended {
        client.block_status_of(0, 65_536, 0, &[1]);
    }
    client.read(1 << 30, 512, 0);
}

/// One conversation, as the input of [`server`] and as that of [`client`].
fn scripted(style: Style) -> (Vec<u8>, Vec<u8>) {
    let mut server = MemoryServer::new(ServerConfig::default(), ExportInfo::new("fuzz", 1 << 20));
    let mut client = Client::new(ClientConfig { style, ..ClientConfig::new("fuzz") });
    converse(&mut client, &mut server);
    make_requests(&mut client, style);
    let requests = client.take_output();
    server.hear(&requests);
    let replies = server.say(usize::MAX);
    let mode = match style {
        Style::Simple => 0,
        Style::Structured => 1,
        Style::Extended => 2,
    };
    client.disconnect();
    let goodbye = client.take_output();
    let heard = [&[0, 64], &preamble(style)[..], &requests, &goodbye].concat();
    (heard, [&[mode | 64, 64], &replies[..]].concat())
}
