//! What stands before every request: the token over TCP, and a bound on the body and on the time it takes to come.

use super::ApiState;
use api::Error;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::time::Duration;

/// The largest body of a request, in bytes: as many snapshots at one moment as there may be, with the longest names, fit.
const BODY_BYTES_MAX: usize = 128 << 10;
/// How long a body may take to come.
const BODY_WITHIN: Duration = Duration::from_secs(10);
/// How long an answer may take: an audit of a large store is the longest.
const ANSWER_WITHIN: Duration = Duration::from_secs(600);

/// An error as a response.
pub(super) struct Failure(pub(super) Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.kind.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(self.0)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Lets a request pass whose sender shows the token.
pub(super) async fn token(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    if request.uri().path() == "/healthz" || shows_token(&request, &state.token) {
        return next.run(request).await;
    }
    let message = "show the token: --token, ACRE_API_TOKEN, or the header `Authorization: Bearer …`; it lies in the file \
                   api-token in the server's data directory";
    Failure(Error::forbidden(message)).into_response()
}

fn shows_token(request: &Request, token: &str) -> bool {
    let shown = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    shown.and_then(|value| value.strip_prefix("Bearer ")).is_some_and(|shown| same(shown.trim(), token))
}

/// Whether two texts are the same, in a time that does not tell where they differ.
fn same(one: &str, other: &str) -> bool {
    let differing = one.bytes().zip(other.bytes()).fold(0, |differing, (one, other)| differing | (one ^ other));
    one.len() == other.len() && std::hint::black_box(differing) == 0
}

/// Takes the body in before anything is done with it, and answers in time or not at all.
pub(super) async fn bounds(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let body = match tokio::time::timeout(BODY_WITHIN, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => {
            let message = format!("the request's body broke off, or has more than {BODY_BYTES_MAX} bytes");
            return Failure(Error::invalid(message)).into_response();
        }
        Err(_) => {
            let message = format!("the request's body did not come within {} s", BODY_WITHIN.as_secs());
            return Failure(Error::invalid(message)).into_response();
        }
    };
    let answer = next.run(Request::from_parts(head, Body::from(body)));
    tokio::time::timeout(ANSWER_WITHIN, answer).await.unwrap_or_else(|_| {
        let message = format!("no answer within {} s; it may still be carried out", ANSWER_WITHIN.as_secs());
        Failure(Error::unavailable(message)).into_response()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_the_token() {
        assert!(same("abc", "abc"));
        for other in ["", "ab", "abd", "abcd", "ABC"] {
            assert!(!same(other, "abc"), "{other}");
        }
    }
}
