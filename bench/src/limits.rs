//! What the machine could do without Postrider, measured in the same run: POSTs by a bare client to the same sink, and
//! writes that are flushed to the same disk.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::clock::{self, Moment};
use crate::payload;
use crate::stats::{Latencies, per_second};

/// Connections of the bare client.
const CONNECTIONS: usize = 64;
/// What is appended before each flush: a page.
const PAGE: usize = 4096;

/// What the bare client reached.
#[derive(Debug)]
pub(crate) struct Posts {
    /// POSTs.
    pub(crate) count: usize,
    /// POSTs a second.
    pub(crate) per_second: f64,
    /// How long one took.
    pub(crate) latencies: Latencies,
}

/// POSTs the body of a delivery to the sink, on one thread, as fast as it goes.
pub(crate) async fn posts(port: u16, time: Duration) -> anyhow::Result<Posts> {
    let mut tasks = JoinSet::new();
    let begun = clock::now();
    for _ in 0..CONNECTIONS {
        tasks.spawn(async move {
            let stream = TcpStream::connect(("127.0.0.1", port)).await.context("cannot reach the sink")?;
            stream.set_nodelay(true)?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::select! {
                _closed = connection => anyhow::bail!("the sink closed a connection"),
                latencies = post_until(sender, begun, time, port) => latencies,
            }
        });
    }
    let mut latencies = Vec::new();
    while let Some(done) = tasks.join_next().await {
        latencies.extend(done??);
    }
    Ok(Posts {
        count: latencies.len(),
        per_second: per_second(latencies.len(), begun.elapsed()),
        latencies: Latencies::new(latencies),
    })
}

async fn post_until(
    mut sender: SendRequest<Full<Bytes>>,
    begun: Moment,
    time: Duration,
    port: u16,
) -> anyhow::Result<Vec<Duration>> {
    let body = Bytes::from(payload::body());
    let mut latencies = Vec::new();
    loop {
        let before = clock::now();
        if before.since(begun) >= time {
            return Ok(latencies);
        }
        let mut request = Request::builder().method(Method::POST).uri("/hook/0");
        request = request.header("host", format!("127.0.0.1:{port}"));
        for (name, value) in payload::HEADERS {
            request = request.header(name, value);
        }
        sender.ready().await?;
        let response = sender.send_request(request.body(Full::new(body.clone()))?).await?;
        ensure!(response.status().is_success(), "the sink answered {}", response.status());
        response.into_body().collect().await?;
        latencies.push(before.elapsed());
    }
}

/// Appends a page and flushes it, one after the other: how many a second.
pub(crate) fn fdatasync(folder: &Path, time: Duration) -> anyhow::Result<f64> {
    let path = folder.join("fdatasync");
    let mut file = std::fs::File::create(&path).context("cannot make a file to flush")?;
    let (begun, mut count) = (clock::now(), 0);
    while begun.elapsed() < time {
        file.write_all(&[7; PAGE]).context("cannot write a page")?;
        file.sync_data().context("cannot flush a page")?;
        count += 1;
    }
    let rate = per_second(count, begun.elapsed());
    std::fs::remove_file(&path).context("cannot remove the file that was flushed")?;
    Ok(rate)
}
