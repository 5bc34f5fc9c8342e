//! Clients that ask and do not take what they asked for.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use postrider_proto::agent::AgentMessage;
use postrider_proto::agent::agent_message::Message as Said;
use postrider_proto::v1::AgentState;
use postrider_tests::clock::now;
use postrider_tests::frames::{END_HEADERS, PREFACE, Port, Wire, frame, grpc, kind, message};
use postrider_tests::wait::{when, within};
use postrider_tests::world::TENANT;
use prost::Message as _;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use super::{Besieged, call};

/// When such a client is let go, and by when at the latest.
const LET_GO: std::ops::Range<Duration> = Duration::from_secs(25)..Duration::from_secs(50);
/// No window for bodies. Source: RFC 9113, section 6.5.2.
const NO_WINDOW: &[(u16, u32)] = &[(4, 0)];
/// Connections that ask.
const CROWD: usize = 100;
/// Calls on each: as many as a stranger may have at once.
const CALLS: u32 = 8;

/// Asks for a description of the API on connections that have no window for it.
async fn asks(port: Port) -> Result<Vec<Wire>> {
    // ServerReflectionRequest.file_containing_symbol
    let symbol = "postrider.v1.SubscriptionService";
    let request = [&[0x22, u8::try_from(symbol.len())?][..], symbol.as_bytes()].concat();
    let headers = grpc("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", &[]);
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        let mut wire = port.greeted(NO_WINDOW).await?;
        for stream in (0..CALLS).map(|number| 2 * number + 1) {
            let ask = frame(kind::DATA, 0, stream, &message(&request));
            wire.send(&[frame(kind::HEADERS, END_HEADERS, stream, &headers), ask].concat()).await?;
        }
        crowd.push(wire);
    }
    Ok(crowd)
}

/// Asks again and again whether anybody is there and takes no answer, until it is cut off: before the answers fill a buffer.
async fn pings(port: Port) -> Result<()> {
    let mut stream = port.secured().await?;
    stream.write_all(&[PREFACE, &frame(kind::SETTINGS, 0, 0, &[])].concat()).await?;
    let pings = frame(kind::PING, 0, 0, &[7; 8]).repeat(1000);
    let asking = async { while stream.write_all(&pings).await.is_ok() {} };
    timeout(LET_GO.end, asking).await.context("who only asks whether anybody is there is not cut off")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_nothing_is_let_go() -> Result<()> {
    let besieged = Besieged::start(&[]).await?;
    let agent = besieged.enrolled().await?;
    let begun = now();
    let crowd = besieged.under("questions without listeners", 64, asks(besieged.api_port()?)).await?;
    pings(besieged.api_port()?).await?;
    pings(besieged.agent_port(Some(&agent)).await?).await?;

    let hello = AgentMessage { message: Some(Said::Hello(agent.hello.clone())) };
    let headers = grpc("/postrider.agent.v1.SessionService/Connect", &[]);
    let mut session = besieged.agent_port(Some(&agent)).await?.greeted(NO_WINDOW).await?;
    let said = message(&hello.encode_to_vec());
    let opens = [frame(kind::HEADERS, END_HEADERS, 1, &headers), frame(kind::DATA, 0, 1, &said)].concat();
    session.send(&opens).await?;
    besieged.api.agent_connected(&agent.hello.agent_id, 1).await?;

    // A client that takes what it asks for is not let go, however long it has been there.
    let steady = besieged.control_plane.api(TENANT)?;
    call(&steady).await?;
    for mut wire in crowd {
        wire.ear.closed(LET_GO.end).await?;
    }
    session.ear.closed(LET_GO.end).await?;
    let gone = async || {
        let seen = besieged.api.agent(&agent.hello.agent_id).await?.context("the agent is known")?;
        Ok(when(seen.state() == AgentState::Disconnected))
    };
    within(LET_GO.end, "the agent is seen to be gone", gone).await?;
    let after = begun.elapsed();
    ensure!(LET_GO.contains(&after), "{after:?}");
    call(&steady).await
}
