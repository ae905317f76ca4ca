//! The server: connections, limits, and what lies where.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body as _, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{LocalSet, spawn_local},
    time::sleep,
};

use super::{
    answer::{Content, INVALID_FORM, Refusal, answer, json, text, with_index},
    gate::{Gate, Repeat, Trouble},
    query::{KEYS, Query},
    store::Store,
    watching::Wait,
};
use crate::{
    launch::{failure::Failure, link, say::say, signals::Signals},
    plan::EtcdLink,
};

/// Connections at once; each one that waits for a change is one. Further ones wait in the kernel's queue.
const CONNECTIONS: usize = 256;
/// Requests about keys that are worked on at once, waits left out: each may hold a listing.
const WORKED_ON: usize = 16;
/// The largest body: etcd itself takes no larger request (`--max-request-bytes`).
const LARGEST_BODY: usize = 1536 * 1024;
/// How long a connection may take to send a request's head, or stay idle between two.
const HEAD: Duration = Duration::from_secs(60);
/// How long a body may take.
const BODY: Duration = Duration::from_secs(30);
/// The largest head of a request.
const LARGEST_HEAD: usize = 64 * 1024;
/// Pause after a connection could not be accepted: no file descriptors, no memory.
const PAUSE: Duration = Duration::from_millis(100);

/// What all connections share.
struct Server {
    gate: Arc<Gate>,
    node: String,
    address: SocketAddr,
    slots: Semaphore,
}

/// Serves until a signal asks to end.
pub(in crate::launch) async fn serve(address: SocketAddr, etcd: EtcdLink) -> Result<u8, Failure> {
    // The program has one thread: nothing here needs to be able to leave it.
    LocalSet::new().run_until(serve_here(address, etcd)).await
}

async fn serve_here(address: SocketAddr, etcd: EtcdLink) -> Result<u8, Failure> {
    let mut signals = Signals::catch()?;
    let ca = link::authority(&etcd)?;
    let unbound = |source| Failure::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(unbound)?;
    let address = listener.local_addr().map_err(unbound)?;
    say(format_args!("etcd's v2 API is served at {address} with the login of `{}`", etcd.user()));
    let node = etcd.node().to_owned();
    let server =
        Arc::new(Server { gate: Arc::new(Gate::new(etcd, ca)), node, address, slots: Semaphore::new(WORKED_ON) });
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let (stream, permit) = tokio::select! {
            _ = signals.ending() => return Ok(0),
            accepted = accept(&listener, &permits) => accepted,
        };
        spawn_local(connection(stream, permit, server.clone()));
    }
}

