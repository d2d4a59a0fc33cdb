//! Requests to the server's API over its Unix socket, without starting a program: a snapshot takes less than that.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Posts a document and gives how long the answer took; anything but success is an error with what was said.
pub(crate) fn post(socket: &Path, path: &str, body: &Value) -> Result<Duration> {
    let text = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: acre\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    );
    ask(socket, &request).map(|(_, took)| took)
}

/// Gets a page.
pub(crate) fn get(socket: &Path, path: &str) -> Result<String> {
    let answer = ask(socket, &format!("GET {path} HTTP/1.1\r\nHost: acre\r\nConnection: close\r\n\r\n"))?.0;
    let (_, body) = answer.split_once("\r\n\r\n").context("an answer has a head and a body")?;
    Ok(body.to_owned())
}

fn ask(socket: &Path, request: &str) -> Result<(String, Duration)> {
    let mut stream = UnixStream::connect(socket).with_context(|| format!("cannot reach {}", socket.display()))?;
    let begun = Instant::now();
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let took = begun.elapsed();
    let status = answer.split(' ').nth(1).unwrap_or_default();
    ensure!(status.starts_with('2'), "{request}: {answer}");
    Ok((answer, took))
}
