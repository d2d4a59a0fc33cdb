//! Shrinking a volume that has an origin while nobody has it attached: it is attached for that, and its session does it.
//!
//! What such a volume holds beyond its new end may be its origin's pages, of which it has none of its own to cut. A session
//! trims them as a host would: its own table says "zeroes" from then on, and the origin keeps what is its.

use crate::engine::Controller;
use crate::event::{ApiId, Effect};
use api::Error;
use model::{Time, VolumeId};
use std::time::Duration;

/// How long an operator waits for a volume to be attached.
const ATTACH_PATIENCE: Duration = Duration::from_secs(20);

/// A volume that is to be shrunk once it is attached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shrink {
    reply_to: ApiId,
    size_bytes: u64,
    deadline: Time,
}

impl Controller {
    /// Has a volume attached, which is to be shrunk then.
    pub(crate) fn attach_to_shrink(&mut self, reply_to: ApiId, volume: VolumeId, size_bytes: u64) {
        let deadline = self.now + ATTACH_PATIENCE;
        self.shrinks.insert(volume, Shrink { reply_to, size_bytes, deadline });
        self.effects.push(Effect::Attach(volume));
        self.wake_at(deadline);
    }

    /// A volume has a session, whoever wanted it.
    pub(crate) fn shrink_attached(&mut self, volume: VolumeId) {
        if let Some((epoch, agent)) = self.live_holder(volume)
            && let Some(Shrink { reply_to, size_bytes, .. }) = self.shrinks.remove(&volume)
        {
            self.order_resize(epoch, agent, volume, reply_to, size_bytes, Some(size_bytes));
        }
    }

    /// Operators do not wait for ever.
    pub(crate) fn shrink_timer(&mut self) {
        let now = self.now;
        let late = |shrink: &Shrink| shrink.deadline <= now;
        for (volume, Shrink { reply_to, .. }) in
            self.shrinks.extract_if(.., |_, shrink| late(shrink)).collect::<Vec<_>>()
        {
            let name = self.volumes.get(&volume).map_or("", |volume| &volume.record.name);
            let message = format!("volume {name:?} could not be attached to be shrunk; nothing was changed, try again");
            self.reply(reply_to, Err(Error::unavailable(message)));
        }
        if let Some(deadline) = self.shrinks.values().map(|shrink| shrink.deadline).min() {
            self.wake_at(deadline);
        }
    }
}