async fn accept(listener: &TcpListener, permits: &Arc<Semaphore>) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    // It is never closed.
    let permit = permits.clone().acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, permit),
            Err(error) => {
                say(format_args!("cannot accept a connection: {error}"));
                sleep(PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, permit: Option<OwnedSemaphorePermit>, server: Arc<Server>) {
    // Answers are small and asked for one at a time. Without it they only come later.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let server = server.clone();
        async move { Ok::<_, Infallible>(server.respond(request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(LARGEST_HEAD);
    // A client that goes away is its own affair.
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
    drop(permit);
}

impl Server {
    async fn respond(self: Arc<Self>, request: Request<Incoming>) -> Response<Content> {
        let path = request.uri().path();
        if path == KEYS || path.strip_prefix(KEYS).is_some_and(|rest| rest.starts_with('/')) {
            return self.keys(request).await;
        }
        let path = path.trim_end_matches('/').to_owned();
        let known = self.beside_keys(&path).await;
        match known {
            Some(_) if request.method() != Method::GET && request.method() != Method::HEAD => not_allowed("GET, HEAD"),
            Some(answer) => answer,
            None => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }

    async fn keys(&self, request: Request<Incoming>) -> Response<Content> {
        let (method, query) = match read(request).await {
            Ok(asked) => asked,
            Err(answer) => return *answer,
        };
        if query.is_wait {
            return self.wait(&query).await;
        }
        let store = Store::new(&self.gate);
        // It is never closed.
        let _slot = self.slots.acquire().await;
        let result = match method {
            Method::GET | Method::HEAD => store.get(&query).await,
            Method::PUT => store.put(&query).await,
            Method::POST => store.post(&query).await,
            _ => store.delete(&query).await,
        };
        answer(result, query.no_value)
    }

    async fn wait(&self, query: &Query) -> Response<Content> {
        match Wait::begin(self.gate.clone(), query).await {
            Ok((wait, revision)) => {
                // The head goes out at once: a client sees that its wait has begun, and from where.
                let mut answer = Response::new(Content::Later(Box::pin(wait.end())));
                answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                with_index(answer, revision)
            }
            Err(refusal) => answer(Err(refusal), false),
        }
    }

    /// What etcd serves beside its keys. There is one member: us.
    async fn beside_keys(&self, path: &str) -> Option<Response<Content>> {
        let url = format!("http://{}", self.address);
        let ok = |value: serde_json::Value| Some(json(StatusCode::OK, &value));
        match path {
            "/version" => ok(json!({"etcdserver": self.version().await, "etcdcluster": self.version().await})),
            "/health" if self.is_healthy().await => ok(json!({"health": "true"})),
            "/health" => Some(json(StatusCode::SERVICE_UNAVAILABLE, &json!({"health": "false"}))),
            "/v2/machines" => Some(text(StatusCode::OK, &url)),
            "/v2/members" => {
                ok(json!({"members": [{"id": "1", "name": "ovs-launch", "peerURLs": [], "clientURLs": [url]}]}))
            }
            "/v2/members/leader" => ok(json!({"id": "1", "name": "ovs-launch", "peerURLs": [], "clientURLs": [url]})),
            "/v2/stats/leader" => ok(json!({"leader": "1", "followers": {}})),
            "/v2/stats/self" => {
                ok(json!({"id": "1", "name": "ovs-launch", "state": "StateLeader", "leaderInfo": {"leader": "1"}}))
            }
            _ => None,
        }
    }

    /// The version of the member that is asked, or of the API when it does not answer.
    async fn version(&self) -> String {
        let status = self.gate.call(Repeat::Yes, async |client| client.maintenance_client().status().await).await;
        status.map_or_else(|_| "2.3.8".to_owned(), |status| status.version().to_owned())
    }

    /// Whether etcd answers, with a majority behind it. A login that may not read its own node is an answer too.
    async fn is_healthy(&self) -> bool {
        let get = async |client: etcd_client::Client| client.kv_client().get(self.node.as_str(), None).await;
        matches!(self.gate.call(Repeat::Yes, get).await, Ok(_) | Err(Trouble::Denied))
    }
}

/// The method and what it is about; or at once the answer to what is none.
async fn read(request: Request<Incoming>) -> Result<(Method, Query), Box<Response<Content>>> {
    let (head, body) = request.into_parts();
    let takes_form = head.method == Method::PUT || head.method == Method::POST;
    if !takes_form && !matches!(head.method, Method::GET | Method::HEAD | Method::DELETE) {
        return Err(Box::new(not_allowed("HEAD,GET,PUT,POST,DELETE")));
    }
    let refused = |status, why: &str| {
        let refusal = Refusal::new(INVALID_FORM, why, 0);
        Box::new(json(status, &refusal))
    };
    let too_large = || refused(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 1.5 MiB");
    if body.size_hint().lower() > LARGEST_BODY as u64 {
        return Err(too_large());
    }
    let collecting = tokio::time::timeout(BODY, Limited::new(body, LARGEST_BODY).collect());
    let body = match collecting.await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => return Err(too_large()),
        Ok(Err(_)) => return Err(refused(StatusCode::BAD_REQUEST, "the body is not complete")),
        Err(_) => return Err(refused(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")),
    };
    let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_form = takes_form && content_type.starts_with("application/x-www-form-urlencoded");
    let form = if is_form { &body[..] } else { b"" };
    let query = head.uri.query().unwrap_or_default();
    let query = Query::parse(&head.method, head.uri.path(), query, form);
    query.map(|query| (head.method, query)).map_err(|refusal| Box::new(answer(Err(refusal), false)))
}

fn not_allowed(methods: &'static str) -> Response<Content> {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    answer
}
