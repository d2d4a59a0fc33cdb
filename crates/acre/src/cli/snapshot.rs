//! The commands about snapshots, their clones and their schedules.

use super::output::{print, print_json};
use super::{Leaf, Nothing, Output, TopConnection, operator, table};
use crate::client::Client;
use crate::schedule::{Period, Rule};
use api::{
    CloneCreate, Error, Request, Response, Schedule, ScheduleSet, SnapshotCreate, SnapshotRename, VolumeRollback,
    check_name, split_snapshot_name,
};
use clap::{Args, Subcommand};
use std::io::Write;
use std::str::FromStr;

/// A snapshot's full name, `VOL@NAME`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SnapshotName {
    pub(super) full: String,
    volume: String,
    name: String,
}

impl FromStr for SnapshotName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (volume, name) = split_snapshot_name(text)?;
        Ok(Self { full: text.into(), volume: volume.into(), name: name.into() })
    }
}

#[derive(Subcommand, Debug)]
pub(super) enum SnapshotCommand {
    /// Take a snapshot; of several volumes, all at one moment
    Create(Leaf<CreateArguments>),
    /// List every snapshot, the oldest first
    List(Leaf<OfVolume>),
    /// Show one snapshot
    Show(Leaf<OneSnapshot>),
    /// Delete snapshots and give their space back
    Delete(Leaf<DeleteArguments>),
    /// Change a snapshot's name; a scheduled one with a name of its own is not deleted by its schedule
    Rename(Leaf<RenameArguments>),
    /// Have snapshots of a volume taken and deleted; without options, show its schedule
    Schedule(Leaf<ScheduleArguments>),
    /// List every schedule
    Schedules(Leaf<Nothing>),
}

#[derive(Args, Debug)]
pub(super) struct CreateArguments {
    /// The volume, an '@' and the snapshot's name
    #[arg(value_name = "VOL@NAME", required = true)]
    snapshots: Vec<SnapshotName>,
}

#[derive(Args, Debug)]
pub(super) struct OfVolume {
    /// Only those of this volume
    volume: Option<String>,
}

#[derive(Args, Debug)]
pub(super) struct OneSnapshot {
    /// Its full name
    #[arg(value_name = "VOL@NAME")]
    snapshot: SnapshotName,
}

#[derive(Args, Debug)]
pub(super) struct DeleteArguments {
    /// Their full names
    #[arg(value_name = "VOL@NAME", required = true)]
    snapshots: Vec<SnapshotName>,
    /// Even if hosts have them attached, who then get errors
    #[arg(long)]
    force: bool,
}

#[derive(Args, Debug)]
pub(super) struct RenameArguments {
    /// Its full name
    #[arg(value_name = "VOL@NAME")]
    snapshot: SnapshotName,
    /// The new name, with or without the volume's
    new_name: String,
}

#[derive(Args, Debug)]
pub(super) struct ScheduleArguments {
    /// The volume
    volume: String,
    /// The time from one snapshot to the next, as in 15m, 24h, 7d or 2w
    #[arg(long, value_name = "TIME", requires = "keep")]
    every: Option<Period>,
    /// What to keep, as in 24h:all,7d:hourly,90d:daily: for how long, and all of that time or the first of each hour, day,
    /// week, month (of 30 days) or time
    #[arg(long, value_name = "TIME:EACH", value_delimiter = ',', requires = "every")]
    keep: Vec<Rule>,
    /// Take no more; the snapshots stay
    #[arg(long, conflicts_with_all = ["every", "keep"])]
    off: bool,
}

/// What `acre clone` is to do: clone a snapshot, whose name has an '@', or flatten.
#[derive(Clone, Debug)]
enum CloneWhat {
    Snapshot(SnapshotName),
    Flatten,
}

impl FromStr for CloneWhat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text == "flatten" { Ok(Self::Flatten) } else { text.parse().map(Self::Snapshot) }
    }
}

#[derive(Args, Debug)]
pub(super) struct CloneArguments {
    /// The snapshot to begin from, or `flatten`
    #[arg(value_name = "VOL@NAME|flatten")]
    what: CloneWhat,
    /// The new volume's name; with `flatten`, the clone to cut loose from its origin
    #[arg(value_name = "NAME")]
    name: String,
    /// With `flatten`: end it before its time; what was copied stays the clone's own, the rest stays shared
    #[arg(long)]
    cancel: bool,
}

#[derive(Args, Debug)]
pub(super) struct RollbackArguments {
    /// The volume, and the snapshot of it to go back to
    #[arg(value_name = "VOL@NAME")]
    snapshot: SnapshotName,
    /// Even if hosts have the volume attached, who then lose their connections
    #[arg(long)]
    force: bool,
}

impl RollbackArguments {
    pub(super) fn request(self) -> Request {
        let rollback = VolumeRollback { snapshot: self.snapshot.name, force: self.force };
        Request::VolumeRollback { name: self.snapshot.volume, rollback }
    }
}

