//! Requests and replies: each command, each form of reply, each way to ask for nonsense.

use super::*;
use crate::protocol::{allocation_flags as status, command, command_flags as flag};
use crate::server::{CloseReason, ContextIndex, ContextStatus, Event, ReadSegment, RequestKind, Violation};
use crate::{ErrorCode, Extent};
use model::ByteRange;

const STYLES: [Style; 3] = [Style::Simple, Style::Structured, Style::Extended];

fn failure(outcome: &Outcome) -> Option<ErrorCode> {
    match outcome {
        Outcome::Failed { error, .. } => Some(*error),
        _ => None,
    }
}

#[test]
fn what_is_written_is_read_in_every_form() {
    for style in STYLES {
        let (mut client, mut server) = opened_in(style);
        let bytes: Vec<u8> = (0..8192_u32).map(|index| index as u8 ^ (index >> 8) as u8).collect();
        client.write(4096, &bytes, flag::FUA);
        client.flush();
        client.cache(0, 65_536);
        client.write_zeroes(4608, 512, flag::FAST_ZERO);
        client.trim(11_776, 512, 0);
        assert_eq!(outcomes(&mut client, &mut server), vec![Outcome::Done; 5]);
        client.read(0, 16_384, 0);
        let mut expected = vec![0; 16_384];
        expected[4096..12_288].copy_from_slice(&bytes);
        expected[4608..5120].fill(0);
        expected[11_776..12_288].fill(0);
        let Outcome::Data { bytes, holes } = outcome(&mut client, &mut server) else { panic!("data") };
        assert_eq!(bytes, expected, "{style:?}");
        let told = [(0, 4096), (4608, 512), (11_776, 4608)].map(|(start, length)| ByteRange::new(start, length));
        assert_eq!(holes, if style == Style::Simple { vec![] } else { told.to_vec() });
    }
}

#[test]
fn neighbouring_data_travel_in_one_chunk_and_the_last_chunk_says_so() {
    let (mut client, mut server) = opened_in(Style::Structured);
    server.hold_requests = true;
    client.read(512, 2048, 0);
    server.hear(&client.take_output());
    let id = server.held.pop().unwrap().id;
    let (mut first, mut second) = (server.pool.take(4096), server.pool.take(4096));
    first.bytes_mut()[..1024].fill(1);
    second.bytes_mut()[..1024].fill(2);
    let segments = [
        ReadSegment::Data { buffer: first, start: 0, length: 512 },
        ReadSegment::Hole { length: 0 },
        ReadSegment::Data { buffer: second, start: 512, length: 512 },
        ReadSegment::MoreData { start: 0, length: 512 },
        ReadSegment::Hole { length: 512 },
    ];
    server.connection.reply_read(id, segments);
    let said = server.say(usize::MAX);
    assert_eq!(said.len(), 20 + 8 + 1536 + 20 + 12);
    assert_eq!(said[4..8], [0, 0, 0, 1], "data, more to come");
    assert_eq!(said[16..20], (8_u32 + 1536).to_be_bytes());
    assert_eq!(said[20 + 8 + 1536 + 4..][..4], [0, 1, 0, 2], "a hole, and done");
    client.received(&said);
    let Some(ClientEvent::Reply(reply)) = client.next_event() else { panic!("a reply") };
    let expected = [[1; 512], [2; 512], [2; 512], [0; 512]].concat();
    assert!(matches!(reply.outcome, Outcome::Data { bytes, .. } if bytes == expected));
}

#[test]
fn a_client_that_wants_one_chunk_gets_one() {
    for style in [Style::Structured, Style::Extended] {
        let (mut client, mut server) = opened_in(style);
        client.write(1024, &[9; 512], 0);
        outcomes(&mut client, &mut server);
        client.read(0, 4096, flag::DF);
        let Outcome::Data { bytes, holes } = outcome(&mut client, &mut server) else { panic!("data") };
        assert!(holes.is_empty() && bytes[1024..1536] == [9; 512] && bytes[1536..].iter().all(|byte| *byte == 0));
        client.read(8192, 4096, flag::DF);
        let Outcome::Data { holes, .. } = outcome(&mut client, &mut server) else { panic!("data") };
        assert_eq!(holes, [ByteRange::new(8192, 4096)], "nothing but a hole may stay one");
    }
}

