//! The operator API over HTTP: JSON under `/v1`, `GET /metrics`, `GET /openapi.json` and `GET /healthz`.
//!
//! Unix sockets are guarded by their permissions. Over TCP every request but `/healthz` carries the token. Bodies,
//! times and connections are bounded; a slow or greedy client harms only itself.

mod bind;
mod extract;
mod guard;
mod listen;
mod openapi;
mod routes;
mod snapshots;

pub use bind::{ApiListener, bind};
pub use listen::{Limits, serve};
pub use openapi::document;
pub use routes::router;

use crate::control::ControlPlane;
use std::sync::Arc;

/// What every request is answered from.
#[derive(Clone)]
pub struct ApiState {
    /// Who answers.
    pub control: Arc<dyn ControlPlane>,
    /// What TCP clients show.
    pub token: Arc<str>,
}
