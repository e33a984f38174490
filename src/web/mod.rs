//! The HTTP servers for carriers and operators. Only this module uses warp.

pub mod admin;
mod body;
pub mod budget;
pub mod inbound;
pub mod serve;
pub mod tls;
mod unauthorized;

use http::StatusCode;
use warp::reply::{Reply, Response};

/// A JSON response. It ends with a line break for use with curl.
#[must_use]
pub fn json(status: StatusCode, body: &serde_json::Value) -> Response {
    json_bytes(status, format!("{body}\n").into_bytes())
}

/// A response whose bytes are already JSON.
fn json_bytes(status: StatusCode, body: Vec<u8>) -> Response {
    let media_type = http::HeaderValue::from_static("application/json");
    let mut response = warp::reply::with_status(body, status).into_response();
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, media_type);
    response
}

/// A JSON response with an error message.
#[must_use]
pub fn error(status: StatusCode, what: &str) -> Response {
    json(status, &serde_json::json!({ "error": what }))
}

/// The response to a method that the path does not support.
#[must_use]
pub fn method_not_allowed(allow: &'static str) -> Response {
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "method not allowed on this path");
    response
        .headers_mut()
        .insert(http::header::ALLOW, http::HeaderValue::from_static(allow));
    response
}