#[test]
fn ranges_beyond_the_export_are_refused_each_in_its_way() {
    let past = [(1 << 20, 512), ((1 << 20) - 512, 1024), (u64::MAX - 511, 512), (u64::MAX - 511, 1024), (1 << 63, 512)];
    for style in STYLES {
        let (mut client, mut server) = opened_in(style);
        for (offset, length) in past {
            let mut refused = |code, error| {
                if code == command::WRITE {
                    client.write(offset, &vec![0; length as usize], 0);
                } else {
                    client.request(code, 0, offset, length, &[]);
                }
                assert_eq!(failure(&outcome(&mut client, &mut server)), Some(error), "{code} at {offset}+{length}");
            };
            refused(command::READ, ErrorCode::Invalid);
            refused(command::WRITE, ErrorCode::NoSpace);
            refused(command::WRITE_ZEROES, ErrorCode::NoSpace);
            refused(command::TRIM, ErrorCode::Invalid);
            refused(command::CACHE, ErrorCode::Invalid);
            refused(command::BLOCK_STATUS, ErrorCode::Invalid);
        }
        assert!(server.held.is_empty() && server.closed.is_none());
    }
}

#[test]
fn an_export_that_grew_takes_requests_up_to_its_new_end() {
    let (mut client, mut server) = opened_in(Style::Extended);
    server.connection.export_resized(2 << 20);
    client.write(1 << 20, &[1; 512], 0);
    assert_eq!(outcome(&mut client, &mut server), Outcome::Done);
}

#[test]
fn parts_of_a_minimum_block_are_refused() {
    for style in STYLES {
        let (mut client, mut server) = opened_in(style);
        client.read(1, 512, 0);
        client.read(0, 511, 0);
        client.write(256, &[0; 512], 0);
        client.trim(0, 513, 0);
        let failures: Vec<_> = outcomes(&mut client, &mut server).iter().map(failure).collect();
        assert_eq!(failures, vec![Some(ErrorCode::Invalid); 4]);
    }
}

#[test]
fn a_read_only_export_refuses_to_be_changed() {
    let mut server = server();
    server.export.read_only = true;
    let (mut client, mut server, _) = opened(server, ClientConfig::new("demo"));
    client.write(0, &[0; 512], 0);
    client.trim(0, 512, 0);
    client.write_zeroes(0, 512, 0);
    client.flush();
    let failures: Vec<_> = outcomes(&mut client, &mut server).iter().map(failure).collect();
    let refused = Some(ErrorCode::NotPermitted);
    assert_eq!(failures, [refused, refused, refused, None]);
}

#[test]
fn unknown_commands_and_misplaced_flags_are_invalid() {
    for style in STYLES {
        let (mut client, mut server) = opened_in(style);
        let mut invalid = |code, flags| {
            client.request(code, flags, 0, if code == command::FLUSH { 0 } else { 512 }, &[]);
            assert_eq!(failure(&outcome(&mut client, &mut server)), Some(ErrorCode::Invalid), "{code} with {flags:#x}");
        };
        for code in [8, 9, 100, u16::MAX] {
            invalid(code, 0);
        }
        for (code, flags) in [
            (command::READ, flag::NO_HOLE),
            (command::READ, flag::REQ_ONE),
            (command::READ, 1 << 9),
            (command::FLUSH, flag::DF),
            (command::TRIM, flag::FAST_ZERO),
            (command::CACHE, flag::NO_HOLE),
            (command::WRITE_ZEROES, flag::DF),
            (command::BLOCK_STATUS, flag::DF),
        ] {
            invalid(code, flags);
        }
        if style == Style::Simple {
            invalid(command::READ, flag::DF);
            invalid(command::BLOCK_STATUS, 0);
        }
        client.request(command::FLUSH, 0, 512, 0, &[]);
        assert_eq!(failure(&outcome(&mut client, &mut server)), Some(ErrorCode::Invalid), "a flush has no range");
        client.read(0, 512, flag::FUA);
        assert!(failure(&outcome(&mut client, &mut server)).is_none(), "FUA is taken on every command");
    }
}

