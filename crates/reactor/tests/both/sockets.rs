//! Connections: listeners, streams in both directions, and their ends.

use crate::{PATIENCE, completion, completions, on_both_backends, patterned};
use model::IoBuffer;
use reactor::{Backend, Completion, Gather, Listener, Operation, Payload, Reactor, ReactorConfig, Socket};
use std::any::Any;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

/// Headers and payloads in turn, as a server answers many requests at once.
struct Replies {
    headers: Vec<[u8; 16]>,
    payloads: Vec<Arc<IoBuffer>>,
}

impl Gather for Replies {
    fn each_slice<'a>(&'a self, visit: &mut dyn FnMut(&'a [u8])) {
        for (header, payload) in self.headers.iter().zip(&self.payloads) {
            visit(header);
            visit(&[]);
            visit(payload.bytes());
        }
    }
}

impl Replies {
    fn new(count: usize, payload_bytes: usize) -> Self {
        let headers = (0..count).map(|index| [index as u8; 16]).collect();
        Self { headers, payloads: (0..count as u64).map(|seed| Arc::new(patterned(payload_bytes, seed))).collect() }
    }

    fn flat(&self) -> Vec<u8> {
        let mut flat = Vec::new();
        self.each_slice(&mut |slice| flat.extend_from_slice(slice));
        flat
    }
}

fn receive(reactor: &mut Reactor, token: u64, socket: &Socket, buffer: IoBuffer) {
    let (socket, end) = (socket.clone(), buffer.len());
    reactor.submit(token, Operation::Receive { socket, buffer, start: 0, end });
}

fn send(reactor: &mut Reactor, token: u64, socket: &Socket, batch: impl Gather) {
    reactor.submit(token, Operation::Send { socket: socket.clone(), batch: Box::new(batch), quiet: false });
}

fn accept(reactor: &mut Reactor, listener: &Listener) -> Socket {
    reactor.submit(99, Operation::Accept { listener: listener.clone() });
    let done = completion(reactor);
    done.result.expect("a connection");
    done.payload.into_socket().expect("a connection")
}

/// Receives until `bytes` have come, or the end.
fn receive_all(reactor: &mut Reactor, socket: &Socket, bytes: usize) -> Vec<u8> {
    let (mut all, mut buffer) = (Vec::new(), IoBuffer::zeroed(64 << 10));
    while all.len() < bytes {
        receive(reactor, 50, socket, buffer);
        let Completion { result, payload, .. } = completion(reactor);
        let count = result.expect("bytes") as usize;
        buffer = payload.into_buffer().expect("the buffer");
        if count == 0 {
            break;
        }
        all.extend_from_slice(&buffer.bytes()[..count]);
    }
    all
}

#[test]
fn a_gathered_send_far_larger_than_the_socket_buffer_arrives_whole_and_in_order() {
    on_both_backends(|mut reactor| {
        let (ours, theirs) = Socket::pair().unwrap();
        // More slices than one system call takes, and more bytes than the socket holds.
        let replies = Replies::new(1500, 4096);
        let expected = replies.flat();
        send(&mut reactor, 1, &ours, replies);
        let (mut got, mut buffer, mut sent) = (Vec::new(), Some(IoBuffer::zeroed(10_000)), None);
        let mut found = Vec::new();
        while got.len() < expected.len() || sent.is_none() {
            if let Some(buffer) = buffer.take_if(|_| got.len() < expected.len()) {
                receive(&mut reactor, 2, &theirs, buffer);
            }
            reactor.wait(Some(PATIENCE), &mut found).unwrap();
            for done in found.drain(..) {
                if let Payload::Batch(batch) = done.payload {
                    assert_eq!(done.result.unwrap() as usize, expected.len());
                    sent = Some((batch as Box<dyn Any>).downcast::<Replies>().expect("our own batch comes back"));
                } else {
                    let back = done.payload.into_buffer().unwrap();
                    got.extend_from_slice(&back.bytes()[..done.result.unwrap() as usize]);
                    buffer = Some(back);
                }
            }
        }
        assert!(got == expected);
        assert_eq!(sent.unwrap().headers.len(), 1500);
    });
}

