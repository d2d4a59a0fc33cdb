//! Which path is which request.

use super::extract::{Answer, Body, Control, Path, Query, answer, done};
use super::guard::{Failure, bounds};
use super::{ApiState, openapi, snapshots};
use crate::metrics;
use api::{
    AuditReport, Disk, DiskAdd, Error, Pool, PoolCreate, Request, Status, Volume, VolumeCreate, VolumeMap,
    VolumeMapQuery, VolumeRename, VolumeResize, VolumeSet,
};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::Deserialize;

/// Every path, answered from `state`; whether a token is asked for is the listener's matter.
pub fn router(state: ApiState) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics_page))
        .route("/openapi.json", get(openapi_document))
        .route("/v1/status", get(status))
        .route("/v1/audit", post(audit))
        .route("/v1/pools", get(pool_list).post(pool_create))
        .route("/v1/pools/{name}", get(pool_show).delete(pool_delete))
        .route("/v1/disks", get(disk_list).post(disk_add))
        .route("/v1/disks/{id}", get(disk_show))
        .route("/v1/volumes", get(volume_list).post(volume_create))
        .route("/v1/volumes/{name}", get(volume_show).patch(volume_set).delete(volume_delete))
        .route("/v1/volumes/{name}/resize", post(volume_resize))
        .route("/v1/volumes/{name}/rename", post(volume_rename))
        .route("/v1/volumes/{name}/map", get(volume_map))
        .route("/v1/volumes/{name}/rollback", post(snapshots::volume_rollback))
        .route("/v1/volumes/{name}/flatten", post(snapshots::clone_flatten).delete(snapshots::clone_flatten_cancel))
        .route("/v1/volumes/{name}/schedule", put(snapshots::schedule_set).delete(snapshots::schedule_delete))
        .route("/v1/snapshots", get(snapshots::snapshot_list).post(snapshots::snapshot_create))
        .route("/v1/snapshots/{name}", get(snapshots::snapshot_show).delete(snapshots::snapshot_delete))
        .route("/v1/snapshots/{name}/rename", post(snapshots::snapshot_rename))
        .route("/v1/clones", post(snapshots::clone_create))
        .route("/v1/diff", get(snapshots::diff))
        .route("/v1/schedules", get(snapshots::schedule_list))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(axum::middleware::from_fn(bounds))
        .with_state(state)
}

/// Of which pool.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct OfPool {
    /// Only this pool's.
    pool: Option<String>,
}

/// Whether to go through with deleting a volume.
#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Deletion {
    /// Even if it holds data or hosts have it attached.
    #[serde(default)]
    force: bool,
    /// Its snapshots too.
    #[serde(default)]
    snapshots: bool,
}

/// Whether the server answers; asks for no token.
#[utoipa::path(get, path = "/healthz", responses((status = 200, body = String)))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Prometheus text.
#[utoipa::path(get, path = "/metrics", responses((status = 200, body = String), (status = "default", body = Error)))]
pub(super) async fn metrics_page(State(state): Control) -> Answer<impl IntoResponse> {
    let snapshot = state.control.metrics().await.map_err(Failure)?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics::render(&snapshot)))
}

async fn openapi_document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], openapi::document())
}

/// The whole server at a glance.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = Status), (status = "default", body = Error)))]
pub(super) async fn status(State(state): Control) -> Answer<Json<Status>> {
    answer!(state, Request::Status, Status).map(|status| Json(*status))
}

/// Checks that every region has one owner.
#[utoipa::path(post, path = "/v1/audit", responses((status = 200, body = AuditReport), (status = "default", body = Error)))]
pub(super) async fn audit(State(state): Control) -> Answer<Json<AuditReport>> {
    answer!(state, Request::Audit, Audit).map(Json)
}

/// Every pool, by name.
#[utoipa::path(get, path = "/v1/pools", responses((status = 200, body = Vec<Pool>), (status = "default", body = Error)))]
pub(super) async fn pool_list(State(state): Control) -> Answer<Json<Vec<Pool>>> {
    answer!(state, Request::PoolList, Pools).map(Json)
}

/// Makes a pool.
#[utoipa::path(post, path = "/v1/pools", request_body = PoolCreate,
    responses((status = 201, body = Pool), (status = "default", body = Error)))]
pub(super) async fn pool_create(State(state): Control, Body(pool): Body<PoolCreate>) -> Answer<impl IntoResponse> {
    answer!(state, Request::PoolCreate(pool), Pool).map(|pool| (StatusCode::CREATED, Json(pool)))
}

/// One pool.
#[utoipa::path(get, path = "/v1/pools/{name}", params(("name" = String, Path)),
    responses((status = 200, body = Pool), (status = "default", body = Error)))]
pub(super) async fn pool_show(State(state): Control, Path(name): Path<String>) -> Answer<Json<Pool>> {
    answer!(state, Request::PoolShow { name }, Pool).map(Json)
}

/// Deletes a pool without volumes.
#[utoipa::path(delete, path = "/v1/pools/{name}", params(("name" = String, Path)),
    responses((status = 204), (status = "default", body = Error)))]
pub(super) async fn pool_delete(State(state): Control, Path(name): Path<String>) -> Answer<StatusCode> {
    done(&state, Request::PoolDelete { name }).await
}

/// Every disk, by id.
#[utoipa::path(get, path = "/v1/disks", params(OfPool),
    responses((status = 200, body = Vec<Disk>), (status = "default", body = Error)))]
