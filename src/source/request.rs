//! A webhook request as sources see it, independent of the web server.

use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderMap, Method};
use url::Url;

use super::fields::Form;
use crate::model::message::Timestamp;

/// A webhook request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The address of the peer, or the client address from a trusted proxy.
    pub client: IpAddr,
    /// One of the source's [`Source::methods`](super::Source::methods).
    pub method: &'a Method,
    /// The URL that was called.
    pub target: Target<'a>,
    /// Header fields.
    pub headers: &'a HeaderMap,
    /// The complete body, already limited in size.
    pub body: &'a Bytes,
    /// The current time.
    pub now: Timestamp,
    /// Whether `basic_auth` or `allow_from` has authorized the caller.
    pub admitted: bool,
}

impl<'a> Request<'a> {
    /// A POST without a URL and a time, for sources that use neither.
    #[must_use]
    pub fn post(client: IpAddr, headers: &'a HeaderMap, body: &'a Bytes) -> Self {
        Self {
            client,
            method: &Method::POST,
            target: Target::default(),
            headers,
            body,
            now: Timestamp(0),
            admitted: false,
        }
    }

    /// The parameters of a form: the query of a GET, otherwise the body.
    #[must_use]
    pub fn form(&self) -> Form<'a> {
        Form::read(match *self.method {
            Method::GET => self.target.query().as_bytes(),
            _ => self.body,
        })
    }

    /// The value of a header field; `None` if it is absent or not ASCII.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// The URL of a request as the carrier called it: `server.public_url`, and the path and query exactly as received.
/// Never taken from the `Host` header, which any caller can choose.
#[derive(Clone, Copy, Debug, Default)]
pub struct Target<'a> {
    /// `server.public_url`.
    pub public_url: Option<&'a Url>,
    /// `/inbound/x?a=b`
    pub path_and_query: &'a str,
}

impl<'a> Target<'a> {
    /// The part after `?`; empty if there is none.
    #[must_use]
    pub fn query(&self) -> &'a str {
        self.path_and_query.split_once('?').map_or("", |(_, query)| query)
    }
}