#[test]
fn quiet_sends_into_a_socket_that_fills_up_arrive_whole_and_complete_once_each() {
    on_both_backends(|mut reactor| {
        let (ours, theirs) = Socket::pair().unwrap();
        // Of many sizes, so that the last one before the socket is full is cut in the middle.
        let batches: Vec<Vec<u8>> =
            (0..400).map(|index| patterned(4096, index).bytes()[..700 + index as usize].into()).collect();
        let expected = batches.concat();
        let (mut batches, mut sending, mut sent, mut got) = (batches.into_iter(), false, 0, Vec::new());
        let (mut buffer, mut found) = (Some(IoBuffer::zeroed(4096)), Vec::new());
        loop {
            if !sending && let Some(batch) = batches.next() {
                let batch = Box::new(batch);
                reactor.submit(1, Operation::Send { socket: ours.clone(), batch, quiet: true });
                sending = true;
            }
            // While a send goes on it does so alone: the socket fills up. Only then somebody reads.
            reactor.wait(Some(Duration::from_millis(5)), &mut found).unwrap();
            if found.is_empty() {
                if got.len() == expected.len() && !sending {
                    break;
                }
                let room = buffer.take().expect("one receive at a time");
                receive(&mut reactor, 2, &theirs, room);
                reactor.wait(Some(PATIENCE), &mut found).unwrap();
            }
            for done in found.drain(..) {
                match (done.token, done.payload) {
                    (1, Payload::Batch(batch)) => {
                        let batch = (batch as Box<dyn Any>).downcast::<Vec<u8>>().expect("our own batch");
                        assert_eq!(done.result.unwrap() as usize, batch.len());
                        (sending, sent) = (false, sent + batch.len());
                    }
                    (2, payload) => {
                        let back = payload.into_buffer().unwrap();
                        got.extend_from_slice(&back.bytes()[..done.result.unwrap() as usize]);
                        buffer = Some(back);
                    }
                    (token, payload) => panic!("{token} {payload:?}"),
                }
            }
        }
        assert_eq!(sent, expected.len());
        assert!(got == expected);
        assert_eq!(reactor.in_flight(), 0);
    });
}

#[test]
fn a_quiet_send_reaches_the_peer_at_once_and_fails_like_any_other() {
    on_both_backends(|mut reactor| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let ours = Socket::adopt(ours.into()).unwrap();
        reactor.submit(1, Operation::Send { socket: ours.clone(), batch: Box::new(vec![7; 100]), quiet: true });
        let mut found = Vec::new();
        reactor.wait(Some(Duration::from_millis(1)), &mut found).unwrap();
        let mut got = [0; 100];
        (&theirs).read_exact(&mut got).unwrap();
        assert_eq!(got, [7; 100]);
        if found.is_empty() {
            found.push(completion(&mut reactor));
        }
        assert_eq!(found.remove(0).result.unwrap(), 100);
        drop(theirs);
        reactor.submit(2, Operation::Send { socket: ours, batch: Box::new(vec![7; 100]), quiet: true });
        let mut found = Vec::new();
        while found.is_empty() {
            reactor.wait(Some(Duration::from_millis(1)), &mut found).unwrap();
        }
        assert_eq!(found[0].result.as_ref().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    });
}

#[test]
#[allow(clippy::disallowed_methods)] // A peer of its own.
fn a_wait_is_not_ended_by_a_quiet_send_but_by_what_comes_after_it() {
    let Ok(mut reactor) = Reactor::new(ReactorConfig { queue_depth: 64, backend: Backend::Uring }) else { return };
    let (ours, theirs) = UnixStream::pair().unwrap();
    let ours = Socket::adopt(ours.into()).unwrap();
    receive(&mut reactor, 1, &ours, IoBuffer::zeroed(4096));
    reactor.submit(2, Operation::Send { socket: ours.clone(), batch: Box::new(vec![7; 100]), quiet: true });
    let peer = std::thread::spawn(move || {
        // Answers only what it was sent, a while later.
        (&theirs).read_exact(&mut [0; 100]).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        (&theirs).write_all(b"pong").unwrap();
        theirs
    });
    let mut found = Vec::new();
    reactor.wait(Some(PATIENCE), &mut found).unwrap();
    let mut tokens: Vec<_> = found.iter().map(|done| done.token).collect();
    tokens.sort_unstable();
    assert_eq!(tokens, [1, 2], "one wait for both");
    drop(peer.join());
}

