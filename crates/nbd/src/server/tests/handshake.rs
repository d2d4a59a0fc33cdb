//! The handshake: every option, in and out of its place.

use super::*;
use crate::protocol::{handshake_flags, info, option, option_reply as reply, transmission_flags as flag};
use crate::server::{CloseReason, Event, ExportError, Violation};

const FIXED: u32 = handshake_flags::FIXED_NEWSTYLE as u32;
const NO_ZEROES: u32 = handshake_flags::NO_ZEROES as u32;

fn types(replies: &[(u32, u32, Vec<u8>)]) -> Vec<u32> {
    replies.iter().map(|(_, kind, _)| *kind).collect()
}

fn violation(server: &MemoryServer) -> Option<Violation> {
    match server.closed {
        Some(CloseReason::Violation(violation)) => Some(violation),
        _ => None,
    }
}

#[test]
fn the_server_speaks_first_and_offers_fixed_newstyle() {
    assert_eq!(server().say(usize::MAX), b"NBDMAGICIHAVEOPT\x00\x03");
}

#[test]
fn unknown_client_flags_close_the_connection() {
    let server = greeted(server(), FIXED | 4);
    assert_eq!(violation(&server), Some(Violation::ClientFlags));
}

#[test]
fn export_name_is_answered_with_size_flags_and_zeroes_unless_agreed_otherwise() {
    for (flags, length) in [(FIXED, 134), (FIXED | NO_ZEROES, 10), (0, 134), (NO_ZEROES, 10)] {
        let mut server = greeted(server(), flags);
        server.hear(&option_bytes(option::EXPORT_NAME, b"demo"));
        let said = server.say(usize::MAX);
        assert_eq!(said.len(), length);
        assert_eq!(said[..8], (1_u64 << 20).to_be_bytes());
        assert!(said[10..].iter().all(|byte| *byte == 0));
        assert!(server.connection.is_in_transmission());
    }
}

#[test]
fn an_unknown_name_in_export_name_closes_for_there_is_no_other_answer() {
    let mut server = greeted(server(), FIXED);
    server.hear(&option_bytes(option::EXPORT_NAME, b"other"));
    server.take_events();
    assert_eq!(server.closed, Some(CloseReason::ExportRefused(ExportError::Unknown)));
    assert!(server.say(usize::MAX).is_empty());
}

#[test]
fn without_fixed_newstyle_there_is_no_option_but_export_name() {
    let mut server = greeted(server(), NO_ZEROES);
    server.hear(&option_bytes(option::LIST, &[]));
    assert_eq!(violation(&server), Some(Violation::NotFixedNewstyle));
}

#[test]
fn unknown_options_are_refused_and_the_session_goes_on() {
    let mut server = greeted(server(), FIXED);
    for code in [0, 4, 12, 99, u32::MAX] {
        assert_eq!(types(&ask(&mut server, code, b"whatever")), [reply::ERR_UNSUP]);
    }
    assert_eq!(types(&ask(&mut server, option::GO, &export_data("demo", &[]))), [reply::INFO, reply::ACK]);
    assert!(server.connection.is_in_transmission());
}

#[test]
fn options_that_take_no_data_refuse_some() {
    let mut server = greeted(server_with(TlsPolicy::Allow, Limits::default()), FIXED);
    for code in [option::LIST, option::STARTTLS, option::STRUCTURED_REPLY, option::EXTENDED_HEADERS] {
        assert_eq!(types(&ask(&mut server, code, b"x")), [reply::ERR_INVALID]);
    }
    assert_eq!(types(&ask(&mut server, option::LIST, &[])), [reply::SERVER, reply::ACK]);
}

#[test]
fn a_listing_names_and_describes_exports() {
    let mut server = greeted(server(), FIXED);
    let replies = ask(&mut server, option::LIST, &[]);
    assert_eq!(replies[0], (option::LIST, reply::SERVER, b"\0\0\0\x04demoa volume".to_vec()));
    assert_eq!(replies[1], (option::LIST, reply::ACK, vec![]));
}

#[test]
fn abort_is_acknowledged_before_the_connection_closes() {
    let mut server = greeted(server(), FIXED);
    server.hear(&option_bytes(option::ABORT, b"ignored"));
    assert_eq!(server.closed, None, "the acknowledgement is not out yet");
    assert_eq!(types(&option_replies(&server.say(usize::MAX))), [reply::ACK]);
    assert_eq!(server.closed, Some(CloseReason::Aborted));
}