#[test]
fn payloads_are_taken_where_they_are_announced_whatever_the_answer() {
    let (mut client, mut server) = opened_in(Style::Extended);
    client.request(command::READ, flag::PAYLOAD_LEN, 0, 512, &[0x25; 512]);
    client.request(command::WRITE, flag::PAYLOAD_LEN | flag::DF, 0, 512, &[0x60; 512]);
    client.request(99, flag::PAYLOAD_LEN, 0, 1000, &[0x95; 1000]);
    client.write(0, &[1; 512], 0);
    let failures: Vec<_> = outcomes(&mut client, &mut server).iter().map(failure).collect();
    let refused = Some(ErrorCode::Invalid);
    assert_eq!(failures, [refused, refused, refused, None]);

    let (mut client, mut server) = opened_in(Style::Structured);
    client.request(command::WRITE, flag::PAYLOAD_LEN, 0, 512, &[0x25; 512]);
    client.request(command::READ, flag::PAYLOAD_LEN, 0, 512, &[]);
    client.write(0, &[1; 512], 0);
    let failures: Vec<_> = outcomes(&mut client, &mut server).iter().map(failure).collect();
    assert_eq!(failures, [refused, refused, None]);
}

#[test]
fn a_write_is_taken_without_the_flag_that_some_clients_forget() {
    let (mut client, mut server) = opened_in(Style::Extended);
    client.request(command::WRITE, flag::FUA, 512, 512, &[7; 512]);
    client.read(512, 512, 0);
    let all = outcomes(&mut client, &mut server);
    assert_eq!(all, [Outcome::Done, Outcome::Data { bytes: vec![7; 512], holes: vec![] }]);
}

#[test]
fn requests_for_nothing_are_answered_with_nothing() {
    for style in STYLES {
        let (mut client, mut server) = opened_in(style);
        server.hold_requests = true;
        client.read(512, 0, 0);
        client.write(1 << 20, &[], 0);
        client.trim(0, 0, 0);
        client.write_zeroes(0, 0, flag::FUA);
        client.cache(0, 0);
        let mut all = outcomes(&mut client, &mut server);
        let read = all.remove(0);
        assert!(matches!(read, Outcome::Data { bytes, .. } if bytes.is_empty()));
        assert_eq!(all, vec![Outcome::Done; 4]);
        client.block_status(0, 0, 0);
        assert_eq!(failure(&outcome(&mut client, &mut server)), Some(ErrorCode::Invalid));
    }
}

#[test]
fn reads_longer_than_a_payload_are_refused_before_they_cost_anything() {
    for (style, error) in [
        (Style::Simple, ErrorCode::Invalid),
        (Style::Structured, ErrorCode::Overflow),
        (Style::Extended, ErrorCode::Overflow),
    ] {
        let mut server = server();
        server.export.size_bytes = 1 << 62;
        let (mut client, mut server, _) = opened(server, ClientConfig { style, ..ClientConfig::new("demo") });
        client.read(0, (32 << 20) + 512, 0);
        assert_eq!(failure(&outcome(&mut client, &mut server)), Some(error));
        if style == Style::Extended {
            client.request(command::READ, 0, 0, 1 << 61, &[]);
            assert_eq!(failure(&outcome(&mut client, &mut server)), Some(error));
            client.request(command::TRIM, 0, 0, 1 << 62, &[]);
            assert_eq!(outcome(&mut client, &mut server), Outcome::Done, "a trim has no payload");
        }
        let flags = flag::NO_HOLE | flag::FAST_ZERO;
        client.write_zeroes(0, u64::from(u32::MAX - 511), flags);
        assert_eq!(failure(&outcome(&mut client, &mut server)), Some(ErrorCode::NotSupported));
    }
}