#[test]
fn an_echo_over_tcp_and_over_a_unix_socket_returns_what_was_sent() {
    on_both_backends(|mut reactor| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        for listener in [Listener::tcp("127.0.0.1:0".parse().unwrap()).unwrap(), Listener::unix(&path).unwrap()] {
            let client = match listener.tcp_address() {
                Some(address) => Socket::connect_tcp(address).unwrap(),
                None => Socket::connect_unix(&path).unwrap(),
            };
            let server = accept(&mut reactor, &listener);
            assert_eq!(server.peer() == "local", listener.tcp_address().is_none());
            for round in 0..20 {
                let question = patterned(4096 * (round + 1), round as u64).bytes().to_vec();
                send(&mut reactor, 1, &client, question.clone());
                completion(&mut reactor).result.unwrap();
                let heard = receive_all(&mut reactor, &server, question.len());
                send(&mut reactor, 2, &server, heard);
                completion(&mut reactor).result.unwrap();
                assert!(receive_all(&mut reactor, &client, question.len()) == question);
            }
            drop(client);
            assert!(receive_all(&mut reactor, &server, 1).is_empty(), "the end of the stream");
        }
    });
}

#[test]
fn a_pending_accept_and_a_pending_receive_complete_when_the_peer_comes() {
    on_both_backends(|mut reactor| {
        let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.tcp_address().unwrap();
        reactor.submit(1, Operation::Accept { listener: listener.clone() });
        reactor.wait(Some(std::time::Duration::from_millis(20)), &mut Vec::new()).unwrap();
        let client = Socket::connect_tcp(address).unwrap();
        let server = completion(&mut reactor).payload.into_socket().unwrap();
        receive(&mut reactor, 2, &server, IoBuffer::zeroed(4096));
        let mut found = Vec::new();
        reactor.wait(Some(std::time::Duration::from_millis(20)), &mut found).unwrap();
        assert!(found.is_empty());
        send(&mut reactor, 3, &client, vec![1, 2, 3]);
        let done = completions(&mut reactor, 2);
        assert_eq!((*done[0].result.as_ref().unwrap(), *done[1].result.as_ref().unwrap()), (3, 3));
    });
}