#[test]
fn info_tells_what_go_will_and_opens_nothing() {
    let mut server = greeted(server(), FIXED);
    let data = export_data("", &[info::NAME, info::DESCRIPTION, info::BLOCK_SIZE, 77]);
    let told = ask(&mut server, option::INFO, &data);
    assert!(!server.connection.is_in_transmission());
    let bodies: Vec<_> = told.iter().map(|(_, _, data)| data.as_slice()).collect();
    assert_eq!(bodies[0].len(), 12);
    assert_eq!(bodies[1], b"\x00\x01demo");
    assert_eq!(bodies[2], b"\x00\x02a volume");
    assert_eq!(bodies[3], [0, 3, 0, 0, 2, 0, 0, 0, 0x10, 0, 2, 0, 0, 0]);
    let opened = ask(&mut server, option::GO, &data);
    let body = |replies: &[(u32, u32, Vec<u8>)]| {
        replies.iter().map(|(_, kind, data)| (*kind, data.clone())).collect::<Vec<_>>()
    };
    assert_eq!(body(&told), body(&opened));
    assert!(server.connection.is_in_transmission());
    assert_eq!(server.connection.deadline(), None, "the handshake's deadline is over with it");
}

#[test]
fn malformed_questions_about_exports_are_refused() {
    let mut server = greeted(server(), FIXED);
    let good = export_data("demo", &[info::NAME]);
    for length in 0..good.len() {
        assert_eq!(types(&ask(&mut server, option::INFO, &good[..length])), [reply::ERR_INVALID], "{length} bytes");
    }
    let long = [&good[..], b"x"].concat();
    assert_eq!(types(&ask(&mut server, option::GO, &long)), [reply::ERR_INVALID]);
    assert_eq!(types(&ask(&mut server, option::GO, &export_data("a\0b", &[]))), [reply::ERR_INVALID]);
    assert_eq!(types(&ask(&mut server, option::GO, b"\0\0\0\x01\xff\0\0")), [reply::ERR_INVALID]);
    assert_eq!(types(&ask(&mut server, option::GO, b"\xff\xff\xff\xffdemo\0\0")), [reply::ERR_INVALID]);
    let name = "n".repeat(4097);
    assert_eq!(types(&ask(&mut server, option::GO, &export_data(&name, &[]))), [reply::ERR_TOO_BIG]);
    assert_eq!(types(&ask(&mut server, option::GO, &export_data(&name[1..], &[]))), [reply::ERR_UNKNOWN]);
}

#[test]
fn each_reason_to_refuse_an_export_has_its_reply() {
    for (error, kind) in [
        (ExportError::Unknown, reply::ERR_UNKNOWN),
        (ExportError::Denied, reply::ERR_POLICY),
        (ExportError::TlsRequired, reply::ERR_TLS_REQD),
        (ExportError::Unavailable, reply::ERR_POLICY),
        (ExportError::ShuttingDown, reply::ERR_SHUTDOWN),
    ] {
        let mut server = greeted(server(), FIXED);
        server.connection.received_bytes(&option_bytes(option::GO, &export_data("x", &[])), &mut server.pool);
        let event = server.connection.next_event(&mut server.pool);
        assert!(matches!(event, Some(Event::OpenExport { name }) if name == "x"));
        assert!(server.connection.next_event(&mut server.pool).is_none(), "the answer may take its time");
        server.connection.export_opened(Err(error));
        assert_eq!(types(&option_replies(&server.say(usize::MAX))), [kind]);
        assert_eq!(types(&ask(&mut server, option::GO, &export_data("demo", &[]))), [reply::INFO, reply::ACK]);
    }
}

#[test]
fn the_transmission_flags_tell_what_was_agreed_and_what_the_export_can() {
    let always = flag::HAS_FLAGS | flag::SEND_FLUSH | flag::SEND_FUA | flag::SEND_CACHE | flag::CAN_MULTI_CONN;
    let writing = flag::SEND_TRIM | flag::SEND_WRITE_ZEROES | flag::SEND_FAST_ZERO;
    let told = |style, contexts: &[&str], read_only| {
        let contexts = contexts.iter().map(|name| (*name).to_owned()).collect();
        let mut server = server();
        server.export.read_only = read_only;
        opened(server, ClientConfig { style, contexts, ..ClientConfig::new("demo") }).2.flags
    };
    assert_eq!(told(Style::Simple, &[], false), always | writing);
    assert_eq!(told(Style::Structured, &[], false), always | writing | flag::SEND_DF);
    assert_eq!(told(Style::Extended, &[], false), always | writing | flag::SEND_DF);
    assert_eq!(
        told(Style::Extended, &["base:allocation"], false),
        always | writing | flag::SEND_DF | flag::BLOCK_STATUS_PAYLOAD
    );
    assert_eq!(told(Style::Structured, &[], true), always | flag::SEND_DF | flag::READ_ONLY);
}

