//! Bounds: memory, queues, time, and how a connection says that it has heard enough.

use super::*;
use crate::protocol::{command, handshake_flags, option};
use crate::server::{CloseReason, Connection, Event, RequestKind, Violation};
use model::{BufferPool, Time};
use std::sync::Arc;
use std::time::Duration;

const FIXED: u32 = handshake_flags::FIXED_NEWSTYLE as u32;

fn violation(server: &MemoryServer) -> Option<Violation> {
    match server.closed {
        Some(CloseReason::Violation(violation)) => Some(violation),
        _ => None,
    }
}

#[test]
fn an_option_of_four_gib_closes_and_costs_nothing() {
    let mut server = greeted(server(), FIXED);
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(option::LIST.to_be_bytes());
    bytes.extend(u32::MAX.to_be_bytes());
    server.hear(&bytes);
    assert_eq!(violation(&server), Some(Violation::OptionTooLong));
    assert_eq!(server.connection.memory_bytes(), 0);
}

#[test]
fn memory_for_an_option_grows_only_with_what_is_sent() {
    let mut server = greeted(server(), FIXED);
    let bytes = option_bytes(99, &vec![7; 64 << 10]);
    server.hear(&bytes[..16]);
    assert!(server.connection.memory_bytes() <= 4096, "a claim of 64 KiB costs nothing yet");
    for sent in (1000..bytes.len()).step_by(1000) {
        server.hear(&bytes[sent - 1000 + 16..(sent + 16).min(bytes.len())]);
        assert!(server.connection.memory_bytes() <= (2 * (sent + 16)).max(4096));
    }
}

#[test]
fn the_longest_option_is_still_answered() {
    let mut server = greeted(server(), FIXED);
    let replies = ask(&mut server, 99, &vec![7; 64 << 10]);
    assert_eq!(replies.len(), 1);
    assert!(server.closed.is_none());
}

#[test]
fn a_handshake_that_never_ends_is_ended() {
    let limits = Limits { options: 5, ..Limits::default() };
    let mut server = greeted(server_with(TlsPolicy::Off, limits), FIXED);
    for _ in 0..5 {
        ask(&mut server, 99, &[]);
        assert_eq!(server.closed, None);
    }
    ask(&mut server, 99, &[]);
    assert_eq!(violation(&server), Some(Violation::TooManyOptions));
}

#[test]
fn a_client_that_asks_and_does_not_listen_is_not_heard() {
    let mut server = greeted(server(), FIXED);
    let question = option_bytes(option::LIST, &[]).repeat(1000);
    let mut heard = 0;
    for _ in 0..100 {
        heard += server.hear(&question);
    }
    assert!(heard < 100 * question.len());
    let limits = Limits::default();
    assert!(server.connection.memory_bytes() < limits.reply_header_bytes + limits.option_bytes as usize);
    server.say(usize::MAX);
    assert!(server.hear(&question) > 0, "once it listens, it is heard again");
}

#[test]
fn the_deadline_is_the_handshakes() {
    let limits = Limits { handshake: Duration::from_secs(3), ..Limits::default() };
    let config = Arc::new(ServerConfig { tls: TlsPolicy::Off, limits });
    let mut pool = BufferPool::new(1 << 20);
    let mut connection = Connection::new(config, Time(5_000_000_000));
    assert_eq!(connection.deadline(), Some(Time(8_000_000_000)));
    connection.peer_closed(&mut pool);
    assert!(matches!(connection.next_event(&mut pool), Some(Event::Close(CloseReason::PeerClosed))));
    assert_eq!(connection.deadline(), None);
}

#[test]
fn an_idle_connection_holds_little() {
    let mut server = greeted(server(), FIXED);
    let target = server.connection.wanted_receive(&mut server.pool).unwrap();
    assert_eq!(target.buffer.len(), 4096);
    server.connection.received(target, 0);
    let (_, mut server) = opened_in(Style::Extended);
    let target = server.connection.wanted_receive(&mut server.pool).unwrap();
    assert!(target.buffer.len() <= 16 << 10);
}

#[test]
fn the_stream_buffer_grows_under_load_and_shrinks_after() {
    let (mut client, mut server) = opened_in(Style::Structured);
    let mut size = |client: &mut Client, writes: u64| {
        for index in 0..writes {
            client.write(index * 4096, &[1; 4096], 0);
        }
        converse(client, &mut server);
        let target = server.connection.wanted_receive(&mut server.pool).unwrap();
        let length = target.buffer.len();
        server.connection.received(target, 0);
        length
    };
    for _ in 0..8 {
        size(&mut client, 100);
    }
    assert_eq!(size(&mut client, 100), 256 << 10);
    for _ in 0..400 {
        size(&mut client, 1);
    }
    assert_eq!(size(&mut client, 1), 16 << 10);
}

