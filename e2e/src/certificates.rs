//! Certificates for TLS tests, made by openssl: an authority, a server and clients.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::tool::run;

/// A folder of certificates.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
}

impl Authority {
    /// Makes an authority with a server's certificate for `localhost`, in a new folder of this name.
    pub fn new(folder: &Path) -> Result<Authority> {
        std::fs::create_dir_all(folder)?;
        let authority = Authority { folder: folder.to_path_buf() };
        let mut arguments = vec!["req", "-x509", "-nodes", "-days", "30", "-subj", "/CN=test authority"];
        arguments.extend(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        let (key, certificate) = (authority.path("ca-key.pem"), authority.path("ca-cert.pem"));
        arguments.extend(["-keyout", &key, "-out", &certificate]);
        run("openssl", &arguments)?;
        authority.issue("server", "localhost", "subjectAltName=DNS:localhost,IP:127.0.0.1", "serverAuth")?;
        Ok(authority)
    }

    /// Where one of its files lies: `ca-cert.pem`, `server-cert.pem`, `server-key.pem`.
    pub fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// Makes a client's certificate in a folder of its own, laid out as libnbd wants it, and gives that folder.
    pub fn client(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder)?;
        self.issue(name, name, &format!("subjectAltName=DNS:{name}"), "clientAuth")?;
        std::fs::copy(self.path("ca-cert.pem"), folder.join("ca-cert.pem"))?;
        for part in ["cert", "key"] {
            std::fs::rename(self.path(&format!("{name}-{part}.pem")), folder.join(format!("client-{part}.pem")))?;
        }
        Ok(folder)
    }

    /// A folder for a client that only knows the authority and has no certificate.
    pub fn anonymous(&self) -> Result<PathBuf> {
        let folder = self.folder.join("anonymous");
        std::fs::create_dir_all(&folder)?;
        std::fs::copy(self.path("ca-cert.pem"), folder.join("ca-cert.pem"))?;
        Ok(folder)
    }

    fn issue(&self, file: &str, name: &str, alternative: &str, usage: &str) -> Result<()> {
        let (key, request) = (self.path(&format!("{file}-key.pem")), self.path(&format!("{file}.csr")));
        let subject = format!("/CN={name}");
        let mut arguments = vec!["req", "-new", "-nodes", "-subj", &subject, "-newkey", "ec"];
        arguments.extend(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", &key, "-out", &request]);
        run("openssl", &arguments)?;
        let extensions = self.path(&format!("{file}.ext"));
        std::fs::write(&extensions, format!("{alternative}\nextendedKeyUsage={usage}\nbasicConstraints=CA:FALSE\n"))?;
        let (authority, authority_key) = (self.path("ca-cert.pem"), self.path("ca-key.pem"));
        let certificate = self.path(&format!("{file}-cert.pem"));
        let mut arguments = vec!["x509", "-req", "-days", "30", "-in", &request, "-out", &certificate];
        arguments.extend(["-CA", &authority, "-CAkey", &authority_key, "-CAcreateserial", "-extfile", &extensions]);
        run("openssl", &arguments).map(drop)
    }
}
