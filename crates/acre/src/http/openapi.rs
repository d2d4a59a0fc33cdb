//! The OpenAPI document, made from the handlers and types themselves.

use super::{routes, snapshots};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

#[derive(OpenApi)]
#[openapi(
    info(title = "Acreage operator API", description = "Pools, disks, thin volumes and their snapshots of one Acreage server. Sizes and \
        offsets are bytes. Every failure has a body with a kind and a message. Over TCP every request but /healthz \
        carries the server's token; Unix sockets are guarded by their permissions."),
    paths(
        routes::healthz, routes::metrics_page, routes::status, routes::audit,
        routes::pool_list, routes::pool_create, routes::pool_show, routes::pool_delete,
        routes::disk_list, routes::disk_add, routes::disk_show,
        routes::volume_list, routes::volume_create, routes::volume_show, routes::volume_set, routes::volume_delete,
        routes::volume_resize, routes::volume_rename, routes::volume_map,
        snapshots::snapshot_list, snapshots::snapshot_create, snapshots::snapshot_show, snapshots::snapshot_delete,
        snapshots::snapshot_rename, snapshots::clone_create, snapshots::clone_flatten,
        snapshots::clone_flatten_cancel, snapshots::volume_rollback, snapshots::diff, snapshots::schedule_list, snapshots::schedule_set, snapshots::schedule_delete,
    ),
    security(("token" = [])),
    modifiers(&Token),
)]
struct Document;

/// How clients over TCP show who they are.
struct Token;

impl Modify for Token {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        document.components.get_or_insert_default().add_security_scheme("token", scheme);
    }
}

/// The document, as JSON for people to read.
///
/// # Panics
/// Never: what derives made serialises.
#[must_use]
pub fn document() -> String {
    Document::openapi().to_pretty_json().expect("the document is JSON")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_document_names_every_path_and_its_types() {
        let document: serde_json::Value = serde_json::from_str(&super::document()).unwrap();
        let paths = document["paths"].as_object().unwrap();
        assert_eq!(paths.len(), 22);
        assert!(paths["/v1/volumes/{name}"]["patch"]["requestBody"].is_object());
        assert!(paths["/v1/volumes/{name}/schedule"]["put"]["requestBody"].is_object());
        let schemas = ["Volume", "VolumeMap", "Pool", "Disk", "Status", "AuditReport", "Error", "ErrorKind"];
        for schema in
            schemas.into_iter().chain(["Snapshot", "VolumeSpace", "CloneCreate", "Diff", "Schedule", "KeepRule"])
        {
            assert!(document["components"]["schemas"][schema].is_object(), "{schema}");
        }
    }
}
