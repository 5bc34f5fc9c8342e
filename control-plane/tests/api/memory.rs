//! What an event keeps in memory while it waits and is sent.

use bytes::Bytes;
use postrider_proto::v1::event_service_server::EventService as _;
use postrider_proto::v1::{self, NewEvent};

use crate::world::{World, admin};

/// The data of a decoded call is a part of the call's buffer.
#[tokio::test]
async fn an_accepted_event_holds_on_to_no_more_than_its_data() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::start(folder.path()).await;
    world.tenant("acme").await;
    let mut buffer = vec![b' '; 8 * 1024];
    buffer[..2].copy_from_slice(b"{}");
    let buffer = Bytes::from(buffer);
    let event = |data| NewEvent { r#type: "a.b".into(), data, ..Default::default() };
    let whole = || event(buffer.slice(..2));
    let request = v1::EmitRequest { tenant: "acme".into(), event: Some(whole()) };
    world.api.emit(admin(request)).await.unwrap();
    let request =
        v1::EmitBatchRequest { tenant: "acme".into(), events: vec![whole(), whole()], ..Default::default() };
    world.api.emit_batch(admin(request)).await.unwrap();
    assert!(buffer.is_unique(), "somebody still holds a part of the buffer");
    world.end().await;
}
