//! What holds for every conversation: random ones against naive models.

use super::*;
use crate::fuzzing;
use crate::protocol::{command, command_flags as flag};
use proptest::prelude::*;
use std::ops::Range;

const EXPORT_SECTORS: u64 = 256;

/// A request as a client might make it, sensible or not.
#[derive(Clone, Debug)]
struct Call {
    code: u16,
    flags: u16,
    sector: u64,
    sectors: u64,
    fill: u8,
}

fn call() -> impl Strategy<Value = Call> {
    let code = prop_oneof![8 => 0_u16..8, 4 => Just(command::WRITE), 4 => Just(command::READ), 1 => any::<u16>()]
        .prop_filter("a goodbye ends the talk", |code| *code != command::DISC);
    let flags = prop_oneof![6 => Just(0_u16), 2 => Just(flag::FUA), 2 => 0_u16..32];
    let sector = prop_oneof![20 => 0..EXPORT_SECTORS, 1 => any::<u64>().prop_map(|sector| sector >> 9)];
    (code, flags, sector, 0_u64..100, any::<u8>()).prop_map(|(code, flags, sector, sectors, fill)| Call {
        code,
        flags,
        sector,
        sectors,
        fill,
    })
}

fn make(client: &mut Client, call: &Call) -> u64 {
    let (offset, length) = (call.sector.wrapping_mul(512), call.sectors * 512);
    match call.code {
        command::WRITE => client.write(offset, &vec![call.fill; length as usize], call.flags),
        code => client.request(code, call.flags, offset, length, &[]),
    }
}

fn small_export() -> MemoryServer {
    let mut server =
        server_with(TlsPolicy::Allow, Limits { requests: 8, memory_bytes: 256 << 10, ..Limits::default() });
    server.export.size_bytes = EXPORT_SECTORS * 512;
    server
}

fn style() -> impl Strategy<Value = Style> {
    prop::sample::select(vec![Style::Simple, Style::Structured, Style::Extended])
}

/// Everything a client says that makes these calls, handshake included.
fn script(style: Style, calls: &[Call], goodbye: bool) -> Vec<u8> {
    let (mut client, ..) = opened(small_export(), ClientConfig { style, ..ClientConfig::new("") });
    let mut bytes = fuzzing::preamble(style);
    calls.iter().for_each(|call| {
        make(&mut client, call);
    });
    if goodbye {
        client.disconnect();
    }
    bytes.extend(client.take_output());
    bytes
}