#[test]
fn requests_beyond_the_limit_wait_unheard_until_others_are_answered() {
    let limits = Limits { requests: 8, ..Limits::default() };
    let (mut client, mut server, _) = opened(server_with(TlsPolicy::Off, limits), ClientConfig::new("demo"));
    server.hold_requests = true;
    for index in 0..20 {
        client.read(index * 512, 512, 0);
    }
    let bytes = client.take_output();
    assert_eq!(server.hear(&bytes), bytes.len());
    assert_eq!(server.held.len(), 8);
    assert!(server.connection.wanted_receive(&mut server.pool).is_none());
    server.answer_held(|_| 0);
    let mut served = 8;
    while served < 20 {
        server.say(usize::MAX);
        served += server.held.len();
        server.answer_held(|_| 0);
    }
    assert!(server.connection.wanted_receive(&mut server.pool).is_some());
}

#[test]
fn memory_for_requests_and_replies_is_bounded_and_lets_go_as_replies_are_sent() {
    let limits = Limits { memory_bytes: 1 << 20, ..Limits::default() };
    let (mut client, mut server, _) = opened(server_with(TlsPolicy::Off, limits), ClientConfig::new("demo"));
    client.write(0, &[1; 512 << 10], 0);
    outcomes(&mut client, &mut server);
    for _ in 0..10 {
        client.read(0, 512 << 10, 0);
    }
    server.hear(&client.take_output());
    assert!(server.connection.output_bytes() < (1 << 20) + 1000, "two replies wait, and no third is begun");
    assert!(server.connection.output_bytes() >= 512 << 10);
    assert!(server.connection.wanted_receive(&mut server.pool).is_none());
    assert_eq!(outcomes(&mut client, &mut server).len(), 10, "as they are sent the rest are served");
}

#[test]
fn a_request_larger_than_the_whole_bound_is_served_alone() {
    let limits = Limits { memory_bytes: 4096, ..Limits::default() };
    let (mut client, mut server, _) = opened(server_with(TlsPolicy::Off, limits), ClientConfig::new("demo"));
    for _ in 0..3 {
        client.write(0, &[1; 65_536], 0);
        client.read(0, 65_536, 0);
    }
    assert_eq!(outcomes(&mut client, &mut server).len(), 6);
}

#[test]
fn errors_pile_up_no_further_than_replies() {
    let (mut client, mut server) = opened_in(Style::Extended);
    for _ in 0..100_000 {
        client.request(99, 0, 0, 512, &[]);
    }
    let bytes = client.take_output();
    let heard = server.hear(&bytes);
    assert!(heard < bytes.len());
    assert!(server.connection.memory_bytes() < 1 << 20);
}

#[test]
fn the_rest_of_a_large_payload_is_received_where_it_belongs() {
    let (mut client, mut server) = opened_in(Style::Structured);
    server.hold_requests = true;
    let payload: Vec<u8> = (0..200_000_u32 / 512 * 512).map(|index| (index / 7) as u8).collect();
    client.write(0, &payload, 0);
    client.read(0, 512, 0);
    let bytes = client.take_output();
    let (first, rest) = bytes.split_at(5000);
    server.hear(first);
    let mut target = server.connection.wanted_receive(&mut server.pool).unwrap();
    assert_eq!((target.start, target.end), (5000 - 28, payload.len()), "the payload's rest, and nothing after it");
    assert!(server.connection.wanted_receive(&mut server.pool).is_none(), "one receive at a time");
    assert!(server.connection.next_event(&mut server.pool).is_none());
    target.space_mut()[..100_000].copy_from_slice(&rest[..100_000]);
    server.connection.received(target, 100_000);
    assert_eq!(server.hear(&rest[100_000..]), rest.len() - 100_000);
    assert_eq!(server.held.len(), 2);
    let RequestKind::Write { data, .. } = &server.held[0].kind else { panic!("a write") };
    assert_eq!(data.bytes()[..payload.len()], payload);
}

#[test]
fn where_a_large_write_is_expected_no_more_than_its_head_is_copied() {
    let (mut client, mut server) = opened_in(Style::Structured);
    let mut space = |client: &mut Client| {
        converse(client, &mut server);
        let mut target = server.connection.wanted_receive(&mut server.pool).unwrap();
        let space = target.space_mut().len();
        server.connection.received(target, 0);
        space
    };
    client.write(0, &[1; 128 << 10], 0);
    assert_eq!(space(&mut client), 4096);
    client.flush();
    assert!(space(&mut client) >= 16 << 10);
}