#[test]
fn a_write_longer_than_a_payload_is_read_away_and_refused() {
    for style in STYLES {
        let mut server = server();
        server.export.size_bytes = 1 << 40;
        let (mut client, mut server, _) = opened(server, ClientConfig { style, ..ClientConfig::new("demo") });
        client.write(0, &vec![3; (32 << 20) + 512], 0);
        client.write(0, &[4; 512], 0);
        let failures: Vec<_> = outcomes(&mut client, &mut server).iter().map(failure).collect();
        assert_eq!(failures, [Some(ErrorCode::Invalid), None]);
        assert_eq!(server.sectors.len(), 1);
        let flags = if style == Style::Extended { flag::PAYLOAD_LEN } else { 0 };
        client.request(command::WRITE, flags, 0, u64::from(u32::MAX), &[]);
        server.hear(&client.take_output());
        assert_eq!(server.closed, Some(CloseReason::Violation(Violation::PayloadTooLong)));
    }
}

#[test]
fn block_status_tells_holes_in_every_context_chosen() {
    for style in [Style::Structured, Style::Extended] {
        let contexts = vec!["base:allocation".to_owned(), "x-memory:sectors".to_owned()];
        let config = ClientConfig { style, contexts, ..ClientConfig::new("demo") };
        let (mut client, mut server, told) = opened(server(), config);
        client.write(1024, &[1; 1024], 0);
        outcomes(&mut client, &mut server);
        client.block_status(0, 65_536, 0);
        let Outcome::Extents(found) = outcome(&mut client, &mut server) else { panic!("extents") };
        let ids: Vec<u32> = told.contexts.keys().copied().collect();
        let hole = status::HOLE | status::ZERO;
        let pairs = |id: u32| found[&id].iter().map(|extent| (extent.length_bytes, extent.flags)).collect::<Vec<_>>();
        assert_eq!(pairs(ids[0]), [(1024, hole), (1024, 0), (63_488, hole)]);
        assert_eq!(pairs(ids[1]), [(1024, 0), (1024, 1), (63_488, 0)]);
        client.block_status(512, 4096, flag::REQ_ONE);
        let Outcome::Extents(found) = outcome(&mut client, &mut server) else { panic!("extents") };
        assert_eq!(found[&ids[0]], [Extent { length_bytes: 512, flags: hole }]);
    }
}

#[test]
fn a_client_may_ask_about_some_of_its_contexts() {
    let contexts = vec!["base:allocation".to_owned(), "x-memory:sectors".to_owned()];
    let (mut client, mut server, told) = opened(server(), ClientConfig { contexts, ..ClientConfig::new("demo") });
    let ids: Vec<u32> = told.contexts.keys().copied().collect();
    client.block_status_of(0, 1 << 20, 0, &ids[1..]);
    let Outcome::Extents(found) = outcome(&mut client, &mut server) else { panic!("extents") };
    assert_eq!(found.into_keys().collect::<Vec<_>>(), &ids[1..]);
    for nonsense in [vec![], vec![ids[0], ids[0]], vec![0], vec![ids[0], 77], vec![1; 64]] {
        client.block_status_of(0, 1 << 20, 0, &nonsense);
        assert_eq!(failure(&outcome(&mut client, &mut server)), Some(ErrorCode::Invalid), "{nonsense:?}");
    }
    client.block_status_of(0, 2 << 20, 0, &ids);
    assert_eq!(failure(&outcome(&mut client, &mut server)), Some(ErrorCode::Invalid), "beyond the end");
    for length in [1, 4, 7, 8, 10, 13] {
        client.request(command::BLOCK_STATUS, flag::PAYLOAD_LEN, 0, length, &vec![0; length as usize]);
        assert_eq!(failure(&outcome(&mut client, &mut server)), Some(ErrorCode::Invalid), "{length} bytes");
    }
}

