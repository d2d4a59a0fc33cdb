//! Snapshots, clones, diffs and schedules over HTTP.

use super::extract::{Answer, Body, Control, Path, Query, answer, done};
use crate::calendar;
use api::{
    CloneCreate, Diff, DiffQuery, Error, Request, Schedule, ScheduleSet, Snapshot, SnapshotCreate, SnapshotRename,
    Volume, VolumeRollback, split_snapshot_name,
};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;

/// Of which volume.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct OfVolume {
    /// Only this volume's.
    volume: Option<String>,
}

/// Whether to go through with deleting a snapshot.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Forced {
    /// Even if hosts have it attached, who then get errors.
    #[serde(default)]
    force: bool,
}

/// The name of a snapshot in a path, told off early when it is none.
fn checked(name: String) -> Answer<String> {
    split_snapshot_name(&name)?;
    Ok(name)
}

/// Every snapshot, by volume and then by age, the oldest first.
#[utoipa::path(get, path = "/v1/snapshots", params(OfVolume),
    responses((status = 200, body = Vec<Snapshot>), (status = "default", body = Error)))]
pub(super) async fn snapshot_list(State(state): Control, Query(of): Query<OfVolume>) -> Answer<Json<Vec<Snapshot>>> {
    answer!(state, Request::SnapshotList { volume: of.volume }, Snapshots).map(Json)
}

/// Takes snapshots of one or several volumes at one moment.
#[utoipa::path(post, path = "/v1/snapshots", request_body = SnapshotCreate,
    responses((status = 201, body = Vec<Snapshot>), (status = "default", body = Error)))]
pub(super) async fn snapshot_create(
    State(state): Control,
    Body(create): Body<SnapshotCreate>,
) -> Answer<impl IntoResponse> {
    let now_unix_seconds = calendar::now_unix_seconds();
    let request = Request::SnapshotCreate { create, scheduled: false, now_unix_seconds };
    answer!(state, request, Snapshots).map(|snapshots| (StatusCode::CREATED, Json(snapshots)))
}

/// One snapshot.
#[utoipa::path(get, path = "/v1/snapshots/{name}", params(("name" = String, Path, description = "VOL@NAME")),
    responses((status = 200, body = Snapshot), (status = "default", body = Error)))]
pub(super) async fn snapshot_show(State(state): Control, Path(name): Path<String>) -> Answer<Json<Snapshot>> {
    answer!(state, Request::SnapshotShow { name: checked(name)? }, Snapshot).map(Json)
}

/// Deletes a snapshot; its space comes back in the background.
#[utoipa::path(delete, path = "/v1/snapshots/{name}", params(("name" = String, Path, description = "VOL@NAME"), Forced),
    responses((status = 204), (status = "default", body = Error)))]
pub(super) async fn snapshot_delete(
    State(state): Control,
    Path(name): Path<String>,
    Query(forced): Query<Forced>,
) -> Answer<StatusCode> {
    done(&state, Request::SnapshotDelete { name: checked(name)?, force: forced.force }).await
}

/// Changes a snapshot's name.
#[utoipa::path(post, path = "/v1/snapshots/{name}/rename", params(("name" = String, Path, description = "VOL@NAME")),
    request_body = SnapshotRename, responses((status = 200, body = Snapshot), (status = "default", body = Error)))]
pub(super) async fn snapshot_rename(
    State(state): Control,
    Path(name): Path<String>,
    Body(rename): Body<SnapshotRename>,
) -> Answer<Json<Snapshot>> {
    answer!(state, Request::SnapshotRename { name: checked(name)?, rename }, Snapshot).map(Json)
}

/// Makes a volume that begins as a snapshot is.
#[utoipa::path(post, path = "/v1/clones", request_body = CloneCreate,
    responses((status = 201, body = Volume), (status = "default", body = Error)))]
pub(super) async fn clone_create(State(state): Control, Body(clone): Body<CloneCreate>) -> Answer<impl IntoResponse> {
    answer!(state, Request::CloneCreate(clone), Volume).map(|volume| (StatusCode::CREATED, Json(volume)))
}

/// Copies what a clone shares with its origin, in the background, and cuts it loose.
#[utoipa::path(post, path = "/v1/volumes/{name}/flatten", params(("name" = String, Path)),
    responses((status = 200, body = Volume), (status = "default", body = Error)))]
pub(super) async fn clone_flatten(State(state): Control, Path(name): Path<String>) -> Answer<Json<Volume>> {
    answer!(state, Request::CloneFlatten { name }, Volume).map(Json)
}

/// Ends the flattening of a clone before its time: what was copied stays its own, the rest stays shared.
#[utoipa::path(delete, path = "/v1/volumes/{name}/flatten", params(("name" = String, Path)),
    responses((status = 200, body = Volume), (status = "default", body = Error)))]
pub(super) async fn clone_flatten_cancel(State(state): Control, Path(name): Path<String>) -> Answer<Json<Volume>> {
    answer!(state, Request::CloneFlattenCancel { name }, Volume).map(Json)
}

/// Makes a volume what it was at a snapshot; what was written since is lost.
#[utoipa::path(post, path = "/v1/volumes/{name}/rollback", params(("name" = String, Path)),
    request_body = VolumeRollback, responses((status = 200, body = Volume), (status = "default", body = Error)))]
pub(super) async fn volume_rollback(
    State(state): Control,
    Path(name): Path<String>,
    Body(rollback): Body<VolumeRollback>,
) -> Answer<Json<Volume>> {
    answer!(state, Request::VolumeRollback { name, rollback }, Volume).map(Json)
}

/// What changed from one view to another, a part at a time.
#[utoipa::path(get, path = "/v1/diff", params(DiffQuery),
    responses((status = 200, body = Diff), (status = "default", body = Error)))]
pub(super) async fn diff(State(state): Control, Query(query): Query<DiffQuery>) -> Answer<Json<Diff>> {
    answer!(state, Request::Diff(query), Diff).map(Json)
}

/// Every schedule, by volume.
#[utoipa::path(get, path = "/v1/schedules",
    responses((status = 200, body = Vec<Schedule>), (status = "default", body = Error)))]
pub(super) async fn schedule_list(State(state): Control) -> Answer<Json<Vec<Schedule>>> {
    answer!(state, Request::ScheduleList, Schedules).map(Json)
}

/// Gives a volume a snapshot schedule, or another one.
#[utoipa::path(put, path = "/v1/volumes/{name}/schedule", params(("name" = String, Path)), request_body = ScheduleSet,
    responses((status = 200, body = Schedule), (status = "default", body = Error)))]
pub(super) async fn schedule_set(
    State(state): Control,
    Path(name): Path<String>,
    Body(set): Body<ScheduleSet>,
) -> Answer<Json<Schedule>> {
    set.check()?;
    answer!(state, Request::ScheduleSet { name, set }, Schedule).map(Json)
}

/// Takes a volume's schedule away; its snapshots stay.
#[utoipa::path(delete, path = "/v1/volumes/{name}/schedule", params(("name" = String, Path)),
    responses((status = 204), (status = "default", body = Error)))]
pub(super) async fn schedule_delete(State(state): Control, Path(name): Path<String>) -> Answer<StatusCode> {
    done(&state, Request::ScheduleDelete { name }).await
}