#[test]
fn short_sends_go_on_where_they_stopped() {
    let (mut client, mut server) = opened_in(Style::Extended);
    client.write(4096, &(0..16_384_u32).map(|index| index as u8).collect::<Vec<_>>(), 0);
    outcomes(&mut client, &mut server);
    for step in [1, 7, 31, 32, 33, 4096, 100_000] {
        for _ in 0..5 {
            client.read(0, 65_536, 0);
            client.read(4096, 4096, 0);
        }
        server.hear(&client.take_output());
        let mut said = Vec::new();
        while let Some(batch) = server.connection.take_output(3) {
            assert!(server.connection.take_output(3).is_none(), "one send at a time");
            assert!(batch.slices().count() <= 3);
            let mut sent = 0;
            for slice in batch.slices() {
                let part = slice.len().min(step - sent);
                said.extend_from_slice(&slice[..part]);
                sent += part;
            }
            server.connection.output_sent(batch, sent, &mut server.pool);
        }
        client.received(&said);
        let mut replies = 0;
        while let Some(event) = client.next_event() {
            let ClientEvent::Reply(reply) = event else { panic!("a reply, not {event:?}") };
            let Outcome::Data { bytes, .. } = reply.outcome else { panic!("data") };
            let start = if bytes.len() == 4096 { 0 } else { 4096 };
            assert!(bytes[start..start + 4096].iter().enumerate().all(|(index, byte)| *byte == index as u8));
            replies += 1;
        }
        assert_eq!(replies, 10, "in steps of {step}");
        assert!(server.connection.is_drained());
    }
}

#[test]
fn buffers_go_back_to_the_pool_as_they_are_sent() {
    let (mut client, mut server) = opened_in(Style::Simple);
    client.write(0, &[1; 65_536], 0);
    outcomes(&mut client, &mut server);
    client.read(0, 65_536, 0);
    client.read(0, 65_536, 0);
    server.hear(&client.take_output());
    let before = server.pool.held_bytes();
    server.say(16 + 65_536 + 16 + 1);
    assert_eq!(server.pool.held_bytes(), before + 65_536);
    server.say(usize::MAX);
    assert_eq!(server.pool.held_bytes(), before + 2 * 65_536);
}

#[test]
fn small_replies_are_sent_as_one_slice() {
    let (mut client, mut server) = opened_in(Style::Structured);
    for _ in 0..64 {
        client.write(0, &[1; 512], 0);
    }
    server.hear(&client.take_output());
    let batch = server.connection.take_output(256).unwrap();
    assert_eq!((batch.slices().count(), batch.len()), (1, 64 * 16));
    let sent = batch.len();
    server.connection.output_sent(batch, sent, &mut server.pool);
}

#[test]
#[should_panic(expected = "a request is answered once")]
fn answering_twice_is_a_bug_of_ours() {
    let (mut client, mut server) = opened_in(Style::Structured);
    server.hold_requests = true;
    client.flush();
    server.hear(&client.take_output());
    let id = server.held.pop().unwrap().id;
    server.connection.reply_ok(id);
    server.connection.reply_ok(id);
}

#[test]
fn a_flood_of_block_status_is_bounded_too() {
    let (mut client, mut server) = opened_in(Style::Extended);
    server.hold_requests = true;
    for _ in 0..300 {
        client.request(command::BLOCK_STATUS, 0, 0, 1 << 20, &[]);
    }
    server.hear(&client.take_output());
    assert!(server.held.len() >= 128 && server.held.len() <= 256);
}

#[test]
fn what_begins_or_ends_within_a_block_counts_as_the_whole_blocks_that_serve_it() {
    let counted = |offset: u64, length: usize, writes: bool| {
        let (mut client, mut server) = opened_in(Style::Structured);
        server.hold_requests = true;
        let before = server.connection.memory_bytes();
        match writes {
            true => client.write(offset, &vec![1; length], 0),
            false => client.read(offset, length as u32, 0),
        };
        server.hear(&client.take_output());
        assert_eq!(server.held.len(), 1);
        server.connection.memory_bytes() - before
    };
    let more = |writes| counted(512, 65_536, writes) - counted(4096, 65_536, writes);
    assert_eq!(more(false), 64 << 10, "17 blocks, and buffers are powers of two");
    assert_eq!(more(true), 128 << 10, "its bytes, and the blocks made of them");
}

#[test]
fn whatever_a_client_asks_for_without_listening_its_memory_stays_within_the_limit() {
    let limits = Limits { memory_bytes: 2 << 20, ..Limits::default() };
    for seed in 1..20_u64 {
        let (mut client, mut server, _) = opened(server_with(TlsPolicy::Off, limits), ClientConfig::new("demo"));
        client.write(0, &[1; 1 << 20], 0);
        outcomes(&mut client, &mut server);
        let mut random = seed;
        let mut unheard = Vec::new();
        for _ in 0..300 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let length = 512 * (1 + (random >> 33) % if random >> 62 == 0 { 2047 } else { 40 });
            let offset = (random >> 20) % ((1 << 20) - length) / 512 * 512;
            match random >> 60 & 3 {
                0 => client.write(offset, &vec![2; length as usize], 0),
                _ => client.read(offset, length as u32, 0),
            };
            server.hold_requests = random >> 59 & 1 == 1;
            unheard.extend(client.take_output());
            let heard = server.hear(&unheard);
            unheard.drain(..heard);
            if random >> 57 & 3 == 0 {
                server.answer_held(|count| count / 2);
            }
            let most = limits.memory_bytes + limits.reply_header_bytes + limits.stream_bytes;
            let held = server.connection.memory_bytes();
            assert!(held <= most, "seed {seed}: {held} bytes");
        }
        assert!(!unheard.is_empty(), "it was held back");
    }
}
