//! What nobody should emit is refused in words, and hurts nobody.

use anyhow::{Context as _, Result};
use postrider_proto::v1::{self, DeliveryState};
use postrider_tests::api::event;
use postrider_tests::world::World;
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
        assert_eq!((code, field.as_str()), (Code::InvalidArgument, "event.type"), "«{bad}»: {sentence}");
    }
    let nobody = world.control_plane.api("nobody")?;
    let (code, sentence, _) = refusal(nobody.emit(event("a.b", "{}")).await)?;
    assert!(code == Code::NotFound && sentence.contains("nobody"), "{sentence}");
    Ok(())
}

#[tokio::test]
async fn a_message_of_ten_mebibytes_is_refused_and_the_connection_goes_on() -> Result<()> {
    let world = World::start().await?;
    let (code, sentence, _) = refusal(world.api.emit(with_data(json_of(10 << 20))).await)?;
    let refused = [Code::InvalidArgument, Code::OutOfRange, Code::ResourceExhausted];
    assert!(refused.contains(&code) && !sentence.is_empty(), "{code:?}: {sentence}");
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
    let settings = postrider_tests::world::AgentSettings::default();
    let world = World::without_agent(settings, &["max_event_kib = 1024"]).await?;
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
