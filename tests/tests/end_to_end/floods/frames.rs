//! Floods of HTTP/2 frames, on both ports, from clients that are known: strangers get less.

use std::iter::once;

use anyhow::{Context as _, Result, ensure};
use postrider_tests::frames::{END_HEADERS, Flooded, Port, frame, grpc, header, kind};
use postrider_tests::turn;

use super::Besieged;

/// Frames of one flood, or pairs of them.
const MANY: u32 = 30_000;
/// By how many MiB memory may grow under one.
const MOST_MIB: u64 = 32;
/// Codes of a goodbye. Source: RFC 9113, section 7.
const FLOW_CONTROL_ERROR: u32 = 3;
const ENHANCE_YOUR_CALM: u32 = 11;
/// Settings. Source: RFC 9113, section 6.5.2.
const INITIAL_WINDOW_SIZE: u16 = 4;

type Frames = Box<dyn Iterator<Item = Vec<u8>> + Send>;

/// A known client of a port, and how it begins a call there.
#[derive(Clone)]
struct Client {
    name: &'static str,
    port: Port,
    call: Vec<u8>,
}

/// What a flood must come to.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The connection is closed before all of it was heard, with a goodbye or without.
    Closed,
    /// The connection is closed, with this code, or before that for all that was sent beside bodies.
    Goodbye(u32),
    /// One of these.
    Either,
}

impl Client {
    async fn of(besieged: &Besieged) -> Result<[Self; 2]> {
        let token = besieged.token_of_a_tenant().await?;
        let emit = "/postrider.v1.EventService/Emit";
        let api = Self {
            name: "api",
            port: besieged.api_port()?,
            call: grpc(emit, &[("authorization", &format!("Bearer {token}"))]),
        };
        let agent = besieged.enrolled().await?;
        let agents = Self {
            name: "agents",
            port: besieged.agent_port(Some(&agent)).await?,
            call: grpc("/postrider.agent.v1.SessionService/Connect", &[]),
        };
        Ok([api, agents])
    }

    /// The beginning of a call, whose body is still to come.
    fn begins(&self) -> impl Fn(u32) -> Vec<u8> + Send + use<> {
        let call = self.call.clone();
        move |stream| frame(kind::HEADERS, END_HEADERS, stream, &call)
    }

    /// The beginning of a call with a header of so many bytes, in as many frames as it takes.
    fn begins_with(&self, size: usize) -> impl Fn(u32) -> Vec<u8> + Send + use<> {
        let call = [self.call.clone(), header("x-large", &"a".repeat(size))].concat();
        move |stream| {
            let last = call.len().div_ceil(16_384) - 1;
            let pieces = call.chunks(16_384).enumerate().flat_map(|(at, piece)| {
                let kind = if at == 0 { kind::HEADERS } else { kind::CONTINUATION };
                frame(kind, if at == last { END_HEADERS } else { 0 }, stream, piece)
            });
            pieces.collect()
        }
    }

    /// Floods of calls.
    fn calls(&self) -> Vec<(&'static str, End, Frames)> {
        let streams = || (0..MANY).map(|number| 2 * number + 1);
        let begins = self.begins();
        let takes_back = move |stream| {
            let cancel = 8_u32.to_be_bytes();
            [begins(stream), frame(kind::RST_STREAM, 0, stream, &cancel)].concat()
        };
        let (large, larger) = (self.begins_with(9_000), self.begins_with(40_000));
        let headers = once(frame(kind::HEADERS, 0, 1, &self.call));
        let more =
            |number: u32| frame(kind::CONTINUATION, 0, 1, &header(&format!("x-{number}"), &"a".repeat(999)));
        let body = |bytes: &'static [u8]| {
            once(self.begins()(1)).chain((0..MANY).map(|_| frame(kind::DATA, 0, 1, bytes)))
        };
        vec![
            ("calls taken back", End::Goodbye(ENHANCE_YOUR_CALM), Box::new(streams().map(takes_back))),
            ("too many calls", End::Goodbye(ENHANCE_YOUR_CALM), Box::new(streams().map(self.begins()))),
            ("large headers", End::Either, Box::new(streams().take(2_000).map(large))),
            ("larger headers", End::Goodbye(ENHANCE_YOUR_CALM), Box::new(streams().take(500).map(larger))),
            (
                "empty continuations",
                End::Goodbye(ENHANCE_YOUR_CALM),
                Box::new(headers.clone().chain((0..MANY).map(|_| frame(kind::CONTINUATION, 0, 1, &[])))),
            ),
            (
                "headers without end",
                End::Goodbye(ENHANCE_YOUR_CALM),
                Box::new(headers.chain((0..MANY).map(more))),
            ),
            ("empty data", End::Goodbye(ENHANCE_YOUR_CALM), Box::new(body(&[]))),
            ("data in single bytes", End::Goodbye(ENHANCE_YOUR_CALM), Box::new(body(&[0]))),
        ]
    }
}

