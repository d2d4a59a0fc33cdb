//! Something else that serves NBD, in place of the product: it proves the tests before, and apart from, what they test.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::client::Endpoint;
use crate::tool::{eventually, run};

/// One qemu-nbd for each volume, over a sparse file.
#[derive(Debug, Default)]
pub struct Standin {
    volumes: BTreeMap<String, PathBuf>,
    children: BTreeMap<String, Child>,
}

impl Standin {
    /// A stand-in when `ACRE_STANDIN` asks for one.
    pub(crate) fn wanted() -> Option<Standin> {
        std::env::var_os("ACRE_STANDIN").map(|_| Standin::default())
    }

    pub(crate) fn endpoint(&self, volume: &str) -> Endpoint {
        Endpoint::Unix(self.volumes.get(volume).cloned().unwrap_or_default())
    }

    pub(crate) fn create_volume(&mut self, folder: &Path, name: &str, size: &str) -> Result<()> {
        let file = folder.join(format!("{name}.raw"));
        run("truncate", &["-s", size, &file.display().to_string()])?;
        self.volumes.insert(name.to_owned(), folder.join(format!("{name}.sock")));
        self.launch(folder)?;
        self.wait_until_ready()
    }

    pub(crate) fn delete_volume(&mut self, folder: &Path, name: &str) -> Result<()> {
        if let Some(mut child) = self.children.remove(name) {
            child.kill()?;
            child.wait()?;
        }
        self.volumes.remove(name);
        std::fs::remove_file(folder.join(format!("{name}.raw"))).context("no such stand-in volume")
    }

    pub(crate) fn launch(&mut self, folder: &Path) -> Result<()> {
        for (name, socket) in &self.volumes {
            if self.children.contains_key(name) {
                continue;
            }
            std::fs::remove_file(socket).ok();
            let log = File::options().create(true).append(true).open(folder.join("server.log"))?;
            let mut command = Command::new("qemu-nbd");
            command.args(["--persistent", "--shared=32", "--format=raw", "--discard=unmap", "--detect-zeroes=unmap"]);
            command.arg(format!("--export-name={name}")).arg(format!("--socket={}", socket.display()));
            command.arg(folder.join(format!("{name}.raw"))).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            self.children.insert(name.clone(), command.spawn().context("cannot start qemu-nbd")?);
        }
        Ok(())
    }

    pub(crate) fn wait_until_ready(&self) -> Result<()> {
        for socket in self.volumes.values() {
            let endpoint = Endpoint::Unix(socket.clone());
            eventually("the stand-in listens", Duration::from_secs(10), || Ok(endpoint.connect().is_ok()))?;
        }
        Ok(())
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        for (_, mut child) in std::mem::take(&mut self.children) {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Standin {
    fn drop(&mut self) {
        self.kill().ok();
    }
}
