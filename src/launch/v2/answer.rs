//! What the v2 API answers: events, errors, and how they are written. See `v2error/error.go` and `v2store/event.go`.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::{
    Response, StatusCode,
    body::{Body, Frame},
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
};
use serde::Serialize;

use super::gate::Trouble;

const ETCD_INDEX: HeaderName = HeaderName::from_static("x-etcd-index");
const RAFT_INDEX: HeaderName = HeaderName::from_static("x-raft-index");
const RAFT_TERM: HeaderName = HeaderName::from_static("x-raft-term");

/// A key or directory as the v2 API shows it.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Node {
    /// Its path; empty for the root.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    pub(super) dir: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) nodes: Vec<Node>,
    /// The revision of its last change.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) modified_index: i64,
    /// The revision that made it.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) created_index: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// What a request did or found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Event {
    pub(super) action: &'static str,
    /// Without it only in the answer to a request with `noValueOnSuccess`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<Node>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) prev_node: Option<Node>,
    /// The store's revision then.
    #[serde(skip)]
    pub(super) index: i64,
}

impl Event {
    /// What happened to a node, and the store's revision then.
    pub(super) fn new(action: &'static str, node: Node, prev_node: Option<Node>, index: i64) -> Self {
        Self { action, node: Some(node), prev_node, index }
    }
}

/// An error of the v2 API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Refusal {
    pub(super) error_code: u16,
    message: &'static str,
    /// The key, or what is wrong.
    pub(super) cause: String,
    /// The store's revision then, 0 when it is not known.
    index: i64,
}

pub(super) const KEY_NOT_FOUND: u16 = 100;
pub(super) const COMPARE_FAILED: u16 = 101;
pub(super) const NOT_A_FILE: u16 = 102;
pub(super) const NOT_A_DIRECTORY: u16 = 104;
pub(super) const NODE_EXISTS: u16 = 105;
pub(super) const ROOT_READ_ONLY: u16 = 107;
pub(super) const DIRECTORY_NOT_EMPTY: u16 = 108;
pub(super) const UNAUTHORIZED: u16 = 110;
pub(super) const PREV_VALUE_REQUIRED: u16 = 201;
pub(super) const TTL_NOT_A_NUMBER: u16 = 202;
pub(super) const INDEX_NOT_A_NUMBER: u16 = 203;
pub(super) const INVALID_FIELD: u16 = 209;
pub(super) const INVALID_FORM: u16 = 210;
pub(super) const INTERNAL: u16 = 300;
pub(super) const INDEX_CLEARED: u16 = 401;

impl Refusal {
    pub(super) fn new(error_code: u16, cause: impl Into<String>, index: i64) -> Self {
        let message = match error_code {
            KEY_NOT_FOUND => "Key not found",
            COMPARE_FAILED => "Compare failed",
            NOT_A_FILE => "Not a file",
            NOT_A_DIRECTORY => "Not a directory",
            NODE_EXISTS => "Key already exists",
            ROOT_READ_ONLY => "Root is read only",
            DIRECTORY_NOT_EMPTY => "Directory not empty",
            UNAUTHORIZED => "The request requires user authentication",
            PREV_VALUE_REQUIRED => "PrevValue is Required in POST form",
            TTL_NOT_A_NUMBER => "The given TTL in POST form is not a number",
            INDEX_NOT_A_NUMBER => "The given index in POST form is not a number",
            INVALID_FIELD => "Invalid field",
            INVALID_FORM => "Invalid POST form",
            INDEX_CLEARED => "The event in requested index is outdated and cleared",
            _ => "Raft Internal Error",
        };
        Self { error_code, message, cause: cause.into(), index }
    }

    fn status(&self) -> StatusCode {
        match self.error_code {
            KEY_NOT_FOUND => StatusCode::NOT_FOUND,
            NOT_A_FILE | DIRECTORY_NOT_EMPTY => StatusCode::FORBIDDEN,
            UNAUTHORIZED => StatusCode::UNAUTHORIZED,
            COMPARE_FAILED | NODE_EXISTS => StatusCode::PRECONDITION_FAILED,
            INTERNAL => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

impl From<Trouble> for Refusal {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Denied => Self::new(UNAUTHORIZED, "Insufficient credentials", 0),
            Trouble::Refused(why) => Self::new(UNAUTHORIZED, why, 0),
            Trouble::Away(why) => Self::new(INTERNAL, why, 0),
        }
    }
}

/// The body of an answer: there already, or written when something happens.
pub(super) enum Content {
    Now(Option<Bytes>),
    Later(Pin<Box<dyn Future<Output = Bytes>>>),
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = match &mut *self {
            Self::Now(bytes) => bytes.take(),
            Self::Later(future) => match future.as_mut().poll(context) {
                Poll::Ready(bytes) => Some(bytes),
                Poll::Pending => return Poll::Pending,
            },
        };
        *self = Self::Now(None);
        Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Now(None))
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Self::Now(bytes) => hyper::body::SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Later(_) => hyper::body::SizeHint::default(),
        }
    }
}

/// An answer with this JSON text.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response<Content> {
    let mut answer = text(status, &line(value));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// One line of JSON.
pub(super) fn line(value: &impl Serialize) -> String {
    // Texts and numbers only: it cannot fail.
    serde_json::to_string(value).unwrap_or_default() + "\n"
}

/// An answer with this text.
pub(super) fn text(status: StatusCode, text: &str) -> Response<Content> {
    let mut answer = Response::new(Content::Now(Some(Bytes::copy_from_slice(text.as_bytes()))));
    *answer.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, plain);
    answer
}

/// The answer to a request about keys.
pub(super) fn answer(result: Result<Event, Refusal>, no_value: bool) -> Response<Content> {
    match result {
        Ok(mut event) => {
            let is_new = event.action == "create" || event.action == "set" && event.prev_node.is_none();
            let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
            if no_value && matches!(event.action, "set" | "compareAndSwap" | "create" | "update") {
                (event.node, event.prev_node) = (None, None);
            }
            with_index(json(status, &event), event.index)
        }
        Err(refusal) => {
            let mut answer = json(refusal.status(), &refusal);
            answer.headers_mut().insert(ETCD_INDEX, refusal.index.into());
            answer
        }
    }
}

/// Says at which revision the answer was true.
pub(super) fn with_index(mut answer: Response<Content>, index: i64) -> Response<Content> {
    let headers = answer.headers_mut();
    headers.insert(ETCD_INDEX, index.into());
    // There is no such thing here; clients only compare them, if that.
    headers.insert(RAFT_INDEX, index.into());
    headers.insert(RAFT_TERM, 1.into());
    answer
}
