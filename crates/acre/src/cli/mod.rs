//! The command line: what can be said, and where it goes.

mod diff;
mod map;
mod operator;
mod output;
mod snapshot;
mod table;
mod transfer;

use crate::client::Client;
use crate::config::{Address, DataOption, DiskSpec, ServeOptions};
use crate::{datadir, serve};
use api::{Error, ErrorKind};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use model::ByteSize;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Virtual disks far larger than the physical disks behind them, served over NBD.
///
/// `acre serve` starts a server; the other commands talk to one. Sizes are written as people write them (4096, 64k,
/// 1.5T, 10GiB; units are powers of 1,024).
#[derive(Parser, Debug)]
#[command(name = "acre", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    connection: TopConnection,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 a bug, 2 invalid, 3 not found, 4 exists, 5 busy, 6 out of space, \
    7 no server or not now, 8 forbidden, 9 needs --force, 10 damaged or the audit found something.";

/// How to reach a server, in front of the command; the environment counts here.
#[derive(Args, Clone, Debug, Default)]
struct TopConnection {
    /// The server: unix:PATH, HOST:PORT or https://HOST:PORT. [default: api.sock in ./acre-data, or in ACRE_DATA]
    #[arg(long, value_name = "ADDRESS", env = "ACRE_API")]
    api: Option<Address>,
    /// What the server asks for over TCP. [default: the file api-token in ./acre-data, or in ACRE_DATA]
    #[arg(long, value_name = "TOKEN", env = "ACRE_API_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Who may have signed the server's certificate, PEM, for https://.
    #[arg(long, value_name = "FILE", env = "ACRE_API_CA")]
    ca: Option<PathBuf>,
    /// How to print what the server answers. [default: table]
    #[arg(long, value_enum, env = "ACRE_OUTPUT")]
    output: Option<Output>,
}

/// The same behind the command.
#[derive(Args, Clone, Debug, Default)]
struct Connection {
    /// The server: unix:PATH, HOST:PORT or https://HOST:PORT
    #[arg(long, value_name = "ADDRESS", help_heading = "Server")]
    api: Option<Address>,
    /// What the server asks for over TCP
    #[arg(long, value_name = "TOKEN", help_heading = "Server")]
    token: Option<String>,
    /// Who may have signed the server's certificate, for https://
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    ca: Option<PathBuf>,
    /// How to print the answer
    #[arg(long, value_enum, help_heading = "Server")]
    output: Option<Output>,
}

/// How answers are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs: what the API answers.
    Json,
}

/// A command for a server, with how to reach it.
#[derive(Args, Debug)]
struct Leaf<T: Args> {
    #[command(flatten)]
    what: T,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Args, Debug)]
struct Nothing {}

#[derive(Subcommand, Debug)]
enum Command {
    /// Start a server: controller, node and agent in this process
    Serve(Box<ServeOptions>),
    /// Pools: free space that volumes share
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Physical disks
    #[command(subcommand)]
    Disk(DiskCommand),
    /// Volumes: what hosts see as disks
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Snapshots: volumes as they were, read-only, each an export VOL@NAME
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Make a volume that begins as a snapshot is, or flatten one
    #[command(override_usage = "acre clone VOL@NAME NEW-VOLUME\n       acre clone flatten [--cancel] CLONE")]
    Clone(Leaf<snapshot::CloneArguments>),
    /// Show what changed from a snapshot to a later one, or to now
    #[command(override_usage = "acre diff VOL@OLDER VOL@YOUNGER\n       acre diff VOL@OLDER VOL\n       \
        acre diff --full VOL@NAME")]
    Diff(Leaf<diff::DiffArguments>),
    /// Write a snapshot, or what changed since an older one, to a file
    Export(Leaf<transfer::ExportArguments>),
    /// Make a volume of a stream or an image, or apply an incremental stream to one
    Import(Leaf<transfer::ImportArguments>),
    /// The whole server at a glance
    Status(Leaf<Nothing>),
    /// Check that every region has one owner
    Audit(Leaf<AuditArguments>),
    /// Print the API's OpenAPI document
    Openapi,
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Args, Debug)]
struct AuditArguments {
    /// Read the metadata store of a server that is not running
    #[arg(long)]
    offline: bool,
    /// Its data directory; implies --offline [default: ./acre-data, or ACRE_DATA]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct Name {
    /// Its name
    name: String,
}

#[derive(Args, Debug)]
struct InPool {
    /// Only those of this pool
    #[arg(long)]
    pool: Option<String>,
}

#[derive(Subcommand, Debug)]
enum PoolCommand {
    /// Make a pool; disks are added to it with `acre disk add --pool`
    Create(Leaf<PoolCreateArguments>),
    /// List every pool
    List(Leaf<Nothing>),
    /// Show one pool
    Show(Leaf<Name>),
    /// Delete a pool without volumes; its disks are wiped of their labels
    Delete(Leaf<Name>),
}

