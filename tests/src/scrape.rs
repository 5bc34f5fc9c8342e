//! Asks a program's admin port, as probes and Prometheus do.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// A program's admin port.
#[derive(Clone, Copy, Debug)]
pub struct Admin(pub SocketAddr);

/// What was scraped.
#[derive(Clone, Debug)]
pub struct Scrape(pub String);

impl Admin {
    /// The port that a program's log says it has.
    #[must_use]
    pub fn of_log(log: &str) -> Option<Self> {
        let line = log.lines().find(|line| line.contains("admin port listening"))?;
        // Two formats: `admin=ADDRESS` and `"admin":"ADDRESS"`.
        let rest =
            &line[line.rfind("admin=").map(|at| at + 6).or(line.rfind("\"admin\":\"").map(|at| at + 9))?..];
        let end = rest.find(['"', ' ']).unwrap_or(rest.len());
        rest[..end].parse().ok().map(Self)
    }

    /// Status and body of an answer.
    ///
    /// # Errors
    /// When there is none.
    pub async fn ask(self, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
        let stream = TcpStream::connect(self.0).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        let answer = sender.send_request(request.body(Full::new(Bytes::from(body.to_owned())))?).await?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await?.to_bytes();
        connection.abort();
        Ok((status, String::from_utf8(body.to_vec())?))
    }

    /// Status and body of what is at a path.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn get(self, path: &str) -> Result<(u16, String)> {
        self.ask("GET", path, "").await
    }

    /// The metrics as they are now.
    ///
    /// # Errors
    /// When there are none.
    pub async fn scrape(self) -> Result<Scrape> {
        match self.get("/metrics").await? {
            (200, text) => Ok(Scrape(text)),
            (status, text) => bail!("a scrape was answered by {status}: {text}"),
        }
    }
}

impl Scrape {
    /// The value of one series, written as in the text: `name` or `name{label="value"}`.
    ///
    /// # Errors
    /// When it is not there.
    pub fn value(&self, series: &str) -> Result<f64> {
        self.find(series).with_context(|| format!("{series} is not in\n{}", self.0))
    }

    /// The same, if it is there.
    #[must_use]
    pub fn find(&self, series: &str) -> Option<f64> {
        self.0.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    /// Every series of a metric, as it is written.
    pub fn series<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let of_name =
            move |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        self.0.lines().filter(of_name)
    }
}