/// What the client hears of `extents` when it asks about `length` bytes.
fn heard(style: Style, length: u64, flags: u16, extents: &[Extent]) -> Vec<(u64, u32)> {
    let mut server = server();
    server.export.size_bytes = 1 << 50;
    let (mut client, mut server, _) = opened(server, ClientConfig { style, ..ClientConfig::new("demo") });
    server.hold_requests = true;
    client.block_status(0, length, flags);
    server.hear(&client.take_output());
    let request = server.held.pop().unwrap();
    assert!(matches!(request.kind, RequestKind::BlockStatus { contexts, .. } if contexts.contains(ContextIndex(0))));
    server.connection.reply_block_status(request.id, &[ContextStatus { context: ContextIndex(0), extents }]);
    let Outcome::Extents(found) = outcome(&mut client, &mut server) else { panic!("extents") };
    found.values().next().unwrap().iter().map(|extent| (extent.length_bytes, extent.flags)).collect()
}

#[test]
fn extents_are_merged_and_cut_to_what_the_protocol_allows() {
    let extent = |length_bytes, flags| Extent { length_bytes, flags };
    for style in [Style::Structured, Style::Extended] {
        let list = [extent(512, 0), extent(0, 9), extent(512, 0), extent(1024, 3), extent(4096, 0), extent(512, 3)];
        assert_eq!(heard(style, 4096, 0, &list), [(1024, 0), (1024, 3), (4096, 0)], "the last may reach beyond");
        assert_eq!(heard(style, 4096, flag::REQ_ONE, &list), [(1024, 0)]);
        assert_eq!(heard(style, 512, flag::REQ_ONE, &list), [(512, 0)]);
        assert_eq!(heard(style, 4096, 0, &[]), [(4096, 0)], "nothing known");
        let many: Vec<_> = (0..40_000).map(|index| extent(512, index % 2)).collect();
        assert_eq!(heard(style, 1 << 30, 0, &many).len(), crate::server::EXTENTS_MAX);
    }
    let long = [extent(1 << 45, 3), extent(512, 0)];
    assert_eq!(heard(Style::Extended, 1 << 46, 0, &long), [(1 << 45, 3), (512, 0)]);
    assert_eq!(heard(Style::Structured, 0xffff_fe00, 0, &long), [(0xffff_fe00, 3)]);
}

#[test]
fn replies_may_come_in_any_order() {
    for style in STYLES {
        let (mut client, mut server) = opened_in(style);
        server.hold_requests = true;
        let cookies: Vec<u64> = (0..100).map(|index| client.write(index * 512, &[index as u8; 512], 0)).collect();
        server.hear(&client.take_output());
        assert_eq!(server.connection.requests_in_flight(), 100);
        let mut last = 7_usize;
        server.answer_held(|count| {
            last = last.wrapping_mul(31).wrapping_add(11);
            last % count
        });
        let mut answered: Vec<u64> = converse(&mut client, &mut server)
            .into_iter()
            .map(|event| match event {
                ClientEvent::Reply(reply) => reply.cookie,
                other => panic!("a reply, not {other:?}"),
            })
            .collect();
        assert_ne!(answered, cookies);
        answered.sort_unstable();
        assert_eq!(answered, cookies);
        assert!(server.connection.is_drained());
    }
}

#[test]
fn a_goodbye_waits_for_what_is_in_flight() {
    let (mut client, mut server) = opened_in(Style::Structured);
    server.hold_requests = true;
    client.write(0, &[1; 512], 0);
    client.disconnect();
    client.read(0, 512, 0);
    server.hear(&client.take_output());
    assert_eq!((server.closed, server.held.len()), (None, 1), "what comes after a goodbye is not heard");
    server.answer_held(|_| 0);
    assert_eq!(server.closed, None, "the reply is not out yet");
    assert_eq!(server.say(usize::MAX).len(), 16);
    assert_eq!(server.closed, Some(CloseReason::Disconnected));
}

