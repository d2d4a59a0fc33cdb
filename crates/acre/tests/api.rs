//! The operator API over raw HTTP: its guards, its bounds, its answers to nonsense.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests have threads, clocks and sockets")]

mod stand_in;

use acre::http::Limits;
use stand_in::{Server, TOKEN};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

fn converse(mut stream: impl Read + Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).expect("it takes a request");
    let mut answer = Vec::new();
    // A server may cut the connection off behind its answer.
    stream.read_to_end(&mut answer).ok();
    String::from_utf8_lossy(&answer).into_owned()
}

fn over_unix(server: &Server, request: &str) -> String {
    let path = server.folder.path().join("api.sock");
    converse(UnixStream::connect(path).expect("it listens"), request)
}

fn over_tcp(server: &Server, request: &str) -> String {
    converse(TcpStream::connect(&server.tcp).expect("it listens"), request)
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n")
}

fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("nothing")
}

#[test]
fn over_tcp_everything_but_the_health_check_needs_the_token() {
    let server = Server::start(Limits::default());
    assert_eq!(status(&over_tcp(&server, &get("/healthz", ""))), "200");
    for path in ["/metrics", "/v1/pools", "/openapi.json", "/nothing"] {
        let answer = over_tcp(&server, &get(path, ""));
        assert_eq!(status(&answer), "401", "{path}");
        assert!(answer.to_ascii_lowercase().contains("www-authenticate: bearer"), "{answer}");
        let wrong = format!("authorization: Bearer {TOKEN}0\r\n");
        assert_eq!(status(&over_tcp(&server, &get(path, &wrong))), "401", "{path}");
    }
    let right = format!("authorization: Bearer {TOKEN}\r\n");
    assert_eq!(status(&over_tcp(&server, &get("/metrics", &right))), "200");
    assert_eq!(status(&over_tcp(&server, &get("/nothing", &right))), "404");
}

#[test]
fn over_the_unix_socket_permissions_are_the_guard() {
    let server = Server::start(Limits::default());
    let page = over_unix(&server, &get("/metrics", ""));
    assert_eq!(status(&page), "200");
    assert!(page.contains("text/plain; version=0.0.4") && page.contains("acre_build_info{version="), "{page}");
    assert!(over_unix(&server, &get("/openapi.json", "")).contains("\"/v1/volumes/{name}/map\""));
}

#[test]
fn nonsense_is_answered_with_a_kind_and_a_message() {
    let server = Server::start(Limits::default());
    let cases = [
        (post("/v1/pools", "{"), "400"),
        (post("/v1/pools", "{\"name\":\"a\",\"colour\":\"red\"}"), "400"),
        (post("/v1/pools", "{\"name\":\"a/b\"}"), "400"),
        (post("/v1/volumes", "{\"name\":\"a\",\"size_bytes\":-1}"), "400"),
        (post("/v1/volumes/none/resize", "{\"size_bytes\":1}"), "404"),
        (get("/v1/disks/one", ""), "400"),
        (get("/v1/volumes?colour=red", ""), "400"),
        (get("/v1/audit", ""), "405"),
        (get("/v2/pools", ""), "404"),
    ];
    for (request, expected) in cases {
        let answer = over_unix(&server, &request);
        assert_eq!(status(&answer), expected, "{request}\n{answer}");
        assert!(answer.contains("\"kind\":") && answer.contains("\"message\":"), "{answer}");
    }
    let created = over_unix(&server, &post("/v1/pools", "{\"name\":\"a\"}"));
    assert_eq!(status(&created), "201", "{created}");
}

#[test]
fn a_body_that_is_too_large_is_refused() {
    let server = Server::start(Limits::default());
    let answer = over_unix(&server, &post("/v1/pools", &" ".repeat(140 << 10)));
    assert_eq!(status(&answer), "400", "{answer}");
}

#[test]
fn a_connection_that_says_nothing_is_closed_and_one_too_many_is_too() {
    let limits = Limits { connections_max: 2, header_within: Duration::from_millis(300), ..Limits::default() };
    let server = Server::start(limits);
    let path = server.folder.path().join("api.sock");
    let mut silent = UnixStream::connect(&path).unwrap();
    silent.write_all(b"GET /metrics HT").unwrap();
    let mut silent_too = UnixStream::connect(&path).unwrap();
    let mut one_too_many = UnixStream::connect(&path).unwrap();
    assert_eq!(one_too_many.read(&mut [0; 16]).unwrap_or(0), 0);
    let started = Instant::now();
    let mut rest = Vec::new();
    silent.read_to_end(&mut rest).ok();
    silent_too.read_to_end(&mut rest).ok();
    assert!(started.elapsed() < Duration::from_secs(5));
    // What they held is free again.
    let deadline = Instant::now() + Duration::from_secs(5);
    while status(&over_unix(&server, &get("/healthz", ""))) != "200" {
        assert!(Instant::now() < deadline, "the connections' room has not come back");
    }
}
