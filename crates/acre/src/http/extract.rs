//! What a handler takes from a request and gives back, with this API's errors.

use super::ApiState;
use super::guard::Failure;
use api::{Error, Request, Response};
use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

pub(super) type Answer<T> = Result<T, Failure>;
pub(super) type Control = State<ApiState>;

/// A JSON body whose rejection is an error of this API.
pub(super) struct Body<T>(pub(super) T);

/// The same for a part of the path.
pub(super) struct Path<T>(pub(super) T);

/// The same for the query.
pub(super) struct Query<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: axum::extract::Request, state: &S) -> Answer<Self> {
        Ok(Json::from_request(request, state).await.map(|Json(value)| Self(value))?)
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        let found = axum::extract::Path::from_request_parts(parts, state).await;
        Ok(found.map(|axum::extract::Path(value)| Self(value))?)
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        let found = axum::extract::Query::from_request_parts(parts, state).await;
        Ok(found.map(|axum::extract::Query(value)| Self(value))?)
    }
}

impl From<JsonRejection> for Failure {
    fn from(rejection: JsonRejection) -> Self {
        Self(Error::invalid(rejection.body_text()))
    }
}

impl From<PathRejection> for Failure {
    fn from(rejection: PathRejection) -> Self {
        Self(Error::invalid(rejection.body_text()))
    }
}

impl From<QueryRejection> for Failure {
    fn from(rejection: QueryRejection) -> Self {
        Self(Error::invalid(rejection.body_text()))
    }
}

/// Asks, and picks the answer that was asked for.
pub(super) async fn ask<T>(state: &ApiState, request: Request, pick: impl FnOnce(Response) -> Option<T>) -> Answer<T> {
    let response = state.control.request(request).await.map_err(Failure)?;
    pick(response).ok_or_else(|| Failure(Error::internal("the engine answered another question than was asked")))
}

/// The answer to a request, without the variant it comes in.
macro_rules! answer {
    ($state:expr, $request:expr, $variant:ident) => {
        crate::http::extract::ask(&$state, $request, |response| match response {
            api::Response::$variant(found) => Some(found),
            _ => None,
        })
        .await
    };
}

/// Asks for what is answered with nothing but that it is done.
pub(super) async fn done(state: &ApiState, request: Request) -> Answer<StatusCode> {
    ask(state, request, |response| matches!(response, Response::Done).then_some(StatusCode::NO_CONTENT)).await
}

pub(super) use answer;