/// Floods of frames about the connection.
fn about_the_connection() -> Vec<(&'static str, End, Frames)> {
    let window = |number: u32| [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &number.to_be_bytes()].concat();
    let settings = (0..MANY).map(move |number| frame(kind::SETTINGS, 0, 0, &window(number)));
    let pings = (0..MANY).map(|number| frame(kind::PING, 0, 0, &u64::from(number).to_be_bytes()));
    let priorities = (0..MANY).map(|number| frame(kind::PRIORITY, 0, 2 * number + 1, &[0, 0, 0, 0, 16]));
    let unknown = (0..MANY).map(|_| frame(99, 0, 0, b"what nobody knows"));
    let windows = |by: u32| (0..MANY).map(move |_| frame(kind::WINDOW_UPDATE, 0, 0, &by.to_be_bytes()));
    vec![
        ("settings", End::Closed, Box::new(settings)),
        ("pings", End::Closed, Box::new(pings)),
        ("priorities", End::Closed, Box::new(priorities)),
        ("unknown frames", End::Closed, Box::new(unknown)),
        ("small windows", End::Closed, Box::new(windows(1))),
        ("large windows", End::Goodbye(FLOW_CONTROL_ERROR), Box::new(windows(0x7fff_ffff))),
    ]
}

impl End {
    fn is(self, flooded: &Flooded) -> bool {
        match self {
            Self::Closed => !flooded.absorbed,
            Self::Goodbye(code) => !flooded.absorbed && flooded.goodbye.is_none_or(|said| said == code),
            Self::Either => true,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_frames_is_ended_and_others_do_not_feel_it() -> Result<()> {
    let _turn = turn::take().await;
    let besieged = Besieged::start(&[]).await?;
    for client in Client::of(&besieged).await? {
        for (what, end, frames) in client.calls().into_iter().chain(about_the_connection()) {
            let what = format!("{}: {what}", client.name);
            let port = client.port.clone();
            let flood = async move { port.greeted(&[]).await?.flood(frames).await };
            let flooded = besieged.under(&what, MOST_MIB, flood).await?;
            ensure!(end.is(&flooded), "{what}: {flooded:?} instead of {end:?}");
        }
    }
    Ok(())
}

/// What a client gets rid of of a flood without end, with what fits into the buffers of the system.
const MOST_BYTES: usize = 24 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_is_cut_off_before_it_has_said_much() -> Result<()> {
    let _turn = turn::take().await;
    let besieged = Besieged::start(&["admin_listen = \"127.0.0.1:0\""]).await?;
    let emit = grpc("/postrider.v1.EventService/Emit", &[]);
    let call = frame(kind::HEADERS, END_HEADERS, 1, &emit);
    let floods = [
        ("priorities", frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 0, 16])),
        ("windows", frame(kind::WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
        ("settings", frame(kind::SETTINGS, 0, 0, &[])),
        ("pings", frame(kind::PING, 0, 0, &[7; 8])),
        ("unknown frames", frame(99, 0, 0, &[7; 16_384])),
        ("empty data", frame(kind::DATA, 0, 1, &[])),
        ("data of a call that is over", frame(kind::DATA, 0, 1, &[7; 16_384])),
    ];
    for port in besieged.ports().await? {
        for (what, piece) in &floods {
            let mut wire = port.greeted(&[]).await?;
            wire.send(&call).await?;
            let portion = piece.repeat(65_536_usize.div_ceil(piece.len()));
            let mut said = 0;
            while wire.send(&portion).await.is_ok() {
                said += portion.len();
                ensure!(said < MOST_BYTES, "{what}: {said} bytes were taken");
            }
        }
    }
    let scrape = besieged.control_plane.admin().context("there is an admin port")?.scrape().await?;
    for port in ["api", "agents"] {
        let counted = scrape.value(&format!("postrider_flooding_connections_total{{port=\"{port}\"}}"))?;
        ensure!(counted >= 5.0, "{port}: {counted} were counted");
    }
    Ok(())
}

/// Connections that flood together.
const TOGETHER: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_floods_at_once_leave_time_for_others() -> Result<()> {
    let _turn = turn::take().await;
    let besieged = Besieged::start(&[]).await?;
    let ports = besieged.ports().await?;
    let floods = async move {
        let mut floods = tokio::task::JoinSet::new();
        for port in ports.iter().cycle().take(TOGETHER) {
            let port = port.clone();
            floods.spawn(async move {
                for (_, _, frames) in about_the_connection() {
                    port.greeted(&[]).await?.flood(frames).await?;
                }
                anyhow::Ok(())
            });
        }
        floods.join_all().await.into_iter().collect::<Result<()>>()
    };
    besieged.under("floods together", MOST_MIB, floods).await
}
