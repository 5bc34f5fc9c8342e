//! Calls by name, with bytes: what a table of all calls needs.

use anyhow::Context as _;
use bytes::{Buf as _, BufMut as _, Bytes};
use tokio_stream::StreamExt as _;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Request, Status};

/// Leaves bytes as they are.
#[derive(Clone, Copy, Debug, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// Makes a call such as `postrider.v1.EventService/Emit` with one message, whatever kind of call it is, and hears its
/// answers to the end.
///
/// # Errors
/// The status it ends with.
pub async fn call(
    channel: &Channel,
    authorization: Option<&str>,
    name: &str,
    message: impl Into<Bytes>,
) -> Result<Vec<Bytes>, Status> {
    let unusable = |error: anyhow::Error| Status::internal(format!("{error:#}"));
    let path = format!("/{name}").parse().context("the name is no path").map_err(unusable)?;
    let mut request = Request::new(tokio_stream::once(message.into()));
    if let Some(authorization) = authorization {
        let value = authorization.parse().context("the token cannot be sent").map_err(unusable)?;
        request.metadata_mut().insert("authorization", value);
    }
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.context("no connection").map_err(unusable)?;
    let mut answers = grpc.streaming(request, path, Raw).await?.into_inner();
    let mut heard = Vec::new();
    while let Some(answer) = answers.next().await {
        heard.push(answer?);
    }
    Ok(heard)
}