#[test]
fn a_peer_that_resets_fails_what_is_pending_and_gives_everything_back() {
    on_both_backends(|mut reactor| {
        let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let client = Socket::connect_tcp(listener.tcp_address().unwrap()).unwrap();
        let server = accept(&mut reactor, &listener);
        // To close with bytes unread resets the connection; the send is larger than what both ends hold.
        send(&mut reactor, 1, &server, vec![7; 64 << 20]);
        receive(&mut reactor, 2, &server, IoBuffer::zeroed(4096));
        let mut found = Vec::new();
        reactor.wait(Some(std::time::Duration::from_millis(50)), &mut found).unwrap();
        assert!(found.is_empty());
        drop(client);
        let done = completions(&mut reactor, 2);
        let kind = done[0].result.as_ref().unwrap_err().kind();
        assert!(matches!(kind, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe), "{kind}");
        assert!(matches!(done[0].payload, Payload::Batch(_)));
        assert!(matches!(done[1].payload, Payload::Buffer(_)));
        // The end of the connection is told once; later sends must not end the process by a signal.
        send(&mut reactor, 3, &server, vec![7; 10]);
        assert_eq!(completion(&mut reactor).result.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    });
}

#[test]
fn a_cancelled_receive_gives_its_buffer_back_and_the_stream_goes_on() {
    on_both_backends(|mut reactor| {
        let (ours, theirs) = Socket::pair().unwrap();
        receive(&mut reactor, 7, &ours, patterned(8192, 7));
        reactor.wait(Some(std::time::Duration::ZERO), &mut Vec::new()).unwrap();
        reactor.cancel(8);
        reactor.cancel(7);
        let done = completion(&mut reactor);
        assert!(done.is_cancelled(), "{:?}", done.result);
        assert!(done.payload.into_buffer().unwrap().bytes() == patterned(8192, 7).bytes());
        send(&mut reactor, 1, &theirs, vec![1, 2, 3]);
        completion(&mut reactor).result.unwrap();
        assert_eq!(receive_all(&mut reactor, &ours, 3), [1, 2, 3]);
    });
}

#[test]
fn a_cancel_right_behind_its_submission_still_completes_it_once() {
    on_both_backends(|mut reactor| {
        let (ours, theirs) = Socket::pair().unwrap();
        for token in 0..500 {
            receive(&mut reactor, token, &ours, IoBuffer::zeroed(4096));
        }
        // Far more than the socket holds.
        send(&mut reactor, 500, &theirs, vec![7; 16 << 20]);
        for token in 0..=500 {
            reactor.cancel(token);
        }
        assert_eq!(completions(&mut reactor, 501).len(), 501);
        assert_eq!(reactor.in_flight(), 0);
    });
}

#[test]
fn shutting_down_ends_a_pending_receive() {
    on_both_backends(|mut reactor| {
        let (ours, _theirs) = Socket::pair().unwrap();
        receive(&mut reactor, 1, &ours, IoBuffer::zeroed(4096));
        reactor.wait(Some(std::time::Duration::ZERO), &mut Vec::new()).unwrap();
        ours.shutdown();
        assert_eq!(completion(&mut reactor).result.unwrap(), 0);
    });
}

#[test]
fn a_pair_of_pipes_serves_as_a_connection() {
    on_both_backends(|mut reactor| {
        let (mut their_receive, our_send) = io::pipe().unwrap();
        let (our_receive, mut their_send) = io::pipe().unwrap();
        let socket = Socket::adopt_pair(our_receive.into(), our_send.into()).unwrap();
        receive(&mut reactor, 1, &socket, IoBuffer::zeroed(4096));
        reactor.wait(Some(std::time::Duration::from_millis(20)), &mut Vec::new()).unwrap();
        their_send.write_all(b"question").unwrap();
        let done = completion(&mut reactor);
        assert_eq!(&done.payload.into_buffer().unwrap().bytes()[..done.result.unwrap() as usize], b"question");
        // More than a pipe holds: the reader has to be there meanwhile.
        let answer = Replies::new(100, 4096);
        let expected = answer.flat();
        let length = expected.len();
        let reader = std::thread::Builder::new().spawn(move || {
            let mut got = vec![0; length];
            their_receive.read_exact(&mut got).map(|()| got)
        });
        send(&mut reactor, 2, &socket, answer);
        assert_eq!(completion(&mut reactor).result.unwrap() as usize, length);
        assert!(reader.unwrap().join().unwrap().unwrap() == expected);
        drop(their_send);
        receive(&mut reactor, 3, &socket, IoBuffer::zeroed(4096));
        assert_eq!(completion(&mut reactor).result.unwrap(), 0, "the end of the pipe");
    });
}

#[test]
fn sockets_that_were_set_not_to_block_are_waited_for_all_the_same() {
    on_both_backends(|mut reactor| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let ours = Socket::adopt(ours.into()).unwrap();
        receive(&mut reactor, 1, &ours, IoBuffer::zeroed(4096));
        let mut found = Vec::new();
        reactor.wait(Some(std::time::Duration::from_millis(20)), &mut found).unwrap();
        assert!(found.is_empty());
        theirs.write_all(b"late").unwrap();
        assert_eq!(completion(&mut reactor).result.unwrap(), 4);
    });
    on_both_backends(|mut reactor| {
        let listener = std::os::unix::net::UnixListener::bind_addr(&abstract_address()).unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = Listener::adopt(listener.into()).unwrap();
        reactor.submit(1, Operation::Accept { listener });
        let mut found = Vec::new();
        reactor.wait(Some(std::time::Duration::from_millis(20)), &mut found).unwrap();
        assert!(found.is_empty());
        let _client = UnixStream::connect_addr(&address).unwrap();
        assert!(completion(&mut reactor).payload.into_socket().is_some());
    });
}

fn abstract_address() -> std::os::unix::net::SocketAddr {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("reactor-test-{}", std::process::id());
    std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap()
}

#[test]
fn a_unix_socket_is_its_owners_alone_and_replaces_only_a_dead_ones_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = Listener::unix(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(Listener::unix(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    drop(listener);
    assert!(!path.exists(), "a listener takes its file along");
    // A listener that dies without a word leaves its file.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(Listener::unix(&path).unwrap());
    std::fs::write(&path, "not a socket").unwrap();
    assert_eq!(Listener::unix(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    assert!(path.exists());
}

#[test]
fn a_connection_goes_on_at_another_threads_reactor() {
    on_both_backends(|mut reactor| {
        let backend = reactor.backend();
        let (ours, theirs) = Socket::pair().unwrap();
        send(&mut reactor, 1, &theirs, vec![1]);
        completion(&mut reactor).result.unwrap();
        assert_eq!(receive_all(&mut reactor, &ours, 1), [1]);
        let other = std::thread::Builder::new().spawn(move || {
            let config = reactor::ReactorConfig { queue_depth: 64, backend };
            receive_all(&mut Reactor::new(config).unwrap(), &ours, 3)
        });
        send(&mut reactor, 2, &theirs, vec![1, 2, 3]);
        completion(&mut reactor).result.unwrap();
        assert_eq!(other.unwrap().join().unwrap(), [1, 2, 3]);
    });
}
