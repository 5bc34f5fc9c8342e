//! Messages that are begun and never finished: nothing can be done with them but keep them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::StreamBody;
use hyper::body::Frame;
use postrider_tests::api::event;
use postrider_tests::raw;
use postrider_tests::turn;
use postrider_tests::world::TENANT;
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tonic::body::Body;
use tonic::client::GrpcService as _;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::Besieged;

/// What a caller says that a message has, nearly as much as one may, and what it sends of it.
const SAID: u32 = 5 << 20;
const SENT: usize = 4 << 20;
/// How many it begins on one connection, and on how many: more than a gibibyte.
const BEGUN: usize = 90;
const CONNECTIONS: usize = 3;
/// What a port may have received of such messages, and something for what they come in. In MiB.
const MOST_MIB: u64 = 256 + 96;

/// The beginning of a message, and then nothing for ever.
fn half() -> Body {
    let head = [&[0][..], &SAID.to_be_bytes()].concat();
    let pieces = std::iter::once(Bytes::from(head))
        .chain(std::iter::repeat_n(Bytes::from_static(&[b' '; 1 << 16]), SENT >> 16));
    let pieces = tokio_stream::iter(pieces.map(|piece| Ok::<_, Status>(Frame::data(piece))));
    Body::new(StreamBody::new(pieces.chain(tokio_stream::pending())))
}

async fn emits_half(mut channel: Channel, url: String, token: String) -> Result<Response<Body>> {
    let request = Request::post(format!("{url}/postrider.v1.EventService/Emit"))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .header("authorization", format!("Bearer {token}"))
        .body(half())?;
    std::future::poll_fn(|context| channel.poll_ready(context)).await?;
    Ok(channel.call(request).await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_messages_take_a_bounded_part_of_memory_and_leave_room_for_whole_ones() -> Result<()> {
    let _turn = turn::take().await;
    // One token begins more calls here than it usually may.
    let besieged = Besieged::start(&["max_token_calls = 100000"]).await?;
    besieged.api.create_tenant().await?;
    let token = std::fs::read_to_string(besieged.control_plane.token_file())?;
    let mut callers = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let channel = besieged.control_plane.channel()?;
        for _ in 0..BEGUN {
            callers.spawn(emits_half(channel.clone(), besieged.control_plane.api_url(), token.clone()));
        }
    }
    // Those that are not refused wait for the rest, as long as a call may take.
    let (sender, refused) = tokio::sync::oneshot::channel();
    let flood = async move {
        let mut codes = Vec::new();
        while let Ok(Some(answered)) = tokio::time::timeout(Duration::from_secs(3), callers.join_next()).await
        {
            let answered = answered??;
            codes.extend(Status::from_header_map(answered.headers()).map(|status| status.code()));
        }
        let _nobody_asks = sender.send(callers);
        Ok(codes)
    };
    let codes = besieged.under("half messages", MOST_MIB, flood).await?;
    let too_much = codes.iter().filter(|code| **code == Code::ResourceExhausted).count();
    ensure!(too_much > 0 && too_much == codes.len(), "{codes:?}");
    let mut waiting = refused.await?;
    ensure!(!waiting.is_empty(), "nobody waits");
    // With all those still there.
    let whole = event("a.b", &format!("\"{}\"", "x".repeat(250 * 1024)));
    besieged.control_plane.api(TENANT)?.emit(whole).await.context("a whole message")?;
    waiting.shutdown().await;
    Ok(())
}

#[tokio::test]
async fn what_anybody_may_ask_is_short() -> Result<()> {
    let besieged = Besieged::start(&[]).await?;
    let channel = besieged.control_plane.channel()?;
    for name in [
        "grpc.health.v1.Health/Check",
        "grpc.health.v1.Health/Watch",
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ] {
        // A field that nobody knows, of more bytes than a question may have.
        let question = [&[0x7a, 0x88, 0x27][..], &[b'a'; 5000]].concat();
        match raw::call(&channel, None, name, question).await {
            // Reflection ends without a word.
            Ok(answers) => ensure!(answers.is_empty(), "{name} is answered"),
            Err(refused) => assert_eq!(refused.code(), Code::OutOfRange, "{name}: {refused:?}"),
        }
    }
    raw::call(&channel, None, "grpc.health.v1.Health/Check", Bytes::new()).await?;
    Ok(())
}
