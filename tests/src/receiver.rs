//! A receiver that logs every POST and answers as it is told, path by path.
//!
//! A path is a subscription's own: what arrives at it is told apart by path and `webhook-id`.

mod answer;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

pub use self::answer::Answer;
use crate::clock::now;

/// A response's body, of any kind.
type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// What a connection holds of a response before the agent takes it. On loopback the kernel would take megabytes of an
/// endless body, and copying them would cost the machine more than the agent that refuses them.
const SEND_BUFFER: u32 = 64 * 1024;
/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

fn listen() -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    socket.listen(BACKLOG)
}

/// A POST that has arrived completely.
#[derive(Clone, Debug)]
pub struct Post {
    /// How: POST, unless an agent only looks.
    pub method: http::Method,
    /// Where: `/a`.
    pub path: String,
    /// The header `webhook-id`.
    pub id: String,
    /// All headers.
    pub headers: HeaderMap,
    /// As received.
    pub body: Bytes,
    /// When.
    pub at: Instant,
    /// The status it was answered with; 0 when there was no answer, or none yet.
    pub answered: u16,
}

/// What the receiver knows and does.
#[derive(Debug, Default)]
struct State {
    posts: Vec<Post>,
    scripts: HashMap<String, Vec<Answer>>,
    connections: usize,
    open: HashMap<String, usize>,
    peak: HashMap<String, usize>,
}

/// The receiver. It ends with its value.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _serving: JoinSet<()>,
}

impl Receiver {
    /// Listens on a free port of 127.0.0.1, and answers 204 unless a path is told otherwise.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start() -> Result<Self> {
        let listener = listen()?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                lock(&shared).connections += 1;
                connections.spawn(serve(stream, shared.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, state, _serving: serving })
    }

    /// Its port, for an agent's egress policy.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The URL of a path: `/a`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// How a path answers from now on: one answer a POST, the last one again and again.
    pub fn script(&self, path: &str, answers: impl IntoIterator<Item = Answer>) {
        let mut answers: Vec<Answer> = answers.into_iter().collect();
        answers.reverse();
        self.lock().scripts.insert(path.to_owned(), answers);
    }

    /// Every POST so far, in order of arrival.
    #[must_use]
    pub fn posts(&self) -> Vec<Post> {
        self.lock().posts.clone()
    }

    /// Every POST to a path so far.
    #[must_use]
    pub fn posts_to(&self, path: &str) -> Vec<Post> {
        self.lock().posts.iter().filter(|post| post.path == path).cloned().collect()
    }

    /// How many POSTs there are so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().posts.len()
    }

    /// How many connections were opened so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.lock().connections
    }

    /// How many POSTs to a path are not answered yet.
    #[must_use]
    pub fn open(&self, path: &str) -> usize {
        self.lock().open.get(path).copied().unwrap_or(0)
    }

    /// The most POSTs to a path that were open at once.
    #[must_use]
    pub fn peak(&self, path: &str) -> usize {
        self.lock().peak.get(path).copied().unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) {
    // A connection that breaks is the sender's to report.
    drop(stream.set_nodelay(true));
    let Ok((stream, resetter)) = answer::resettable(stream) else { return };
    let service = service_fn(|request| receive(request, &state, &resetter));
    drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
}

/// Logs a POST and answers it. An error closes the connection without an answer.
async fn receive(
    request: Request<Incoming>,
    state: &Mutex<State>,
    resetter: &TcpStream,
) -> Result<Response<Body>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let id = head.headers.get("webhook-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
    let path = head.uri.path().to_owned();
    let open = Open::new(state, &path);
    let (number, answer) = {
        let mut state = lock(state);
        let answer = next_answer(&mut state, &path);
        let post =
            Post { method: head.method, path, id, headers: head.headers, body, at: now(), answered: 0 };
        state.posts.push(post);
        (state.posts.len() - 1, answer)
    };
    let response = answer.give(resetter).await?;
    lock(state).posts[number].answered = response.status().as_u16();
    drop(open);
    Ok(response)
}

fn next_answer(state: &mut State, path: &str) -> Answer {
    match state.scripts.get_mut(path) {
        Some(answers) if answers.len() > 1 => answers.pop().unwrap_or_default(),
        Some(answers) => answers.first().cloned().unwrap_or_default(),
        None => Answer::default(),
    }
}

/// Counts a POST as open until it is dropped: answered, or given up by the sender.
struct Open<'a> {
    state: &'a Mutex<State>,
    path: String,
}

impl<'a> Open<'a> {
    fn new(state: &'a Mutex<State>, path: &str) -> Self {
        let mut locked = lock(state);
        let open = locked.open.entry(path.to_owned()).or_default();
        *open += 1;
        let open = *open;
        let peak = locked.peak.entry(path.to_owned()).or_default();
        *peak = open.max(*peak);
        Self { state, path: path.to_owned() }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if let Some(open) = lock(self.state).open.get_mut(&self.path) {
            *open -= 1;
        }
    }
}
