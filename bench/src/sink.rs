//! The sink: the endpoint of every delivery. A bare HTTP server on one thread that notes which event arrived when, and
//! answers at once; so little that what is measured is Postrider and not this.
//!
//! `POST /hook/N` notes an arrival at endpoint N and answers 204; `/slow/N` answers after a while; `/hang/N` never
//! answers. `GET /count` says how many have arrived.

use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};

use crate::clock;
use crate::procfs::ProcessId;
use crate::records::{self, Arrived, Id};
use crate::worker::{self, Worker};

/// How long `/slow` takes.
const SLOW: Duration = Duration::from_millis(20);

/// What it can be told to do; it answers with a number.
#[derive(Debug, Deserialize, Serialize)]
enum Command {
    /// Say how many deliveries have arrived.
    Count,
    /// Forget them.
    Reset,
    /// Say how many requests to this endpoint that never answers were open at once, at the most.
    HangingPeak(u64),
    /// Write them to a file, and say how many.
    Save(PathBuf),
}

/// The sink, from outside.
#[derive(Debug)]
pub(crate) struct Sink {
    worker: Worker,
    /// Where it listens, on 127.0.0.1.
    pub(crate) port: u16,
}

impl Sink {
    /// Starts one.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let mut worker = Worker::start("sink")?;
        let port = worker.answer().await?;
        Ok(Self { worker, port })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> ProcessId {
        self.worker.id()
    }

    /// The URL of something on it, as in `hook/0`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    /// How many deliveries have arrived.
    pub(crate) async fn count(&mut self) -> anyhow::Result<usize> {
        self.worker.ask(&Command::Count).await
    }

    /// The most requests to `hang/N` that were open at once.
    pub(crate) async fn hanging_peak(&mut self, endpoint: u64) -> anyhow::Result<usize> {
        self.worker.ask(&Command::HangingPeak(endpoint)).await
    }

    /// Makes it forget what has arrived.
    pub(crate) async fn reset(&mut self) -> anyhow::Result<()> {
        self.worker.ask::<_, usize>(&Command::Reset).await.map(drop)
    }

    /// What has arrived, through a file in this folder.
    pub(crate) async fn arrivals(&mut self, folder: &Path) -> anyhow::Result<Vec<Arrived>> {
        let path = folder.join("arrived");
        self.worker.ask::<_, usize>(&Command::Save(path.clone())).await?;
        records::take(&path)
    }

    /// Ends it.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        self.worker.end().await
    }
}

type Arrivals = Rc<RefCell<Vec<Arrived>>>;
type Hanging = Rc<RefCell<HashMap<u64, Peak>>>;

/// How many are open, and the most that were.
#[derive(Clone, Copy, Debug, Default)]
struct Peak {
    open: usize,
    most: usize,
}

/// One request more that is open, until it is dropped.
struct Open(Hanging, u64);

impl Open {
    fn new(hanging: Hanging, endpoint: u64) -> Self {
        let mut peaks = hanging.borrow_mut();
        let peak = peaks.entry(endpoint).or_default();
        peak.open += 1;
        peak.most = peak.most.max(peak.open);
        drop(peaks);
        Self(hanging, endpoint)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(peak) = self.0.borrow_mut().get_mut(&self.1) {
            peak.open -= 1;
        }
    }
}

/// Runs as the sink until stdin ends.
pub(crate) async fn run() -> anyhow::Result<()> {
    let (arrivals, hanging) = (Arrivals::default(), Hanging::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.context("the sink cannot listen")?;
    worker::say(&listener.local_addr()?.port())?;
    let mut commands = worker::commands();
    tokio::task::LocalSet::new()
        .run_until(async {
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (stream, _) = accepted.context("the sink cannot accept")?;
                        tokio::task::spawn_local(serve(stream, arrivals.clone(), hanging.clone()));
                    }
                    command = commands.recv() => {
                        let Some(command) = command else { return Ok(()) };
                        worker::say(&obey(&command, &mut arrivals.borrow_mut(), &hanging.borrow())?)?;
                    }
                }
            }
        })
        .await
}

fn obey(
    command: &Command,
    arrivals: &mut Vec<Arrived>,
    hanging: &HashMap<u64, Peak>,
) -> anyhow::Result<usize> {
    match command {
        Command::Count => {}
        Command::HangingPeak(endpoint) => return Ok(hanging.get(endpoint).map_or(0, |peak| peak.most)),
        Command::Reset => arrivals.clear(),
        Command::Save(path) => records::save(path, arrivals)?,
    }
    Ok(arrivals.len())
}

async fn serve(stream: TcpStream, arrivals: Arrivals, hanging: Hanging) {
    // Without it answers are late, and that would show in the figures.
    let _slower = stream.set_nodelay(true);
    let service =
        hyper::service::service_fn(move |request| answer(request, arrivals.clone(), hanging.clone()));
    // A client that goes away is no concern of the sink.
    let _closed = hyper::server::conn::http1::Builder::new()
        .keep_alive(true)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    request: Request<Incoming>,
    arrivals: Arrivals,
    hanging: Hanging,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, mut body) = request.into_parts();
    while let Some(frame) = body.frame().await {
        if frame.is_err() {
            // Not in full: it has not arrived.
            return Ok(empty(StatusCode::BAD_REQUEST));
        }
    }
    let (kind, endpoint) = target(head.uri.path());
    match kind {
        "hook" | "slow" => {
            let id = head.headers.get("webhook-id").map_or(&[][..], |id| id.as_bytes());
            let arrived = Arrived { id: Id::new(id), endpoint, at: clock::now() };
            arrivals.borrow_mut().push(arrived);
            if kind == "slow" {
                tokio::time::sleep(SLOW).await;
            }
            Ok(empty(StatusCode::NO_CONTENT))
        }
        "hang" => {
            let _open = Open::new(hanging, endpoint);
            std::future::pending().await
        }
        "count" => Ok(Response::new(arrivals.borrow().len().to_string().into())),
        _ => Ok(empty(StatusCode::NOT_FOUND)),
    }
}

/// What is wanted, and of which endpoint.
fn target(path: &str) -> (&str, u64) {
    let path = path.trim_start_matches('/');
    let (kind, endpoint) = path.split_once('/').unwrap_or((path, ""));
    (kind, endpoint.parse().unwrap_or(0))
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_kind_and_an_endpoint() {
        assert_eq!(target("/hook/12"), ("hook", 12));
        assert_eq!(target("/hang"), ("hang", 0));
        assert_eq!(target("/hook/x"), ("hook", 0));
        assert_eq!(target("/"), ("", 0));
    }
}