#[test]
fn extended_headers_rule_out_what_is_older() {
    let mut server = greeted(server(), FIXED);
    assert_eq!(types(&ask(&mut server, option::STRUCTURED_REPLY, &[])), [reply::ACK]);
    assert_eq!(types(&ask(&mut server, option::EXTENDED_HEADERS, &[])), [reply::ACK]);
    assert_eq!(types(&ask(&mut server, option::STRUCTURED_REPLY, &[])), [reply::ERR_EXT_HEADER_REQD]);
    server.hear(&option_bytes(option::EXPORT_NAME, b"demo"));
    assert_eq!(violation(&server), Some(Violation::ExportNameAfterExtendedHeaders));
}

#[test]
fn contexts_are_listed_by_wildcard_and_chosen_by_name() {
    let mut server = greeted(server(), FIXED);
    let names = |replies: &[(u32, u32, Vec<u8>)]| -> Vec<String> {
        let contexts = replies.iter().filter(|(_, kind, _)| *kind == reply::META_CONTEXT);
        contexts.map(|(_, _, data)| String::from_utf8(data[4..].to_vec()).unwrap()).collect()
    };
    let both = ["base:allocation", "x-memory:sectors"];
    let mut list =
        |queries: &[&str]| names(&ask(&mut server, option::LIST_META_CONTEXT, &context_data("demo", queries)));
    assert_eq!(list(&[]), both);
    assert_eq!(list(&["base:"]), both[..1]);
    assert_eq!(list(&["base:other", "x-other:", "nonsense"]), both[..0]);
    assert_eq!(list(&["x-memory:sectors", "base:allocation", "base:"]), both);
    assert_eq!(
        types(&ask(&mut server, option::SET_META_CONTEXT, &context_data("demo", &both))),
        [reply::ERR_INVALID],
        "before structured replies there is nothing to choose"
    );
    ask(&mut server, option::STRUCTURED_REPLY, &[]);
    let mut set = |queries: &[&str]| names(&ask(&mut server, option::SET_META_CONTEXT, &context_data("demo", queries)));
    assert_eq!(set(&["base:"]), both[..0]);
    assert_eq!(set(&["base:allocation", "base:allocation"]), both[..1]);
    assert_eq!(set(&both), both);
    assert_eq!(server.connection.contexts(), both);
    assert_eq!(types(&ask(&mut server, option::SET_META_CONTEXT, &context_data("other", &both))), [reply::ERR_UNKNOWN]);
    assert!(server.connection.contexts().is_empty(), "a failed choice replaces the one before");
}

#[test]
fn contexts_chosen_for_one_export_do_not_hold_for_another_name() {
    let mut server = greeted(server(), FIXED);
    ask(&mut server, option::STRUCTURED_REPLY, &[]);
    ask(&mut server, option::SET_META_CONTEXT, &context_data("demo", &["base:allocation"]));
    ask(&mut server, option::GO, &export_data("", &[]));
    assert!(server.connection.is_in_transmission() && server.connection.contexts().is_empty());
}

#[test]
fn malformed_questions_about_contexts_are_refused() {
    let mut server = greeted(server(), FIXED);
    let good = context_data("demo", &["base:allocation"]);
    for length in 0..good.len() {
        assert_eq!(types(&ask(&mut server, option::LIST_META_CONTEXT, &good[..length])), [reply::ERR_INVALID]);
    }
    let many = context_data("demo", &["base:"; 65]);
    assert_eq!(types(&ask(&mut server, option::LIST_META_CONTEXT, &many)), [reply::ERR_TOO_BIG]);
    let claimed = [&context_data("demo", &[])[..8], &u32::MAX.to_be_bytes()].concat();
    assert_eq!(types(&ask(&mut server, option::LIST_META_CONTEXT, &claimed)), [reply::ERR_TOO_BIG]);
}

#[test]
fn where_tls_is_required_nothing_else_comes_first() {
    let mut server = greeted(server_with(TlsPolicy::Require, Limits::default()), FIXED);
    for (code, data) in [
        (option::LIST, vec![]),
        (option::INFO, export_data("demo", &[])),
        (option::GO, export_data("demo", &[])),
        (option::STRUCTURED_REPLY, vec![]),
        (option::EXTENDED_HEADERS, vec![]),
        (option::SET_META_CONTEXT, context_data("demo", &[])),
        (99, vec![]),
    ] {
        assert_eq!(types(&ask(&mut server, code, &data)), [reply::ERR_TLS_REQD], "option {code}");
    }
    assert!(server.journal.is_empty(), "nobody is asked about exports before TLS: {:?}", server.journal);
    server.hear(&option_bytes(option::EXPORT_NAME, b"demo"));
    assert_eq!(violation(&server), Some(Violation::TlsRequired));
}

