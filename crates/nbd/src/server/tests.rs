//! What a connection promises, told in sentences.

mod handshake;
mod limits;
mod properties;
mod requests;

use super::{ExportInfo, Limits, ServerConfig, TlsPolicy};
use crate::client::{Client, ClientConfig, ClientEvent, Opened, Outcome, Style};
use crate::fuzzing::converse;
use crate::memory::MemoryServer;
use crate::protocol::{OPTION_MAGIC, OPTION_REPLY_MAGIC};

fn server() -> MemoryServer {
    server_with(TlsPolicy::Off, Limits::default())
}

fn server_with(tls: TlsPolicy, limits: Limits) -> MemoryServer {
    let mut export = ExportInfo::new("demo", 1 << 20);
    export.description = "a volume".into();
    MemoryServer::new(ServerConfig { tls, limits }, export)
}

/// Bytes of one option.
fn option_bytes(code: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(code.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// The data of INFO and GO.
fn export_data(name: &str, requests: &[u16]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(name.as_bytes());
    data.extend((requests.len() as u16).to_be_bytes());
    data.extend(requests.iter().flat_map(|kind| kind.to_be_bytes()));
    data
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
fn context_data(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(name.as_bytes());
    data.extend((queries.len() as u32).to_be_bytes());
    for query in queries {
        data.extend((query.len() as u32).to_be_bytes());
        data.extend_from_slice(query.as_bytes());
    }
    data
}

/// Takes replies to options apart: option, type, data.
fn option_replies(mut bytes: &[u8]) -> Vec<(u32, u32, Vec<u8>)> {
    let mut replies = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(bytes[..8], OPTION_REPLY_MAGIC.to_be_bytes());
        let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        let length = number(16) as usize;
        replies.push((number(8), number(12), bytes[20..20 + length].to_vec()));
        bytes = &bytes[20 + length..];
    }
    replies
}

/// A server that has been greeted back with these client flags; its greeting is taken away.
fn greeted(mut server: MemoryServer, flags: u32) -> MemoryServer {
    server.say(usize::MAX);
    server.hear(&flags.to_be_bytes());
    server
}

/// What the server answers to an option.
fn ask(server: &mut MemoryServer, code: u32, data: &[u8]) -> Vec<(u32, u32, Vec<u8>)> {
    server.hear(&option_bytes(code, data));
    option_replies(&server.say(usize::MAX))
}

/// A client and a server in the transmission phase.
fn opened(server: MemoryServer, config: ClientConfig) -> (Client, MemoryServer, Opened) {
    let (mut client, mut server) = (Client::new(config), server);
    let events = converse(&mut client, &mut server);
    let Some(ClientEvent::Opened(opened)) = events.last() else { panic!("opened, not {events:?}") };
    (client, server, opened.clone())
}

fn opened_in(style: Style) -> (Client, MemoryServer) {
    let (client, server, _) = opened(server(), ClientConfig { style, ..ClientConfig::new("demo") });
    (client, server)
}

/// Sends what the client has to say, and gives the outcomes of its requests in the order they came.
fn outcomes(client: &mut Client, server: &mut MemoryServer) -> Vec<Outcome> {
    let outcome = |event| match event {
        ClientEvent::Reply(reply) => reply.outcome,
        other => panic!("a reply, not {other:?}"),
    };
    converse(client, server).into_iter().map(outcome).collect()
}

fn outcome(client: &mut Client, server: &mut MemoryServer) -> Outcome {
    let mut all = outcomes(client, server);
    assert_eq!(all.len(), 1, "one reply");
    all.remove(0)
}
