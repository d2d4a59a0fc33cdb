//! The operator API over TLS: by an authority that the client names, and refused otherwise.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "tests have threads and sockets")]

mod stand_in;

use acre::config::{TlsChoice, TlsOptions};
use acre::http::Limits;
use acre::tls::ServerTls;
use stand_in::{Server, TOKEN};
use std::path::PathBuf;
use tempfile::TempDir;

/// A certificate for 127.0.0.1 that signs itself, in files.
struct Certificate {
    folder: TempDir,
}

impl Certificate {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).expect("a certificate");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("cert"), made.cert.pem()).expect("a file");
        std::fs::write(folder.path().join("key"), made.signing_key.serialize_pem()).expect("a file");
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn server(&self, choice: TlsChoice) -> ServerTls {
        let options = TlsOptions {
            tls: choice,
            tls_cert: Some(self.path("cert")),
            tls_key: Some(self.path("key")),
            // Hosts are asked for a certificate; operators are not.
            tls_client_ca: Some(self.path("cert")),
            ..TlsOptions::default()
        };
        ServerTls::load(&options).expect("good files").expect("TLS is not off")
    }
}

fn status(arguments: &[&str]) -> (u8, String) {
    let (mut out, mut complaint) = (Vec::new(), Vec::new());
    let code =
        acre::cli::run([&["acre", "--token", TOKEN], arguments, &["pool", "list"]].concat(), &mut out, &mut complaint);
    (code, String::from_utf8(complaint).expect("UTF-8"))
}

#[test]
fn where_tls_is_required_only_who_speaks_it_and_trusts_the_authority_gets_through() {
    let certificate = Certificate::new();
    let server = Server::with_tls(Limits::default(), Some(certificate.server(TlsChoice::Require)));
    let (https, ca) = (format!("https://{}", server.tcp), certificate.path("cert").display().to_string());
    assert_eq!(status(&["--api", &https, "--ca", &ca]), (0, String::new()));
    let other = Certificate::new().path("cert");
    assert_eq!(status(&["--api", &https, "--ca", &other.display().to_string()]).0, 2, "the folder is gone already");
    let other = Certificate::new();
    assert_eq!(status(&["--api", &https, "--ca", &other.path("cert").display().to_string()]).0, 7);
    assert_eq!(status(&["--api", &https]).0, 2);
    assert_eq!(status(&["--api", &server.tcp]).0, 7);
}

#[test]
fn where_tls_is_allowed_both_get_through() {
    let certificate = Certificate::new();
    let server = Server::with_tls(Limits::default(), Some(certificate.server(TlsChoice::Allow)));
    let (https, ca) = (format!("https://{}", server.tcp), certificate.path("cert").display().to_string());
    assert_eq!(status(&["--api", &https, "--ca", &ca]).0, 0);
    assert_eq!(status(&["--api", &server.tcp]).0, 0);
}

#[test]
fn options_that_do_not_fit_are_refused_in_words() {
    let certificate = Certificate::new();
    let options = TlsOptions { tls: TlsChoice::Require, ..TlsOptions::default() };
    assert!(ServerTls::load(&options).unwrap_err().to_string().contains("--tls-cert"));
    let swapped =
        TlsOptions { tls_cert: Some(certificate.path("key")), tls_key: Some(certificate.path("cert")), ..options };
    assert!(ServerTls::load(&swapped).is_err());
}
