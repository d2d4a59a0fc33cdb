//! `acre volume map`: as many answers as it takes.

use crate::client::Client;
use api::{Error, Request, Response, VolumeMapQuery};
use clap::Args;
use model::ByteSize;

#[derive(Args, Debug)]
pub(super) struct MapArguments {
    /// Its name
    name: String,
    /// From this offset of the volume on
    #[arg(long, value_name = "SIZE", default_value = "0")]
    offset: ByteSize,
    /// At most so many extents
    #[arg(long, value_name = "COUNT", default_value_t = VolumeMapQuery::LIMIT_DEFAULT, conflicts_with = "all",
        value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Every extent, however many there are
    #[arg(long)]
    all: bool,
}

/// Asks until there is as much as was wanted.
pub(super) fn fetch(client: &Client, arguments: MapArguments) -> Result<(Request, Response), Error> {
    let wanted = if arguments.all { usize::MAX } else { arguments.limit as usize };
    let ask = |offset: u64, held: usize| {
        let limit = u32::try_from(wanted - held).unwrap_or(u32::MAX).min(VolumeMapQuery::LIMIT_MAX);
        let query = VolumeMapQuery { offset, limit: Some(limit) };
        let request = Request::VolumeMap { name: arguments.name.clone(), query };
        match client.request(&request)? {
            Response::VolumeMap(map) => Ok((request, map)),
            _ => Err(Error::internal("the server answered another question than was asked")),
        }
    };
    let (request, mut map) = ask(arguments.offset.0, 0)?;
    while let Some(offset) = map.next_offset_bytes
        && map.extents.len() < wanted
    {
        let (_, more) = ask(offset, map.extents.len())?;
        if more.extents.is_empty() {
            break;
        }
        map.extents.extend(more.extents);
        map.next_offset_bytes = more.next_offset_bytes;
    }
    Ok((request, Response::VolumeMap(map)))
}
