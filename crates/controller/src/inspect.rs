//! What a snapshot of the store tells: the audit, volumes' maps, and what changed between two views. Pure reading; works
//! offline as well.

mod audit;
mod diff;
mod map;
mod owners;
mod units;
mod view;

pub use audit::audit;
pub use diff::diff;
pub use map::volume_map;

use crate::event::Inspection;
use api::Response;
use store::{StoreError, StoreView};

/// Answers an [`crate::Effect::Inspect`].
///
/// # Errors
/// What an operator is told.
pub fn answer(view: &(impl StoreView + ?Sized), inspection: &Inspection) -> Result<Response, api::Error> {
    match inspection {
        Inspection::Audit => audit(view).map(Response::Audit).map_err(|error| store_error(&error)),
        Inspection::Diff { from, to, query } => diff(view, *from, *to, query).map(Response::Diff),
        Inspection::VolumeMap { volume, query } => volume_map(view, *volume, *query).map(Response::VolumeMap),
    }
}

fn store_error(error: &StoreError) -> api::Error {
    match error {
        StoreError::Full | StoreError::Failed(_) => api::Error::unavailable(error.to_string()),
        StoreError::Corrupt(_) | StoreError::NewerVersion { .. } => api::Error::corrupt(error.to_string()),
    }
}