#[derive(Args, Debug)]
struct PoolCreateArguments {
    /// Its name: letters, digits, '.', '_' and '-'
    name: String,
    /// How its logical disks hold data
    #[arg(long, value_enum, default_value = "raid0")]
    raid: RaidArgument,
    /// Alert when more than this is used
    #[arg(long, value_name = "SIZE")]
    warn: Option<ByteSize>,
    /// Grow no further than this; writes that need new regions fail beyond it
    #[arg(long, value_name = "SIZE")]
    limit: Option<ByteSize>,
    /// How large each logical disk made on demand is
    #[arg(long, value_name = "SIZE")]
    growth: Option<ByteSize>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RaidArgument {
    /// Striped, no redundancy
    Raid0,
}

#[derive(Subcommand, Debug)]
enum DiskCommand {
    /// Claim a disk for a pool: a file or a raw block device, as the server sees it
    Add(Leaf<DiskAddArguments>),
    /// List every disk
    List(Leaf<InPool>),
    /// Show one disk
    Show(Leaf<DiskId>),
}

#[derive(Args, Debug)]
struct DiskAddArguments {
    /// A file, made with SIZE if it is not there, or a block device
    #[arg(value_name = "PATH[:SIZE]")]
    disk: DiskSpec,
    /// The pool to add it to
    #[arg(long, default_value = "default")]
    pool: String,
    /// Take it even if it holds something that is not ours; what it holds is lost
    #[arg(long)]
    force: bool,
}

#[derive(Args, Debug)]
struct DiskId {
    /// Its id, as in disk-3 or 3
    #[arg(value_parser = disk_id)]
    id: u32,
}

fn disk_id(text: &str) -> Result<u32, String> {
    text.strip_prefix("disk-").unwrap_or(text).parse().map_err(|_| format!("{text:?} is no disk id such as disk-3"))
}

#[derive(Subcommand, Debug)]
enum VolumeCommand {
    /// Make a volume; it takes no space until it is written to
    Create(Leaf<VolumeCreateArguments>),
    /// List every volume
    List(Leaf<InPool>),
    /// Show one volume
    Show(Leaf<Name>),
    /// Change a volume's limits and access
    Set(Leaf<VolumeSetArguments>),
    /// Change a volume's size
    Resize(Leaf<VolumeResizeArguments>),
    /// Change a volume's name, which is its export's name too
    Rename(Leaf<VolumeRenameArguments>),
    /// Delete a volume and give its space back
    Delete(Leaf<VolumeDeleteArguments>),
    /// Make a volume what it was at a snapshot; what was written since is lost, snapshots stay
    Rollback(Leaf<snapshot::RollbackArguments>),
    /// Show who sits where: extents, states, fragmentation
    Map(Leaf<map::MapArguments>),
}

#[derive(Args, Debug)]
struct VolumeCreateArguments {
    /// Its name: letters, digits, '.', '_' and '-'
    name: String,
    /// Its size
    size: ByteSize,
    /// The pool it draws on
    #[arg(long, default_value = "default")]
    pool: String,
    /// The size of its regions, 16k to 4M: what is mapped and allocated at a time [default: 64k]
    #[arg(long, value_name = "SIZE")]
    region_size: Option<ByteSize>,
    /// Alert when it uses more than this
    #[arg(long, value_name = "SIZE")]
    warn: Option<ByteSize>,
    /// Let it use no more than this; writes that need new regions fail beyond it
    #[arg(long, value_name = "SIZE")]
    limit: Option<ByteSize>,
    /// Refuse writes
    #[arg(long)]
    read_only: bool,
}

/// A size, or none.
#[derive(Clone, Copy, Debug)]
struct SizeOrNone(u64);

impl std::str::FromStr for SizeOrNone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(0));
        }
        text.parse::<ByteSize>().map(|size| Self(size.0)).map_err(|error| format!("{error}, or `none`"))
    }
}

#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
struct Changes {
    /// Alert when it uses more than this, or `none`
    #[arg(long, value_name = "SIZE")]
    warn: Option<SizeOrNone>,
    /// Let it use no more than this, or `none`
    #[arg(long, value_name = "SIZE")]
    limit: Option<SizeOrNone>,
    /// Refuse writes (true), or take them again (false)
    #[arg(long, value_name = "BOOL")]
    read_only: Option<bool>,
}

#[derive(Args, Debug)]
struct VolumeSetArguments {
    /// Its name
    name: String,
    #[command(flatten)]
    changes: Changes,
}

#[derive(Args, Debug)]
struct VolumeResizeArguments {
    /// Its name
    name: String,
    /// The new size
    size: ByteSize,
    /// Allow a smaller size; what lies beyond it is lost
    #[arg(long)]
    shrink: bool,
}

#[derive(Args, Debug)]
struct VolumeRenameArguments {
    /// Its name
    name: String,
    /// The new name
    new_name: String,
}

