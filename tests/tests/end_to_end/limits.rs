//! What nobody should emit is refused in words, and hurts nobody.

use anyhow::{Context as _, Result};
use postrider_proto::v1::{self, DeliveryState};
use postrider_tests::api::{Api, event};
use postrider_tests::clock::now;
use postrider_tests::turn;
use postrider_tests::world::{AgentSettings, World};
use tokio_stream::StreamExt as _;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// A refused emit: code, sentence, and the field at fault.
fn refusal(answer: Result<v1::EmitResponse, Status>) -> Result<(Code, String, String)> {
    let status = answer.err().context("it was accepted")?;
    let bad = status.get_details_bad_request();
    let field = bad.and_then(|bad| bad.field_violations.into_iter().next()).map(|violation| violation.field);
    Ok((status.code(), status.message().to_owned(), field.unwrap_or_default()))
}

fn with_data(data: impl Into<bytes::Bytes>) -> v1::NewEvent {
    v1::NewEvent { data: data.into(), ..event("a.b", "") }
}

fn json_of(bytes: usize) -> Vec<u8> {
    let mut json = vec![b'"'];
    json.resize(bytes - 1, b'x');
    json.push(b'"');
    json
}

fn nested(depth: usize) -> String {
    "[".repeat(depth) + &"]".repeat(depth)
}

#[tokio::test]
async fn hostile_events_are_refused_with_the_field_at_fault() -> Result<()> {
    let world = World::start().await?;
    let data = [
        ("no data", with_data("")),
        ("white space", with_data(" \n")),
        ("a byte too much", with_data(json_of(256 * 1024 + 1))),
        ("4 MiB", with_data(json_of(4 << 20))),
        ("cut off", with_data(r#"{"a":"#)),
        ("two values", with_data("{} {}")),
        ("a trailing comma", with_data("[1,]")),
        ("invalid UTF-8", with_data(&b"\"\xc3\x28\""[..])),
        ("a lone surrogate as bytes", with_data(&b"\"\xed\xa0\x80\""[..])),
        ("depth 101", with_data(nested(101))),
        ("depth 10,000", with_data(nested(10_000))),
        ("depth 100,000, never closed", with_data("[".repeat(100_000))),
    ];
    for (what, hostile) in data {
        let (code, sentence, field) = refusal(world.api.emit(hostile).await).context(what)?;
        assert_eq!((code, field.as_str()), (Code::InvalidArgument, "event.data"), "{what}: {sentence}");
        assert!(sentence.len() > "event.data: ".len() && sentence.len() < 300, "{what}: {sentence}");
    }
    for bad in ["", "a b", "a..b", ".a", "a.", "document.*", "ä", &"x".repeat(129)] {
        let (code, sentence, field) =
            refusal(world.api.emit(event(bad, "{}")).await).context(bad.to_owned())?;
        assert_eq!((code, field.as_str()), (Code::InvalidArgument, "event.type"), "'{bad}': {sentence}");
    }
    let nobody = world.control_plane.api("nobody")?;
    let (code, sentence, _) = refusal(nobody.emit(event("a.b", "{}")).await)?;
    assert!(code == Code::NotFound && sentence.contains("nobody"), "{sentence}");
    Ok(())
}

/// A message that is too large to be read: code, reason, and a sentence with the limit and what to do.
fn assert_too_large(status: &Status, limit: usize) {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.as_str());
    assert_eq!((status.code(), reason), (Code::OutOfRange, Some("MESSAGE_TOO_LARGE")), "{status:?}");
    let said = status.message();
    assert!(said.contains(&limit.to_string()) && said.contains("send less at once"), "{said}");
}

#[tokio::test]
async fn a_message_of_ten_mebibytes_is_refused_and_the_connection_goes_on() -> Result<()> {
    let world = World::without_agent(AgentSettings::default(), &[]).await?;
    let huge = || with_data(json_of(10 << 20));
    let refused = world.api.emit(huge()).await.err().context("it was accepted")?;
    assert_too_large(&refused, 5 << 20);
    let request = v1::EmitBatchRequest { tenant: world.api.tenant(), events: vec![huge()] };
    let refused = world.api.events().emit_batch(request).await.err().context("a batch of it was accepted")?;
    assert_too_large(&refused, 5 << 20);
    let described = v1::EventType {
        tenant: world.api.tenant(),
        name: "a.b".into(),
        description: "x".repeat(10 << 20),
        ..Default::default()
    };
    let request = v1::CreateEventTypeRequest { event_type: Some(described) };
    let refused = world.api.event_types().create_event_type(request).await.err().context("it was taken")?;
    assert_too_large(&refused, 4 << 20);

    let request =
        |event| v1::EmitStreamRequest { reference: 1, tenant: world.api.tenant(), event: Some(event) };
    let requests = tokio_stream::iter([request(with_data("1")), request(huge()), request(with_data("2"))]);
    let mut answers = world.api.events().emit_stream(requests).await?.into_inner();
    let first = answers.message().await?.and_then(|answer| answer.result).context("no answer")?;
    assert!(matches!(first.result, Some(v1::emit_result::Result::Accepted(_))), "{first:?}");
    // What cannot be read ends a stream: nobody knows where the next message would begin.
    assert_too_large(&answers.message().await.err().context("the stream goes on")?, 5 << 20);
    world.api.emit(event("a.b", "{}")).await?;
    Ok(())
}

#[tokio::test]
async fn hostile_events_do_not_end_a_stream() -> Result<()> {
    let world = World::without_agent(AgentSettings::default(), &[]).await?;
    let events = [
        with_data(""),
        with_data("{"),
        with_data(&b"\xff"[..]),
        with_data(nested(10_000)),
        event("not a type", "{}"),
        with_data(json_of(1 << 20)),
        with_data("{}"),
    ];
    let count = events.len();
    let requests = events.into_iter().enumerate().map(|(number, event)| v1::EmitStreamRequest {
        reference: number as u64,
        tenant: world.api.tenant(),
        event: Some(event),
    });
    let requests: Vec<_> = requests.collect();
    let answers = world.api.events().emit_stream(tokio_stream::iter(requests)).await?.into_inner();
    let answers: Vec<_> = answers.collect::<Result<_, _>>().await?;
    assert_eq!(answers.len(), count);
    for (number, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.reference, number as u64);
        match answer.result.and_then(|result| result.result).context("no result")? {
            v1::emit_result::Result::Accepted(_) => assert_eq!(number, count - 1),
            v1::emit_result::Result::Error(error) => {
                assert_eq!(Code::from(error.code), Code::InvalidArgument, "{error:?}");
                assert!(error.field.starts_with("event.") && !error.message.is_empty(), "{error:?}");
            }
        }
    }
    Ok(())
}

