//! `acre export` and `acre import`.

use super::output::{print, print_json};
use super::{Leaf, Output, TopConnection};
use crate::client::Client;
use crate::config::Address;
use crate::transfer::{self, Export, Format, Import, nbd_address};
use api::Error;
use clap::Args;
use model::ByteSize;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

#[derive(Args, Debug)]
pub(super) struct ExportArguments {
    /// The snapshot, VOL@NAME
    snapshot: String,
    /// The file, or `-` for standard output. Until it is complete it is FILE.partial; the same command goes on with it
    file: PathBuf,
    /// Only what changed since this older snapshot of the volume
    #[arg(long, value_name = "VOL@NAME")]
    since: Option<String>,
    #[command(flatten)]
    nbd: NbdArgument,
}

#[derive(Args, Debug)]
pub(super) struct ImportArguments {
    /// A stream of `acre export`, a raw or qcow2 image, `-` for a stream on standard input, nbd://HOST/EXPORT, or
    /// nbd+unix:///EXPORT?socket=PATH
    source: String,
    /// The new volume; for an incremental stream the volume that holds what the stream builds on
    volume: String,
    /// What the source holds [default: its content decides]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The new volume's pool [default: default]
    #[arg(long)]
    pool: Option<String>,
    /// The size of the new volume's regions: a power of two from 16k to 4M [default: as exported, or 64k]
    #[arg(long, value_name = "SIZE")]
    region_size: Option<ByteSize>,
    /// Go on with an import that was cut short
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    nbd: NbdArgument,
}

#[derive(Args, Debug)]
struct NbdArgument {
    /// Where the server serves NBD: unix:PATH or HOST:PORT [default: as the server says]
    #[arg(long, value_name = "ADDRESS", env = "ACRE_NBD", help_heading = "Server")]
    nbd: Option<Address>,
}

impl NbdArgument {
    fn of(self, client: &Client) -> Result<Address, Error> {
        self.nbd.map_or_else(|| nbd_address(client), Ok)
    }
}

pub(super) fn export(leaf: Leaf<ExportArguments>, top: TopConnection, out: &mut dyn Write) -> Result<u8, Error> {
    let (client, output) = leaf.connection.over(top)?;
    let what = leaf.what;
    let to_out = what.file.as_os_str() == "-";
    if to_out && std::io::stdout().is_terminal() {
        return Err(Error::invalid(
            "a stream is nothing for a terminal; name a file, or send it on: acre export … - | …",
        ));
    }
    let what = Export {
        snapshot: what.snapshot,
        since: what.since,
        file: (!to_out).then_some(what.file),
        nbd: what.nbd.of(&client)?,
        ca: client.ca.clone(),
    };
    let report = transfer::export(&client, &what, out)?;
    // Where the stream went, nothing else may go.
    let told: &mut dyn Write = if to_out { &mut std::io::stderr() } else { out };
    match output {
        Output::Json => print_json(told, &report)?,
        Output::Table => print(told, &report.text())?,
    }
    Ok(0)
}

pub(super) fn import(leaf: Leaf<ImportArguments>, top: TopConnection, out: &mut dyn Write) -> Result<u8, Error> {
    let (client, output) = leaf.connection.over(top)?;
    let what = leaf.what;
    let what = Import {
        source: what.source,
        format: what.format,
        volume: what.volume,
        pool: what.pool,
        region_bytes: what.region_size.map(|size| size.0),
        resume: what.resume,
        nbd: what.nbd.of(&client)?,
        ca: client.ca.clone(),
    };
    let report = transfer::import(&client, &what)?;
    match output {
        Output::Json => print_json(out, &report)?,
        Output::Table => print(out, &report.text())?,
    }
    Ok(0)
}
