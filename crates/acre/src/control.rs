//! The seam between the control plane and whoever answers operators.

use crate::metrics::MetricsSnapshot;
use api::{Error, Request, Response};
use std::future::Future;
use std::pin::Pin;

/// An answer that is on its way.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Whoever answers operators: the engines, or a stand-in in tests.
pub trait ControlPlane: Send + Sync + 'static {
    /// Puts a request. Dropping the answer does not take the request back.
    fn request(&self, request: Request) -> Pending<'_, Result<Response, Error>>;

    /// What has been counted so far.
    fn metrics(&self) -> Pending<'_, Result<MetricsSnapshot, Error>>;
}
