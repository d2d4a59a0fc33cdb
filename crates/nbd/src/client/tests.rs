//! The client against servers that do as they should, and against those that do not.

use super::*;
use crate::fuzzing::converse;
use crate::memory::MemoryServer;
use crate::protocol::{
    EXTENDED_REPLY_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, reply_flags, reply_type, transmission_flags,
};
use crate::server::{ExportInfo, Limits, ServerConfig, TlsPolicy};

fn server(tls: TlsPolicy) -> MemoryServer {
    MemoryServer::new(ServerConfig { tls, limits: Limits::default() }, ExportInfo::new("demo", 1 << 20))
}

fn open(config: ClientConfig, tls: TlsPolicy) -> (Client, Vec<ClientEvent>) {
    let mut client = Client::new(config);
    let events = converse(&mut client, &mut server(tls));
    (client, events)
}

/// A client in the transmission phase that has just asked to read `length` bytes at 4096, and its cookie.
fn reading(style: Style, length: u32) -> (Client, u64) {
    let (mut client, _) = open(ClientConfig { style, ..ClientConfig::new("demo") }, TlsPolicy::Off);
    let cookie = client.read(4096, length, 0);
    (client, cookie)
}

fn chunk(style: Style, flags: u16, kind: u16, cookie: u64, payload: &[u8]) -> Vec<u8> {
    let extended = style == Style::Extended;
    let magic = if extended { EXTENDED_REPLY_MAGIC } else { STRUCTURED_REPLY_MAGIC };
    let mut bytes = magic.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    if extended {
        bytes.extend(4096_u64.to_be_bytes());
        bytes.extend((payload.len() as u64).to_be_bytes());
    } else {
        bytes.extend((payload.len() as u32).to_be_bytes());
    }
    bytes.extend_from_slice(payload);
    bytes
}

fn data_payload(offset: u64, length: usize) -> Vec<u8> {
    [&offset.to_be_bytes()[..], &vec![7; length]].concat()
}

fn broken(client: &mut Client, bytes: &[u8]) -> bool {
    client.received(bytes);
    matches!(client.next_event(), Some(ClientEvent::Failed(ClientError::Protocol(_)))) && client.next_event().is_none()
}

#[test]
fn every_way_to_open_an_export_opens_it() {
    for style in [Style::Simple, Style::Structured, Style::Extended] {
        for bits in 0..16 {
            let config = ClientConfig {
                style,
                tls: bits & 9 == 1,
                by_export_name: bits & 2 != 0,
                no_zeroes: bits & 4 != 0,
                fixed_newstyle: bits & 8 == 0,
                ..ClientConfig::new("demo")
            };
            let (client, events) = open(config.clone(), TlsPolicy::Allow);
            let Some(ClientEvent::Opened(opened)) = events.last() else { panic!("{config:?} gave {events:?}") };
            assert_eq!(opened.size_bytes, 1 << 20);
            assert_ne!(opened.flags & transmission_flags::HAS_FLAGS, 0);
            assert_eq!(opened.style, if config.fixed_newstyle { style } else { Style::Simple });
            assert_eq!(client.opened(), Some(opened));
        }
    }
}

#[test]
fn a_refusal_is_told_with_its_reason() {
    let (_, events) = open(ClientConfig::new("other"), TlsPolicy::Off);
    let [ClientEvent::Failed(ClientError::Refused { message, .. })] = &events[..] else { panic!("{events:?}") };
    assert_eq!(message, "there is no export of that name");
    let (_, events) = open(ClientConfig::new("demo"), TlsPolicy::Require);
    assert!(matches!(events[..], [ClientEvent::Failed(ClientError::Refused { .. })]));
    let (_, events) = open(ClientConfig { tls: true, ..ClientConfig::new("demo") }, TlsPolicy::Off);
    assert!(matches!(events[..], [ClientEvent::Failed(ClientError::Refused { .. })]), "no TLS, no session");
}

#[test]
fn chunks_in_any_order_make_a_whole_read() {
    for style in [Style::Structured, Style::Extended] {
        let (mut client, cookie) = reading(style, 2048);
        let hole = [&5632_u64.to_be_bytes()[..], &512_u32.to_be_bytes()].concat();
        client.received(&chunk(style, 0, reply_type::OFFSET_DATA, cookie, &data_payload(5120, 512)));
        client.received(&chunk(style, 0, reply_type::OFFSET_HOLE, cookie, &hole));
        client.received(&chunk(style, 0, reply_type::OFFSET_DATA, cookie, &data_payload(4096, 1024)));
        assert_eq!(client.next_event(), None);
        client.received(&chunk(style, reply_flags::DONE, reply_type::NONE, cookie, &[]));
        let Some(ClientEvent::Reply(reply)) = client.next_event() else { panic!("a reply") };
        let expected = [[7; 512], [7; 512], [7; 512], [0; 512]].concat();
        let holes = vec![ByteRange::new(5632, 512)];
        assert_eq!(reply, Reply { cookie, outcome: Outcome::Data { bytes: expected, holes } });
    }
}

