//! What a snapshot of the store tells: the audit, and volumes' maps. Pure reading; works offline as well.

mod audit;
mod map;
mod units;

pub use audit::audit;
pub use map::volume_map;

use crate::event::Inspection;
use crate::fetch::fold_pairs;
use api::Response;
use model::{BranchId, EntryRun, Generation, PageIndex, RegionSize};
use std::ops::ControlFlow;
use store::{Key, KeyRange, StoreError, StoreView};

/// Answers an [`crate::Effect::Inspect`].
///
/// # Errors
/// What an operator is told.
pub fn answer(view: &(impl StoreView + ?Sized), inspection: &Inspection) -> Result<Response, api::Error> {
    match inspection {
        Inspection::Audit => audit(view).map(Response::Audit).map_err(|error| store_error(&error)),
        Inspection::VolumeMap { volume, query } => volume_map(view, *volume, *query).map(Response::VolumeMap),
    }
}

fn store_error(error: &StoreError) -> api::Error {
    match error {
        StoreError::Full | StoreError::Failed(_) => api::Error::unavailable(error.to_string()),
        StoreError::Corrupt(_) | StoreError::NewerVersion { .. } => api::Error::corrupt(error.to_string()),
    }
}

/// What is known of a branch before its table is read.
#[derive(Clone, Copy, Debug)]
struct Shape {
    generation: Generation,
    region_size: RegionSize,
}

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Calls `visit` with each page of the tables in `range`, folded, or with the error that reading it gave. `shape_of` says
/// what is known of a branch; pages of a branch it does not know are visited as errors.
fn for_each_page(
    view: &(impl StoreView + ?Sized),
    range: &KeyRange,
    shape_of: impl Fn(BranchId) -> Option<Shape>,
    mut visit: impl FnMut(BranchId, PageIndex, Result<Vec<EntryRun>, StoreError>),
) -> Result<(), StoreError> {
    let mut current: Option<(BranchId, PageIndex)> = None;
    let mut pairs: Pairs = Vec::new();
    let mut fold = |at: Option<(BranchId, PageIndex)>, pairs: &mut Pairs| {
        let Some((branch, page)) = at else { return };
        let pairs = std::mem::take(pairs);
        let runs = match shape_of(branch) {
            Some(shape) => fold_pairs(&pairs, page, shape.generation, shape.region_size).map(|found| found.runs),
            None => Err(StoreError::Corrupt(format!("{branch} is no volume's"))),
        };
        visit(branch, page, runs);
    };
    view.scan(range, &mut |key, value| {
        if let Some(Key::Table(branch, page, _, _)) = Key::decode(key) {
            if current != Some((branch, page)) {
                fold(current, &mut pairs);
                current = Some((branch, page));
            }
            pairs.push((key.to_vec(), value.to_vec()));
        }
        ControlFlow::Continue(())
    })?;
    fold(current, &mut pairs);
    Ok(())
}