#[derive(Args, Debug)]
struct VolumeDeleteArguments {
    /// Its name
    name: String,
    /// Its snapshots too
    #[arg(long)]
    snapshots: bool,
    /// Even if it holds data or hosts have it attached
    #[arg(long)]
    force: bool,
}

impl Connection {
    /// What was said behind the command, completed by what was said before it or in the environment.
    fn over(self, top: TopConnection) -> Result<(Client, Output), Error> {
        let data = std::env::var_os("ACRE_DATA").map_or_else(|| crate::config::DATA_DIRECTORY.into(), PathBuf::from);
        let address = self.api.or(top.api).unwrap_or_else(|| Address::Unix(data.join("api.sock")));
        let mut token = self.token.or(top.token);
        if token.is_none() && !matches!(address, Address::Unix(_)) {
            let path = datadir::token_path(&data);
            token = datadir::read_token(&path).map_err(|error| Error::forbidden(format!("{error:#}")))?;
        }
        let output = self.output.or(top.output).unwrap_or_default();
        Ok((Client { address, token, ca: self.ca.or(top.ca) }, output))
    }
}

/// Runs what this process was called with.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::from(run(std::env::args_os(), &mut std::io::stdout(), &mut std::io::stderr()))
}

/// Runs a command line and gives its exit code: what is asked for goes to `out`, complaints go to `complaints`.
pub fn run<I, T>(arguments: I, out: &mut dyn Write, complaints: &mut dyn Write) -> u8
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let outcome = match Cli::try_parse_from(arguments) {
        Ok(cli) => dispatch(cli, out),
        Err(usage) => {
            let text = usage.render();
            // A failure means that nobody is left to tell.
            if usage.use_stderr() { write!(complaints, "{text}") } else { write!(out, "{text}") }.ok();
            return u8::try_from(usage.exit_code()).unwrap_or(2);
        }
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            writeln!(complaints, "acre: {error}").ok();
            error.kind.exit_code()
        }
    }
}

fn dispatch(cli: Cli, out: &mut dyn Write) -> Result<u8, Error> {
    let top = cli.connection;
    match cli.command {
        Command::Serve(options) => serve::serve(*options).map_err(starting),
        Command::Pool(command) => operator::pool(command, top, out),
        Command::Disk(command) => operator::disk(command, top, out),
        Command::Volume(command) => operator::volume(command, top, out),
        Command::Snapshot(command) => snapshot::snapshot(command, top, out),
        Command::Clone(leaf) => snapshot::clone(leaf, top, out),
        Command::Diff(leaf) => operator::diff(leaf, top, out),
        Command::Export(leaf) => transfer::export(leaf, top, out),
        Command::Import(leaf) => transfer::import(leaf, top, out),
        Command::Status(leaf) => operator::status(leaf.connection, top, out),
        Command::Audit(leaf) => operator::audit(leaf, top, out),
        Command::Openapi => output::print(out, &crate::http::document()).map(|()| 0),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "acre", &mut script);
            output::print(out, &String::from_utf8_lossy(&script)).map(|()| 0)
        }
    }
}

/// Why a server did not start, as an error of the command; what is in the way decides the exit code.
fn starting(error: anyhow::Error) -> Error {
    let kind = error.downcast_ref::<Error>().map_or(ErrorKind::Unavailable, |error| error.kind);
    Error { kind, message: format!("{error:#}") }
}

/// The offline audit's data directory.
fn audited(arguments: &AuditArguments) -> Option<DataOption> {
    let default = || std::env::var_os("ACRE_DATA").map_or_else(|| crate::config::DATA_DIRECTORY.into(), PathBuf::from);
    match (&arguments.data, arguments.offline) {
        (Some(data), _) => Some(DataOption { data: data.clone() }),
        (None, true) => Some(DataOption { data: default() }),
        (None, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_server_is_named_before_or_behind_the_command_and_behind_wins() {
        let parse = |line: &str| match Cli::try_parse_from(line.split(' ')).unwrap() {
            Cli { connection, command: Command::Status(leaf) } => leaf.connection.over(connection).unwrap(),
            _ => panic!("not a status command"),
        };
        assert_eq!(parse("acre --api unix:a status").0.address, Address::Unix("a".into()));
        assert_eq!(parse("acre status --api unix:b --output json").0.address, Address::Unix("b".into()));
        let both = parse("acre --api unix:a --output json status --api unix:b");
        assert_eq!((both.0.address, both.1), (Address::Unix("b".into()), Output::Json));
    }

    #[test]
    fn serve_has_listeners_of_its_own_by_the_same_name() {
        let cli = Cli::try_parse_from("acre serve --api unix:a --api 127.0.0.1:1 --nbd unix:b --disk d:1G".split(' '));
        let Command::Serve(options) = cli.unwrap().command else { panic!("not a serve command") };
        assert_eq!(options.api.len(), 2);
        assert_eq!(options.disks[0].size_bytes, Some(1 << 30));
    }
}