#[test]
fn an_error_among_chunks_fails_the_request() {
    let style = Style::Structured;
    let (mut client, cookie) = reading(style, 2048);
    client.received(&chunk(style, 0, reply_type::OFFSET_DATA, cookie, &data_payload(4096, 512)));
    let error = [&5_u32.to_be_bytes()[..], &3_u16.to_be_bytes(), b"bad", &4608_u64.to_be_bytes()].concat();
    client.received(&chunk(style, 0, reply_type::ERROR_OFFSET, cookie, &error));
    client.received(&chunk(style, reply_flags::DONE, reply_type::NONE, cookie, &[]));
    let outcome = Outcome::Failed { error: ErrorCode::Io, message: "bad".into() };
    assert_eq!(client.next_event(), Some(ClientEvent::Reply(Reply { cookie, outcome })));
}

#[test]
fn lies_in_replies_are_seen_through() {
    let done = reply_flags::DONE;
    for style in [Style::Structured, Style::Extended] {
        let lie = |flags, kind, payload: &[u8]| {
            let (mut client, cookie) = reading(style, 2048);
            assert!(broken(&mut client, &chunk(style, flags, kind, cookie, payload)), "{kind} {payload:?}");
        };
        lie(done, reply_type::NONE, &[]);
        lie(0, reply_type::NONE, &[]);
        lie(done, reply_type::OFFSET_DATA, &data_payload(4096, 2047));
        lie(0, reply_type::OFFSET_DATA, &data_payload(4096, 0));
        lie(0, reply_type::OFFSET_DATA, &data_payload(4095, 10));
        lie(0, reply_type::OFFSET_DATA, &data_payload(6100, 100));
        lie(0, reply_type::OFFSET_DATA, &data_payload(u64::MAX, 100));
        lie(0, reply_type::OFFSET_DATA, &[1, 2]);
        lie(0, reply_type::OFFSET_HOLE, &[&4096_u64.to_be_bytes()[..], &u32::MAX.to_be_bytes()].concat());
        lie(0, reply_type::OFFSET_HOLE, &[&4096_u64.to_be_bytes()[..], &0_u32.to_be_bytes()].concat());
        lie(0, reply_type::BLOCK_STATUS, &[0; 12]);
        lie(0, 77, &[]);
        lie(done, reply_type::ERROR, &[0, 0, 0, 0, 0, 0]);
        lie(done, reply_type::ERROR, &[0, 0, 0, 5, 0, 9]);
        let (mut client, cookie) = reading(style, 2048);
        let twice = chunk(style, 0, reply_type::OFFSET_DATA, cookie, &data_payload(4096, 512));
        assert!(broken(&mut client, &twice.repeat(2)), "the same bytes twice");
        let (mut client, cookie) = reading(style, 2048);
        assert!(broken(&mut client, &chunk(style, done, reply_type::NONE, cookie + 1, &[])), "of no request");
        let (mut client, cookie) = reading(style, 2048);
        let mut long = chunk(style, 0, reply_type::OFFSET_DATA, cookie, &[]);
        let at = if style == Style::Extended { 24 } else { 16 };
        long[at..at + 4].fill(0xff);
        assert!(broken(&mut client, &long), "four GiB and more");
    }
}

#[test]
fn replies_of_a_form_not_agreed_on_are_refused() {
    for (style, magic) in [
        (Style::Simple, STRUCTURED_REPLY_MAGIC),
        (Style::Simple, EXTENDED_REPLY_MAGIC),
        (Style::Structured, EXTENDED_REPLY_MAGIC),
        (Style::Structured, SIMPLE_REPLY_MAGIC),
        (Style::Extended, SIMPLE_REPLY_MAGIC),
        (Style::Extended, STRUCTURED_REPLY_MAGIC),
        (Style::Extended, 0),
    ] {
        let (mut client, cookie) = reading(style, 512);
        let bytes = [&magic.to_be_bytes()[..], &[0; 4], &cookie.to_be_bytes(), &[0; 600]].concat();
        assert!(broken(&mut client, &bytes), "{magic:#x} to {style:?}");
    }
}
