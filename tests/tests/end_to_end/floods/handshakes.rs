//! Connections that come and say nothing, or half of what it takes.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use postrider_tests::clock::now;
use postrider_tests::frames::{PREFACE, Port, Wire};
use postrider_tests::turn;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Besieged;

/// When a slow handshake is cut off, and by when at the latest.
const DEADLINE: std::ops::Range<Duration> = Duration::from_millis(4500)..Duration::from_secs(8);

/// How far a slow client goes.
#[derive(Clone, Copy, Debug)]
enum Until {
    Nothing,
    HalfAClientHello,
    Tls,
    HalfAPreface,
}

const ALL: [Until; 4] = [Until::Nothing, Until::HalfAClientHello, Until::Tls, Until::HalfAPreface];

/// How long a slow client's connection lasts.
async fn lasted(port: Port, until: Until) -> Result<(Until, Duration)> {
    let begun = now();
    match until {
        Until::Nothing => silent(&mut port.plain().await?, &[]).await?,
        Until::HalfAClientHello => {
            silent(&mut port.plain().await?, &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]).await?
        }
        Until::Tls => Wire::new(port.secured().await?).ear.closed(DEADLINE.end).await?,
        Until::HalfAPreface => {
            let mut wire = Wire::new(port.secured().await?);
            wire.send(&PREFACE[..12]).await?;
            wire.ear.closed(DEADLINE.end).await?;
        }
    }
    Ok((until, begun.elapsed()))
}

/// Says this and no more, until the connection is closed.
async fn silent(stream: &mut TcpStream, said: &[u8]) -> Result<()> {
    stream.write_all(said).await?;
    // It may also be reset, or told why.
    let _end = timeout(DEADLINE.end, stream.read_to_end(&mut Vec::new())).await.context("it goes on")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_handshake_is_cut_off_and_holds_up_nobody() -> Result<()> {
    let besieged = Besieged::start(&[]).await?;
    let ports = besieged.ports().await?;
    let slow = async move {
        let mut slow = JoinSet::new();
        for port in ports {
            for until in ALL {
                slow.spawn(lasted(port.clone(), until));
            }
        }
        slow.join_all().await.into_iter().collect::<Result<Vec<_>>>()
    };
    for (until, lasted) in besieged.under("slow handshakes", 16, slow).await? {
        ensure!(DEADLINE.contains(&lasted), "{until:?}: {lasted:?}");
    }
    Ok(())
}

/// More connections than there are places for strangers.
const CROWD: usize = 1200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_says_nothing_keeps_out_nobody() -> Result<()> {
    let _turn = turn::take().await;
    let besieged = Besieged::start(&[]).await?;
    let agent = besieged.enrolled().await?;
    let agents = besieged.agents().await?;
    for port in besieged.ports().await? {
        let mut crowd = Vec::new();
        for _ in 0..CROWD {
            crowd.push(port.plain().await?);
        }
        // All of them are there and wait, and more come in all the time.
        let pushing = async move {
            for _ in 0..CROWD {
                crowd.push(port.plain().await?);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok(())
        };
        let connects = async {
            let mut session = agents.connect(Some(&agent.credentials), agent.hello.clone()).await?;
            timeout(super::PATIENT, session.hear()).await.context("the agent is kept out")?
        };
        let (pushed, heard) = tokio::join!(besieged.under("a crowd", 64, pushing), connects);
        pushed.and(heard)?;
    }
    let log = besieged.control_plane.log();
    let lines = log.lines().filter(|line| line.contains("connection limit reached")).count();
    assert_eq!(lines, 2, "a line for each port, not one for each connection");
    Ok(())
}