#[test]
fn tls_is_refused_where_there_is_none_and_where_it_is_already() {
    let mut plain = greeted(server(), FIXED);
    assert_eq!(types(&ask(&mut plain, option::STARTTLS, &[])), [reply::ERR_POLICY]);
    let mut server = greeted(server_with(TlsPolicy::Require, Limits::default()), FIXED);
    assert_eq!(types(&ask(&mut server, option::STARTTLS, &[])), [reply::ACK]);
    assert!(server.wants_tls);
    server.connection.tls_upgraded();
    assert_eq!(types(&ask(&mut server, option::STARTTLS, &[])), [reply::ERR_INVALID]);
    assert_eq!(types(&ask(&mut server, option::LIST, &[])), [reply::SERVER, reply::ACK]);
}

#[test]
fn the_upgrade_waits_until_its_acknowledgement_is_sent() {
    let mut server = greeted(server_with(TlsPolicy::Allow, Limits::default()), FIXED);
    server.hear(&option_bytes(option::STARTTLS, &[]));
    server.say(19);
    assert!(!server.wants_tls && server.connection.wanted_receive(&mut server.pool).is_none());
    server.say(1);
    assert!(server.wants_tls && server.connection.wanted_receive(&mut server.pool).is_none());
}

#[test]
fn everything_agreed_before_tls_is_forgotten() {
    let mut server = greeted(server_with(TlsPolicy::Allow, Limits::default()), FIXED);
    ask(&mut server, option::EXTENDED_HEADERS, &[]);
    ask(&mut server, option::SET_META_CONTEXT, &context_data("demo", &["base:allocation"]));
    ask(&mut server, option::STARTTLS, &[]);
    server.connection.tls_upgraded();
    assert!(server.connection.is_secured() && server.connection.contexts().is_empty());
    let replies = ask(&mut server, option::GO, &export_data("demo", &[]));
    let flags = u16::from_be_bytes(replies[0].2[10..12].try_into().unwrap());
    assert_eq!(flags & (flag::SEND_DF | flag::BLOCK_STATUS_PAYLOAD), 0, "simple replies again");
}

#[test]
fn plaintext_put_in_after_starttls_closes_the_connection() {
    let injected = option_bytes(option::LIST, &[]);
    let together = [option_bytes(option::STARTTLS, &[]), injected.clone()].concat();
    for split in 0..=together.len() {
        let mut server = greeted(server_with(TlsPolicy::Allow, Limits::default()), FIXED);
        server.hear(&together[..split]);
        server.hear(&together[split..]);
        server.say(usize::MAX);
        let after_event = split == together.len() - injected.len();
        assert_eq!(violation(&server), Some(Violation::PlaintextAfterStarttls), "split at {split}");
        assert_eq!(server.journal.len(), 1, "the close and nothing else; {after_event}");
    }
}

#[test]
fn a_shutdown_ends_handshakes_at_once_and_answers_late_questions_kindly() {
    let mut server = greeted(server(), FIXED);
    server.connection.begin_shutdown();
    server.take_events();
    assert_eq!(server.closed, Some(CloseReason::ShutDown));

    let mut server = greeted(super::server(), FIXED);
    server.connection.received_bytes(&option_bytes(option::LIST, &[]), &mut server.pool);
    assert!(matches!(server.connection.next_event(&mut server.pool), Some(Event::ListExports)));
    server.connection.begin_shutdown();
    assert!(server.connection.next_event(&mut server.pool).is_none());
    server.connection.exports_listed::<&str>([]);
    assert_eq!(types(&option_replies(&server.say(usize::MAX))), [reply::ACK]);
    assert_eq!(server.closed, Some(CloseReason::ShutDown));
}

#[test]
fn answers_that_come_after_the_client_left_are_ignored() {
    let mut server = greeted(server(), FIXED);
    server.connection.received_bytes(&option_bytes(option::LIST, &[]), &mut server.pool);
    assert!(matches!(server.connection.next_event(&mut server.pool), Some(Event::ListExports)));
    server.connection.peer_closed(&mut server.pool);
    server.take_events();
    assert_eq!(server.closed, Some(CloseReason::PeerClosed));
    server.connection.exports_listed([("demo", "")]);
    assert!(server.say(usize::MAX).is_empty());
}
