//! How a receiver answers: well, badly, late, or not at all.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use tokio::net::TcpStream;
use tokio_stream::StreamExt as _;

use super::Body;

/// An answer to a POST.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A status without a body.
    Status(u16),
    /// A status with a header.
    Header(u16, &'static str, String),
    /// A status with headers.
    Headers(u16, Vec<(&'static str, String)>),
    /// A status with a body.
    Body(u16, String),
    /// A status after a while.
    Late(u16, Duration),
    /// None, until the sender gives up.
    Hang,
    /// The connection is reset after the whole request was read.
    Reset,
    /// A status, then a body without end, as fast as it is read.
    EndlessBody(u16),
    /// A status, then a body of one byte at a time.
    DrippingBody(u16),
}

impl Default for Answer {
    fn default() -> Self {
        Self::Status(204)
    }
}

impl Answer {
    /// Answers. An error closes the connection.
    pub(super) async fn give(self, resetter: &TcpStream) -> Result<Response<Body>> {
        let mut response = Response::new(Full::default().boxed_unsync());
        let status = match self {
            Self::Status(status) => status,
            Self::Header(status, name, value) => {
                response.headers_mut().insert(name, value.parse()?);
                status
            }
            Self::Headers(status, headers) => {
                for (name, value) in headers {
                    response.headers_mut().insert(name, value.parse()?);
                }
                status
            }
            Self::Body(status, body) => {
                *response.body_mut() = Full::from(body).boxed_unsync();
                status
            }
            Self::Late(status, delay) => {
                tokio::time::sleep(delay).await;
                status
            }
            Self::Hang => std::future::pending().await,
            Self::Reset => {
                resetter.set_zero_linger()?;
                bail!("reset")
            }
            Self::EndlessBody(status) => {
                *response.body_mut() = repeated(Bytes::from_static(&[b'x'; 16 * 1024]), Duration::ZERO);
                status
            }
            Self::DrippingBody(status) => {
                *response.body_mut() = repeated(Bytes::from_static(b"x"), Duration::from_millis(200));
                status
            }
        };
        *response.status_mut() = StatusCode::from_u16(status)?;
        Ok(response)
    }
}

fn repeated(piece: Bytes, pause: Duration) -> Body {
    let pieces = tokio_stream::iter(std::iter::repeat(piece));
    let frames = pieces.then(move |piece| async move {
        tokio::time::sleep(pause).await;
        Ok::<_, Infallible>(Frame::data(piece))
    });
    StreamBody::new(frames).boxed_unsync()
}

/// The stream with a second handle of its socket, by which an answer can have it reset when it is closed.
pub(super) fn resettable(stream: TcpStream) -> std::io::Result<(TcpStream, TcpStream)> {
    let stream = stream.into_std()?;
    let resetter = TcpStream::from_std(stream.try_clone()?)?;
    Ok((TcpStream::from_std(stream)?, resetter))
}