pub(super) fn snapshot(command: SnapshotCommand, top: TopConnection, out: &mut dyn Write) -> Result<u8, Error> {
    let (request, connection) = match command {
        SnapshotCommand::Create(leaf) => {
            let snapshots = leaf.what.snapshots.into_iter().map(|snapshot| snapshot.full).collect();
            let create = SnapshotCreate { snapshots, imported_from: None };
            // The server says when.
            (Request::SnapshotCreate { create, scheduled: false, now_unix_seconds: 0 }, leaf.connection)
        }
        SnapshotCommand::List(leaf) => (Request::SnapshotList { volume: leaf.what.volume }, leaf.connection),
        SnapshotCommand::Show(leaf) => (Request::SnapshotShow { name: leaf.what.snapshot.full }, leaf.connection),
        SnapshotCommand::Delete(leaf) => {
            let (client, output) = leaf.connection.over(top)?;
            return delete(&client, leaf.what, output, out);
        }
        SnapshotCommand::Rename(leaf) => {
            let RenameArguments { snapshot, new_name } = leaf.what;
            let new_name = renamed(&snapshot, new_name)?;
            (Request::SnapshotRename { name: snapshot.full, rename: SnapshotRename { new_name } }, leaf.connection)
        }
        SnapshotCommand::Schedule(leaf) => {
            let ScheduleArguments { volume, every, keep, off } = leaf.what;
            match every {
                _ if off => (Request::ScheduleDelete { name: volume }, leaf.connection),
                Some(Period(every_seconds)) => {
                    let set = ScheduleSet { every_seconds, keep: keep.into_iter().map(|rule| rule.0).collect() };
                    set.check()?;
                    (Request::ScheduleSet { name: volume, set }, leaf.connection)
                }
                None => {
                    let (client, output) = leaf.connection.over(top)?;
                    let schedule = schedule_of(&client, &volume)?;
                    if output == Output::Json {
                        return print_json(out, &schedule).map(|()| 0);
                    }
                    return print(out, &table::schedule(&schedule)).map(|()| 0);
                }
            }
        }
        SnapshotCommand::Schedules(leaf) => (Request::ScheduleList, leaf.connection),
    };
    operator::ask(request, connection, top, out)
}

pub(super) fn clone(leaf: Leaf<CloneArguments>, top: TopConnection, out: &mut dyn Write) -> Result<u8, Error> {
    let CloneArguments { what, name, cancel } = leaf.what;
    let request = match what {
        CloneWhat::Flatten if cancel => Request::CloneFlattenCancel { name },
        CloneWhat::Flatten => Request::CloneFlatten { name },
        CloneWhat::Snapshot(_) if cancel => {
            return Err(Error::invalid("only flattening is cancelled: acre clone flatten --cancel CLONE"));
        }
        CloneWhat::Snapshot(snapshot) => {
            check_name("volume", &name)?;
            Request::CloneCreate(CloneCreate { snapshot: snapshot.full, name })
        }
    };
    operator::ask(request, leaf.connection, top, out)
}

/// Deletes one after the other, and goes on after a failure; what failed is told at the end.
fn delete(client: &Client, arguments: DeleteArguments, output: Output, out: &mut dyn Write) -> Result<u8, Error> {
    let mut failed: Option<Error> = None;
    for SnapshotName { full, .. } in arguments.snapshots {
        match client.request(&Request::SnapshotDelete { name: full.clone(), force: arguments.force }) {
            Ok(_) if output == Output::Table => print(out, &format!("deleted {full}"))?,
            Ok(_) => {}
            Err(error) => match &mut failed {
                Some(first) => first.message = format!("{}\nacre: {error}", first.message),
                None => failed = Some(error),
            },
        }
    }
    failed.map_or(Ok(0), Err)
}

/// The new name without the volume's, which must be the old one's if it is there.
fn renamed(snapshot: &SnapshotName, new_name: String) -> Result<String, Error> {
    let Some((volume, name)) = new_name.split_once('@') else {
        check_name("snapshot", &new_name)?;
        return Ok(new_name);
    };
    split_snapshot_name(&new_name)?;
    if volume != snapshot.volume {
        return Err(Error::invalid(format!(
            "{} is a snapshot of {:?} and cannot become one of {volume:?}; to have another volume like it: acre clone",
            snapshot.full, snapshot.volume
        )));
    }
    Ok(name.into())
}

fn schedule_of(client: &Client, volume: &str) -> Result<Schedule, Error> {
    let Response::Schedules(schedules) = client.request(&Request::ScheduleList)? else {
        return Err(Error::internal("the server answered another question than was asked"));
    };
    if let Some(found) = schedules.into_iter().find(|schedule| schedule.volume == volume) {
        return Ok(found);
    }
    // A volume that is not there has no schedule either, but that is not what to say.
    client.request(&Request::VolumeShow { name: volume.into() })?;
    Err(Error::not_found(format!(
        "volume {volume:?} has no schedule; give it one: acre snapshot schedule {volume} --every 1h --keep 2d:all,30d:daily"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_name_may_repeat_the_volume_but_not_change_it() {
        let old: SnapshotName = "a@mon".parse().unwrap();
        assert_eq!(renamed(&old, "tue".into()), Ok("tue".into()));
        assert_eq!(renamed(&old, "a@tue".into()), Ok("tue".into()));
        assert!(renamed(&old, "b@tue".into()).unwrap_err().message.contains("acre clone"));
        assert!(renamed(&old, "a@".into()).is_err() && renamed(&old, String::new()).is_err());
    }
}
