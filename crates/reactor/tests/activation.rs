//! Socket activation: a service manager listens, starts us, and hands its socket over as descriptor 3.

use model::IoBuffer;
use reactor::{Completion, Listener, Operation, Payload, Reactor, ReactorConfig};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

/// Tells a copy of this test that it is the service.
const SERVICE: &str = "REACTOR_TEST_SERVICE";

#[test]
fn a_service_takes_over_the_socket_that_its_manager_listens_on_once() {
    if std::env::var_os(SERVICE).is_some() {
        return serve();
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    // As service managers do, which the reactor must not mind.
    listener.set_nonblocking(true).unwrap();
    let command = r#"exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" --exact "$1""#;
    let mut service = Command::new("sh")
        .args(["-c", command])
        .arg(std::env::current_exe().unwrap())
        .arg("a_service_takes_over_the_socket_that_its_manager_listens_on_once")
        .env(SERVICE, "1")
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .spawn()
        .unwrap();
    let mut greeting = String::new();
    UnixStream::connect(&path).unwrap().read_to_string(&mut greeting).unwrap();
    assert_eq!(greeting, "welcome");
    assert!(service.wait().unwrap().success());
    assert!(path.exists(), "the file is the manager's");
}

fn serve() {
    let listeners = Listener::activated().unwrap();
    assert_eq!(listeners.len(), 1);
    assert!(Listener::activated().unwrap().is_empty(), "nobody gets them twice");
    let mut reactor = Reactor::new(ReactorConfig::default()).unwrap();
    reactor.submit(1, Operation::Accept { listener: listeners[0].clone() });
    let Payload::Socket(socket) = next(&mut reactor).payload else { panic!("no connection") };
    let batch = Box::new(b"welcome".to_vec());
    reactor.submit(2, Operation::Send { socket: socket.clone(), batch, quiet: false });
    assert_eq!(next(&mut reactor).result.unwrap(), 7);
    socket.shutdown();
    reactor.submit(3, Operation::Receive { socket, buffer: IoBuffer::zeroed(4096), start: 0, end: 4096 });
    assert_eq!(next(&mut reactor).result.unwrap(), 0);
}

fn next(reactor: &mut Reactor) -> Completion {
    let mut found = Vec::new();
    while found.is_empty() {
        reactor.wait(None, &mut found).unwrap();
    }
    found.remove(0)
}
