//! Streams of agents that say nothing, too much, or too often.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use postrider_proto::agent::control_message::Message as Heard;
use postrider_proto::agent::session_service_client::SessionServiceClient;
use postrider_proto::agent::{AgentMessage, Hello, JobKey, Reject, RejectCode};
use postrider_tests::applicant::Session;
use postrider_tests::clock::now;
use postrider_tests::wait::{eventually, when};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::{Besieged, Enrolled};

/// Streams that one connection may have, and that one agent may have.
const OF_A_CONNECTION: usize = 16;
const OF_AN_AGENT: usize = 32;

/// A stream on which nothing is said yet.
async fn opened(channel: &Channel) -> Result<Session> {
    let (to, messages) = mpsc::channel::<AgentMessage>(16);
    let mut client = SessionServiceClient::new(channel.clone());
    let from = client.connect(ReceiverStream::new(messages)).await?.into_inner();
    Ok(Session { to, from })
}

async fn rejected(session: &mut Session) -> Result<Reject> {
    match session.hear().await? {
        Heard::Reject(reject) => Ok(reject),
        other => anyhow::bail!("instead of a rejection: {other:?}"),
    }
}

async fn says(besieged: &Besieged, agent: &Enrolled, hello: Hello) -> Result<Session> {
    Ok(besieged.agents().await?.connect(Some(&agent.credentials), hello).await?)
}

#[tokio::test]
async fn a_stream_without_hello_ends_in_five_seconds() -> Result<()> {
    let besieged = Besieged::start(&[]).await?;
    let agent = besieged.enrolled().await?;
    let channel = besieged.agents().await?.channel(Some(&agent.credentials))?;
    let begun = now();
    let mut session = opened(&channel).await?;
    let reject = rejected(&mut session).await?;
    let after = begun.elapsed();
    assert_eq!(reject.code(), RejectCode::InvalidHello, "{reject:?}");
    ensure!((Duration::from_secs(4)..Duration::from_secs(8)).contains(&after), "{after:?}");
    ensure!(session.from.message().await?.is_none(), "the stream goes on");
    Ok(())
}

#[tokio::test]
async fn a_hello_that_names_more_jobs_than_the_agent_can_have_is_refused() -> Result<()> {
    let besieged = Besieged::start(&[]).await?;
    let agent = besieged.enrolled().await?;
    let job = JobKey {
        delivery_id: format!("dlv_{}-{}", "0".repeat(26), u64::MAX),
        attempt: 9,
        epoch: u64::MAX,
        tag: vec![7; 16].into(),
    };
    let naming = |jobs: usize| Hello { in_flight: vec![job.clone(); jobs], ..agent.hello.clone() };
    let mut session = says(&besieged, &agent, naming(200_000)).await?;
    let reject = rejected(&mut session).await?;
    assert_eq!((reject.code(), reject.permanent), (RejectCode::InvalidHello, true), "{reject:?}");
    ensure!(reject.message.contains("too large"), "{reject:?}");
    // More than its credit of 8, and 1024 outcomes that were not acknowledged.
    let mut session = says(&besieged, &agent, naming(1_033)).await?;
    let reject = rejected(&mut session).await?;
    assert_eq!((reject.code(), reject.permanent), (RejectCode::InvalidHello, true), "{reject:?}");
    ensure!(reject.message.contains("at most 1032 jobs"), "{reject:?}");
    // As many jobs as any agent can have, but they were not given to it.
    let most = Hello { max_in_flight: 65_536, ..naming(8_192 + 4_096) };
    let mut session = says(&besieged, &agent, most).await?;
    let reject = rejected(&mut session).await?;
    assert_eq!((reject.code(), reject.permanent), (RejectCode::ProtocolError, false), "{reject:?}");
    ensure!(reject.message.contains("not given to this agent"), "{reject:?}");
    let mut session = says(&besieged, &agent, agent.hello.clone()).await?;
    let heard = session.hear().await?;
    ensure!(matches!(heard, Heard::Welcome(_)), "{heard:?}");
    Ok(())
}

#[tokio::test]
async fn one_agent_has_so_many_streams_and_no_more() -> Result<()> {
    let besieged = Besieged::start(&[]).await?;
    let (agent, other) = (besieged.enrolled().await?, besieged.enrolled().await?);
    let port = besieged.agents().await?;
    let mut open = Vec::new();
    for _ in 0..OF_AN_AGENT / OF_A_CONNECTION {
        let channel = port.channel(Some(&agent.credentials))?;
        for _ in 0..OF_A_CONNECTION {
            open.push(opened(&channel).await?);
        }
    }
    let mut more = opened(&port.channel(Some(&agent.credentials))?).await?;
    let reject = rejected(&mut more).await?;
    assert_eq!((reject.code(), reject.permanent), (RejectCode::TooMany, false), "{reject:?}");
    ensure!(reject.retry_after_ms >= 1000 && reject.message.contains("fewer processes"), "{reject:?}");
    let mut session = says(&besieged, &other, other.hello.clone()).await?;
    ensure!(matches!(session.hear().await?, Heard::Welcome(_)), "another agent is not to blame");
    drop(open);
    let welcome = async || {
        let mut session = says(&besieged, &agent, agent.hello.clone()).await?;
        Ok(when(matches!(session.hear().await?, Heard::Welcome(_))))
    };
    eventually("it is let in again", welcome).await
}

/// More streams than an agent may open at once.
const OFTEN: usize = 120;

#[tokio::test]
async fn an_agent_that_comes_too_often_is_told_when_to_come_back() -> Result<()> {
    let besieged = Besieged::start(&[]).await?;
    let (agent, other) = (besieged.enrolled().await?, besieged.enrolled().await?);
    let channel = besieged.agents().await?.channel(Some(&agent.credentials))?;
    let mut reject = None;
    for _ in 0..OFTEN {
        // Nothing is said on it: it ends when it is dropped.
        let (_, nothing) = mpsc::channel::<AgentMessage>(1);
        let mut client = SessionServiceClient::new(channel.clone());
        let mut from = client.connect(ReceiverStream::new(nothing)).await?.into_inner();
        if let Some(Heard::Reject(said)) = from.message().await?.and_then(|heard| heard.message) {
            reject = Some(said);
            break;
        }
    }
    let reject = reject.context("it may come as often as it likes")?;
    assert_eq!((reject.code(), reject.permanent), (RejectCode::TooMany, false), "{reject:?}");
    ensure!(
        (1000..5000).contains(&reject.retry_after_ms) && reject.message.contains("too often"),
        "{reject:?}"
    );
    let mut session = says(&besieged, &other, other.hello.clone()).await?;
    ensure!(matches!(session.hear().await?, Heard::Welcome(_)), "another agent is not to blame");
    tokio::time::sleep(Duration::from_millis(reject.retry_after_ms.into())).await;
    let mut session = says(&besieged, &agent, agent.hello.clone()).await?;
    ensure!(matches!(session.hear().await?, Heard::Welcome(_)), "it has waited as long as it was told to");
    Ok(())
}