/// How many events a memory is compared after, and in all.
const WARM: usize = 200_000;
const KEYS: usize = 1_000_000;

/// Emits so many events, each with an idempotency key of its own.
async fn emit_with_keys(api: &Api, first: usize, count: usize) -> Result<()> {
    let tenant = api.tenant();
    let requests = (first..first + count).map(move |number| v1::EmitStreamRequest {
        reference: number as u64,
        tenant: tenant.clone(),
        event: Some(v1::NewEvent { idempotency_key: format!("key-{number}"), ..event("a.b", "{}") }),
    });
    let mut answers = api.events().emit_stream(tokio_stream::iter(requests)).await?.into_inner();
    let mut accepted = 0;
    while let Some(answer) = answers.message().await? {
        let result = answer.result.and_then(|result| result.result);
        anyhow::ensure!(matches!(result, Some(v1::emit_result::Result::Accepted(_))), "{result:?}");
        accepted += 1;
    }
    assert_eq!(accepted, count);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_idempotency_keys_take_disk_and_little_memory() -> Result<()> {
    let _turn = turn::take().await;
    let world = World::without_agent(AgentSettings::default(), &[]).await?;
    emit_with_keys(&world.api, 0, WARM).await?;
    let warm = world.control_plane.memory_mib()?;
    emit_with_keys(&world.api, WARM, KEYS - WARM).await?;
    let full = world.control_plane.memory_mib()?;
    println!("{warm} MiB after {WARM} keys, {full} MiB after {KEYS}");
    // The store keeps some bytes a page in memory, and pages hold many keys; the keys themselves are on disk.
    let bytes_a_key = (full.saturating_sub(warm) << 20) / (KEYS - WARM) as u64;
    assert!(bytes_a_key < 110 && full < 300, "{warm} MiB after {WARM} keys, {full} MiB after {KEYS}");
    let again = v1::NewEvent { idempotency_key: "key-0".into(), ..event("a.b", "{}") };
    assert!(world.api.emit(again).await?.duplicate, "the first key is forgotten");
    Ok(())
}

const CALLERS: usize = 64;
const CALLS: usize = 600;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_single_calls_at_once_take_little_memory() -> Result<()> {
    let _turn = turn::take().await;
    let world = World::without_agent(AgentSettings::default(), &[]).await?;
    world.subscribe("/a").await?;
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let api = world.api.clone();
        callers.spawn(async move {
            for _ in 0..CALLS {
                api.emit(with_data(json_of(400))).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended??;
    }
    let memory = world.control_plane.memory_mib()?;
    println!("{memory} MiB after {} calls", CALLERS * CALLS);
    assert!(memory <= 150, "{memory} MiB after {} calls", CALLERS * CALLS);
    Ok(())
}

/// A call whose message never comes. The server has thirty seconds of patience.
#[tokio::test]
async fn a_call_that_never_says_what_it_wants_is_ended() -> Result<()> {
    let world = World::without_agent(AgentSettings::default(), &[]).await?;
    let begun = now();
    let channel = world.control_plane.channel()?;
    let silent = tokio_stream::pending::<v1::EmitRequest>();
    let codec = tonic_prost::ProstCodec::<_, v1::EmitResponse>::default();
    let token = std::fs::read_to_string(world.control_plane.token_file())?;
    let mut silent = tonic::Request::new(silent);
    silent.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await?;
    let path = "/postrider.v1.EventService/Emit".parse()?;
    let ended = grpc.client_streaming(silent, path, codec).await;
    let ended = ended.map(drop).err().context("it was answered")?;
    assert_eq!(ended.code(), Code::DeadlineExceeded, "{ended:?}");
    assert!(begun.elapsed() > std::time::Duration::from_secs(25), "after {:?}", begun.elapsed());
    world.api.emit(event("a.b", "{}")).await?;
    Ok(())
}

#[tokio::test]
async fn what_is_just_within_the_limits_is_delivered_byte_for_byte() -> Result<()> {
    let world = World::start().await?;
    world.subscribe("/a").await?;
    let (largest, deepest) = (json_of(256 * 1024), nested(100));
    let data = [
        largest.as_slice(),
        deepest.as_bytes(),
        "{ \"b\" : 1.50,\n\t\"a\":1e400, \"ä\":\"\\u00e4\\ud83d\\ude00😀\", \"a\":2}".as_bytes(),
        b"null",
        b"  0  ",
    ];
    for data in data {
        let (id, delivery) = world.api.emit_to_one(with_data(data.to_vec())).await?;
        world.api.delivery_in(&delivery, DeliveryState::Delivered).await?;
        let posts = world.receiver.posts();
        let post = posts.iter().find(|post| post.id == id).context("no POST")?;
        let body = &post.body;
        let end = [b"\"data\":", data, b"}"].concat();
        assert!(body.ends_with(&end), "{}", String::from_utf8_lossy(&body[..body.len().min(300)]));
    }
    Ok(())
}

#[tokio::test]
async fn the_operator_can_set_another_limit() -> Result<()> {
    let world = World::without_agent(AgentSettings::default(), &["max_event_kib = 1024"]).await?;
    world.api.emit(with_data(json_of(1024 * 1024))).await?;
    let (code, sentence, field) = refusal(world.api.emit(with_data(json_of(1024 * 1024 + 1))).await)?;
    assert_eq!((code, field.as_str()), (Code::InvalidArgument, "event.data"), "{sentence}");
    Ok(())
}

#[tokio::test]
async fn a_batch_is_judged_event_by_event() -> Result<()> {
    let world = World::start().await?;
    world.subscribe("/a").await?;
    let events = vec![with_data("1"), with_data("{"), with_data("3")];
    let request = v1::EmitBatchRequest { tenant: world.api.tenant(), events };
    let results = world.api.events().emit_batch(request).await?.into_inner().results;
    let accepted: Vec<bool> = results
        .iter()
        .map(|result| matches!(result.result, Some(v1::emit_result::Result::Accepted(_))))
        .collect();
    assert_eq!(accepted, [true, false, true]);
    let too_many = v1::EmitBatchRequest { tenant: world.api.tenant(), events: vec![with_data("1"); 1001] };
    let refused = world.api.events().emit_batch(too_many).await;
    assert_eq!(refused.map_err(|status| status.code()).err(), Some(Code::InvalidArgument));
    world.api.all_ended(postrider_tests::wait::PATIENCE).await?;
    assert_eq!(world.receiver.count(), 2);
    Ok(())
}
