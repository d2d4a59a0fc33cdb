//! `acre diff`: as many answers as it takes.

use crate::client::Client;
use api::{Diff, DiffKind, DiffQuery, DiffRange, Error, Request, Response, check_name, split_snapshot_name};
use clap::Args;
use model::ByteSize;

#[derive(Args, Debug)]
pub(super) struct DiffArguments {
    /// The older view, VOL@NAME, then the younger: VOL@NAME, or VOL as it is now. With --full only the younger
    #[arg(value_name = "VIEW", num_args = 1..=2, required = true)]
    views: Vec<String>,
    /// Everything that was ever written, without an older view
    #[arg(long)]
    full: bool,
    /// From this offset of the volume on
    #[arg(long, value_name = "SIZE", default_value = "0")]
    offset: ByteSize,
    /// At most so many ranges, instead of all
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
}

impl DiffArguments {
    /// The older view and the younger.
    fn views(&self) -> Result<(Option<String>, String), Error> {
        match (self.views.as_slice(), self.full) {
            ([to], true) => Ok((None, checked(to)?)),
            ([from, to], false) => {
                split_snapshot_name(from)?;
                Ok((Some(from.clone()), checked(to)?))
            }
            ([to], false) => Err(Error::invalid(format!(
                "what changed in {to:?} since when? name an older snapshot before it, or say --full for all there is"
            ))),
            _ => Err(Error::invalid("--full compares with nothing: name one view alone")),
        }
    }
}

fn checked(view: &str) -> Result<String, Error> {
    if view.contains('@') {
        split_snapshot_name(view)?;
    } else {
        check_name("volume", view)?;
    }
    Ok(view.into())
}

/// Asks until there is as much as was wanted.
pub(super) fn fetch(client: &Client, arguments: &DiffArguments) -> Result<(Request, Response), Error> {
    let (from, to) = arguments.views()?;
    let wanted = arguments.limit.map_or(usize::MAX, |limit| limit as usize);
    let ask = |offset: u64, held: usize| {
        let limit = u32::try_from(wanted - held).unwrap_or(u32::MAX).min(DiffQuery::LIMIT_MAX);
        let request = Request::Diff(DiffQuery { from: from.clone(), to: to.clone(), offset, limit: Some(limit) });
        match client.request(&request)? {
            Response::Diff(diff) => Ok((request, diff)),
            _ => Err(Error::internal("the server answered another question than was asked")),
        }
    };
    let mut asked = arguments.offset.0;
    let (request, mut diff) = ask(asked, 0)?;
    // An answer may be empty and not the last: the server looks at a part at a time.
    while let Some(next) = diff.next_offset_bytes
        && diff.ranges.len() < wanted
    {
        if next <= asked {
            return Err(Error::internal(format!("the server does not get beyond offset {asked} of the comparison")));
        }
        asked = next;
        let (_, more) = ask(next, diff.ranges.len())?;
        append(&mut diff, more);
    }
    Ok((request, Response::Diff(diff)))
}

/// Puts an answer behind what is there; a range that was cut between the two is one again.
fn append(diff: &mut Diff, more: Diff) {
    let end = |range: &DiffRange| range.offset_bytes.saturating_add(range.length_bytes);
    for range in more.ranges {
        match diff.ranges.last_mut() {
            Some(last) if last.kind == range.kind && end(last) == range.offset_bytes => {
                last.length_bytes += range.length_bytes;
            }
            _ => diff.ranges.push(range),
        }
        match range.kind {
            DiffKind::Data => diff.data_bytes += range.length_bytes,
            DiffKind::Zero => diff.zero_bytes += range.length_bytes,
        }
    }
    diff.size_bytes = more.size_bytes;
    diff.next_offset_bytes = more.next_offset_bytes;
}
