//! Block status: which ranges hold data.

use crate::context::Context;
use crate::event::{Effect, IoId, IoResult, StatusExtent};
use crate::volume::{Blocked, Volume};
use mapping::{BlockStatuses, Fault};
use model::{ByteRange, IoError};

/// The most extents of one answer, whatever was asked for.
const EXTENTS_MAX: u32 = 4096;
/// The most bytes looked at for one answer, in table pages.
const PAGES_MAX: u64 = 4096;

impl Volume {
    pub(crate) fn status(
        &mut self,
        context: &mut Context<'_>,
        id: IoId,
        offset: u64,
        length: u64,
        extents_max: u32,
    ) -> Result<(), Blocked> {
        let mut statuses = BlockStatuses::new();
        let most = extents_max.clamp(1, EXTENTS_MAX) as usize;
        let page_bytes = self.attachment.region_size.page_bytes();
        let mut at = offset;
        let end = (offset + length).min(offset.saturating_add(PAGES_MAX * page_bytes));
        // Page by page: what is known before a page that is not loaded makes an answer already.
        while at < end && statuses.len() < most {
            let stop = end.min((at / page_bytes + 1) * page_bytes);
            let before = statuses.iter().map(|status| status.length).sum::<u64>();
            match self.table.block_status(ByteRange::new(at, stop - at), &mut statuses, most) {
                Ok(()) => at = stop,
                Err(fault) if before > 0 => {
                    self.fault(context, fault.page());
                    break;
                }
                Err(Fault::Error(_)) => {
                    context.reply(id, Err(IoError::Device), &mut self.counters);
                    return Ok(());
                }
                Err(fault) => return Err(self.fault(context, fault.page())),
            }
        }
        let extents = statuses
            .into_iter()
            .map(|status| StatusExtent { length: status.length, zero: status.is_zero, hole: status.is_zero })
            .collect();
        context.out.push(Effect::Reply { id, result: IoResult::Status(extents) });
        Ok(())
    }
}