pub(super) async fn disk_list(State(state): Control, Query(of): Query<OfPool>) -> Answer<Json<Vec<Disk>>> {
    answer!(state, Request::DiskList { pool: of.pool }, Disks).map(Json)
}

/// Claims a disk for a pool.
#[utoipa::path(post, path = "/v1/disks", request_body = DiskAdd,
    responses((status = 201, body = Disk), (status = "default", body = Error)))]
pub(super) async fn disk_add(State(state): Control, Body(disk): Body<DiskAdd>) -> Answer<impl IntoResponse> {
    answer!(state, Request::DiskAdd(disk), Disk).map(|disk| (StatusCode::CREATED, Json(disk)))
}

/// One disk.
#[utoipa::path(get, path = "/v1/disks/{id}", params(("id" = u32, Path)),
    responses((status = 200, body = Disk), (status = "default", body = Error)))]
pub(super) async fn disk_show(State(state): Control, Path(id): Path<u32>) -> Answer<Json<Disk>> {
    answer!(state, Request::DiskShow { id }, Disk).map(Json)
}

/// Every volume, by name.
#[utoipa::path(get, path = "/v1/volumes", params(OfPool),
    responses((status = 200, body = Vec<Volume>), (status = "default", body = Error)))]
pub(super) async fn volume_list(State(state): Control, Query(of): Query<OfPool>) -> Answer<Json<Vec<Volume>>> {
    answer!(state, Request::VolumeList { pool: of.pool }, Volumes).map(Json)
}

/// Makes a volume.
#[utoipa::path(post, path = "/v1/volumes", request_body = VolumeCreate,
    responses((status = 201, body = Volume), (status = "default", body = Error)))]
pub(super) async fn volume_create(
    State(state): Control,
    Body(volume): Body<VolumeCreate>,
) -> Answer<impl IntoResponse> {
    answer!(state, Request::VolumeCreate(volume), Volume).map(|volume| (StatusCode::CREATED, Json(volume)))
}

/// One volume.
#[utoipa::path(get, path = "/v1/volumes/{name}", params(("name" = String, Path)),
    responses((status = 200, body = Volume), (status = "default", body = Error)))]
pub(super) async fn volume_show(State(state): Control, Path(name): Path<String>) -> Answer<Json<Volume>> {
    answer!(state, Request::VolumeShow { name }, Volume).map(Json)
}

/// Changes limits and access.
#[utoipa::path(patch, path = "/v1/volumes/{name}", params(("name" = String, Path)), request_body = VolumeSet,
    responses((status = 200, body = Volume), (status = "default", body = Error)))]
pub(super) async fn volume_set(
    State(state): Control,
    Path(name): Path<String>,
    Body(set): Body<VolumeSet>,
) -> Answer<Json<Volume>> {
    answer!(state, Request::VolumeSet { name, set }, Volume).map(Json)
}

/// Deletes a volume and gives its space back.
#[utoipa::path(delete, path = "/v1/volumes/{name}", params(("name" = String, Path), Deletion),
    responses((status = 204), (status = "default", body = Error)))]
pub(super) async fn volume_delete(
    State(state): Control,
    Path(name): Path<String>,
    Query(deletion): Query<Deletion>,
) -> Answer<StatusCode> {
    let Deletion { force, snapshots } = deletion;
    done(&state, Request::VolumeDelete { name, force, snapshots }).await
}

/// Changes a volume's size.
#[utoipa::path(post, path = "/v1/volumes/{name}/resize", params(("name" = String, Path)), request_body = VolumeResize,
    responses((status = 200, body = Volume), (status = "default", body = Error)))]
pub(super) async fn volume_resize(
    State(state): Control,
    Path(name): Path<String>,
    Body(resize): Body<VolumeResize>,
) -> Answer<Json<Volume>> {
    answer!(state, Request::VolumeResize { name, resize }, Volume).map(Json)
}

/// Changes a volume's name.
#[utoipa::path(post, path = "/v1/volumes/{name}/rename", params(("name" = String, Path)), request_body = VolumeRename,
    responses((status = 200, body = Volume), (status = "default", body = Error)))]
pub(super) async fn volume_rename(
    State(state): Control,
    Path(name): Path<String>,
    Body(rename): Body<VolumeRename>,
) -> Answer<Json<Volume>> {
    answer!(state, Request::VolumeRename { name, rename }, Volume).map(Json)
}

/// Who sits where: a part of a volume's map.
#[utoipa::path(get, path = "/v1/volumes/{name}/map", params(("name" = String, Path), VolumeMapQuery),
    responses((status = 200, body = VolumeMap), (status = "default", body = Error)))]
pub(super) async fn volume_map(
    State(state): Control,
    Path(name): Path<String>,
    Query(query): Query<VolumeMapQuery>,
) -> Answer<Json<VolumeMap>> {
    answer!(state, Request::VolumeMap { name, query }, VolumeMap).map(Json)
}

async fn no_such_path(uri: axum::http::Uri) -> Failure {
    Failure(Error::not_found(format!("there is nothing at {}; see /openapi.json", uri.path())))
}

async fn no_such_method(method: axum::http::Method, uri: axum::http::Uri) -> impl IntoResponse {
    let error = Error::invalid(format!("{} does not take {method}; see /openapi.json", uri.path()));
    (StatusCode::METHOD_NOT_ALLOWED, Json(error))
}