#[test]
fn a_request_without_its_magic_number_closes_at_once() {
    for style in STYLES {
        let (mut client, mut server) = opened_in(style);
        server.hold_requests = true;
        client.write(0, &[1; 512], 0);
        server.hear(&client.take_output());
        server.hear(b"GET / HTTP/1.1\r\n");
        assert_eq!(server.closed, Some(CloseReason::Violation(Violation::RequestMagic)));
        server.answer_held(|_| 0);
        assert!(server.say(usize::MAX).is_empty() && server.connection.is_closed());
    }
}

#[test]
fn a_client_that_goes_away_leaves_nothing_behind() {
    let (mut client, mut server) = opened_in(Style::Extended);
    server.hold_requests = true;
    for index in 0..100 {
        client.write(index * 512, &[1; 512], 0);
    }
    client.read(0, 65_536, 0);
    let said = client.take_output();
    server.hear(&said[..said.len() - 10]);
    assert_eq!(server.held.len(), 100);
    server.connection.peer_closed(&mut server.pool);
    server.take_events();
    assert_eq!(server.closed, Some(CloseReason::PeerClosed));
    server.answer_held(|_| 0);
    assert!(server.connection.is_drained() && server.connection.memory_bytes() == 0);
}

#[test]
fn a_send_that_ends_after_its_client_left_gives_its_buffers_back() {
    let (mut client, mut server) = opened_in(Style::Structured);
    client.write(0, &[1; 8192], 0);
    outcomes(&mut client, &mut server);
    client.read(0, 8192, 0);
    server.hear(&client.take_output());
    let batch = server.connection.take_output(16).unwrap();
    server.connection.peer_closed(&mut server.pool);
    server.take_events();
    let before = server.pool.held_bytes();
    server.connection.output_sent(batch, 100, &mut server.pool);
    assert_eq!(server.pool.held_bytes(), before + 8192);
    assert!(server.connection.is_drained());
}

#[test]
fn a_shutdown_answers_what_is_in_flight_and_refuses_what_comes() {
    let (mut client, mut server) = opened_in(Style::Structured);
    server.hold_requests = true;
    client.write(0, &[1; 512], 0);
    server.hear(&client.take_output());
    server.connection.begin_shutdown();
    client.write(512, &[1; 512], 0);
    client.read(0, 512, 0);
    let failures: Vec<_> = outcomes(&mut client, &mut server).iter().map(failure).collect();
    assert_eq!(failures, [Some(ErrorCode::Shutdown), Some(ErrorCode::Shutdown)]);
    assert_eq!(server.closed, None);
    server.answer_held(|_| 0);
    assert_eq!(outcome(&mut client, &mut server), Outcome::Done);
    assert_eq!(server.closed, Some(CloseReason::ShutDown));
}

#[test]
fn a_shutdown_does_not_wait_for_a_payload_that_never_comes() {
    let (mut client, mut server) = opened_in(Style::Structured);
    client.write(0, &[1; 65_536], 0);
    server.hear(&client.take_output()[..1000]);
    server.connection.begin_shutdown();
    server.take_events();
    assert_eq!(server.closed, Some(CloseReason::ShutDown));
}

#[test]
fn events_carry_what_the_client_asked() {
    let (mut client, mut server) = opened_in(Style::Extended);
    server.hold_requests = true;
    client.write(512, &[5; 1024], flag::FUA);
    client.write_zeroes(1024, 2048, flag::NO_HOLE | flag::FAST_ZERO | flag::FUA);
    client.trim(0, 512, 0);
    server.connection.received_bytes(&client.take_output(), &mut server.pool);
    let mut next = || match server.connection.next_event(&mut server.pool) {
        Some(Event::Request(request)) => request.kind,
        other => panic!("a request, not {other:?}"),
    };
    let RequestKind::Write { offset: 512, length: 1024, data, fua: true } = next() else { panic!("a write") };
    assert_eq!(data.bytes()[..1024], [5; 1024]);
    let zeroes = next();
    let RequestKind::WriteZeroes { offset: 1024, length: 2048, fua: true, no_hole: true, fast: true } = zeroes else {
        panic!("zeroes, not {zeroes:?}")
    };
    assert!(matches!(next(), RequestKind::Trim { offset: 0, length: 512, fua: false }));
}