/// What the server says and does when it hears `bytes` in pieces of these lengths, over and over, and is listened to in
/// pieces of these lengths.
fn conversation(bytes: &[u8], pieces: &[usize]) -> (Vec<u8>, Vec<String>) {
    let mut server = small_export();
    let mut lengths = pieces.iter().copied().cycle();
    let mut said = Vec::new();
    let mut left = bytes;
    while server.closed.is_none() {
        let piece = lengths.next().unwrap_or(usize::MAX).min(left.len());
        left = &left[server.hear(&left[..piece])..];
        let heard = server.say(lengths.next().unwrap_or(usize::MAX));
        if left.is_empty() && heard.is_empty() {
            break;
        }
        said.extend(heard);
    }
    (said, server.journal)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn however_the_stream_is_cut_the_same_happens(
        style in style(),
        calls in prop::collection::vec(call(), 0..30),
        goodbye: bool,
        pieces in prop::collection::vec(prop_oneof![1_usize..40, 1_usize..5000, 30_000_usize..70_000], 1..20),
    ) {
        let bytes = script(style, &calls, goodbye);
        let whole = conversation(&bytes, &[usize::MAX]);
        let cut = conversation(&bytes, &pieces);
        prop_assert_eq!(&whole.1, &cut.1);
        prop_assert!(whole.0 == cut.0, "the same bytes are said");
    }

    #[test]
    fn an_export_behaves_as_a_vector_of_bytes_does(
        style in style(),
        calls in prop::collection::vec(call(), 1..40),
    ) {
        let config = ClientConfig { style, ..ClientConfig::new("") };
        let (mut client, mut server, _) = opened(small_export(), config);
        let mut naive = vec![0_u8; (EXPORT_SECTORS * 512) as usize];
        for call in &calls {
            make(&mut client, call);
            let outcome = outcome(&mut client, &mut server);
            if matches!(outcome, Outcome::Failed { .. }) {
                continue;
            }
            let start = (call.sector * 512) as usize;
            let range: Range<usize> = start..start + (call.sectors * 512) as usize;
            match call.code {
                command::WRITE => naive[range].fill(call.fill),
                command::TRIM | command::WRITE_ZEROES => naive[range].fill(0),
                command::READ => {
                    let Outcome::Data { bytes, .. } = outcome else { panic!("data, not {outcome:?}") };
                    prop_assert!(bytes == naive[range]);
                }
                command::BLOCK_STATUS => {
                    let Outcome::Extents(found) = outcome else { panic!("extents, not {outcome:?}") };
                    let mut at = range.start;
                    for extent in found.values().next().unwrap() {
                        let end = (at + extent.length_bytes as usize).min(naive.len());
                        prop_assert!(extent.flags == 0 || naive[at..end].iter().all(|byte| *byte == 0));
                        at = end;
                    }
                    prop_assert!(call.flags & flag::REQ_ONE != 0 || at >= range.end);
                }
                _ => {}
            }
        }
        let sensible = |call: &Call| call.flags == 0 && call.sector + call.sectors <= EXPORT_SECTORS;
        prop_assert!(calls.iter().any(|call| !sensible(call)) || server.closed.is_none());
    }

    #[test]
    fn sensible_requests_never_fail(
        style in style(),
        sector in 0..EXPORT_SECTORS,
        sectors in 1_u64..64,
        code in prop::sample::select(vec![
            command::READ, command::WRITE, command::TRIM, command::CACHE, command::WRITE_ZEROES,
        ]),
    ) {
        let (mut client, mut server, _) = opened(small_export(), ClientConfig { style, ..ClientConfig::new("") });
        let sectors = sectors.min(EXPORT_SECTORS - sector);
        make(&mut client, &Call { code, flags: flag::FUA, sector, sectors, fill: 1 });
        let outcome = outcome(&mut client, &mut server);
        prop_assert!(!matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
    }

    #[test]
    fn random_bytes_break_nothing(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        fuzzing::server(&bytes);
        fuzzing::client(&bytes);
    }

    #[test]
    fn a_spoilt_conversation_breaks_nothing(
        style in style(),
        mode: u8,
        cut: u8,
        calls in prop::collection::vec(call(), 0..20),
        spoil in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..10),
    ) {
        let mut bytes = script(style, &calls, false);
        for (index, value) in spoil {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        fuzzing::server(&[&[mode & !16, cut], &bytes[..]].concat());
        let led = fuzzing::preamble(style).len();
        fuzzing::server(&[&[mode | 16, cut], &bytes[led..]].concat());
        let (said, _) = conversation(&bytes, &[usize::MAX]);
        fuzzing::client(&[&[mode, cut], &said[..]].concat());
    }
}

#[test]
fn the_seeds_of_the_fuzzers_make_sense_and_their_spoilt_copies_break_nothing() {
    for seed in fuzzing::server_seeds() {
        fuzzing::server(&seed);
        let (_, journal) = conversation(&seed[2..], &[usize::MAX]);
        assert_eq!(journal.last().map(String::as_str), Some("Close(Disconnected)"), "{journal:?}");
        for at in 0..seed.len() {
            let mut spoilt = seed.clone();
            spoilt[at] ^= 0x81;
            fuzzing::server(&spoilt);
        }
    }
    for seed in fuzzing::client_seeds() {
        for at in 0..seed.len() {
            let mut spoilt = seed.clone();
            spoilt[at] ^= 0x81;
            fuzzing::client(&spoilt);
        }
    }
}
