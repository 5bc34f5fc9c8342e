//! One `EmitStream`, with a window of events that have no answer yet.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use postrider_proto::v1;
use postrider_proto::v1::emit_result::Result as Emitted;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::Run;
use crate::clock::{self, Moment};

/// When each event without an answer was sent; answers come in the order of the requests.
type Sent = Rc<RefCell<VecDeque<Moment>>>;

/// Emits with so many under way until it is over.
pub(super) async fn run(run: &Rc<Run>, window: usize) {
    let (requests, queue) = mpsc::channel(window.max(1));
    let room = Arc::new(Semaphore::new(window.max(1)));
    let sent = Sent::default();
    let sender = tokio::task::spawn_local(send(run.clone(), requests, room.clone(), sent.clone()));
    if let Err(status) = receive(run, queue, &room, &sent).await {
        run.not_accepted(status.code(), status.message());
    }
    sender.abort();
}

async fn send(run: Rc<Run>, requests: mpsc::Sender<v1::EmitStreamRequest>, room: Arc<Semaphore>, sent: Sent) {
    let mut reference = 0;
    while run.another().await {
        let Ok(permit) = room.acquire().await else { return };
        permit.forget();
        reference += 1;
        let request =
            v1::EmitStreamRequest { reference, tenant: run.tenant.clone(), event: Some(run.event()) };
        sent.borrow_mut().push_back(clock::now());
        if requests.send(request).await.is_err() {
            return;
        }
    }
}

async fn receive(
    run: &Run,
    queue: mpsc::Receiver<v1::EmitStreamRequest>,
    room: &Semaphore,
    sent: &Sent,
) -> Result<(), Status> {
    let mut client = run.client.clone();
    let mut answers = client.emit_stream(ReceiverStream::new(queue)).await?.into_inner();
    while let Some(answer) = answers.message().await? {
        let begun = sent.borrow_mut().pop_front().unwrap_or_default();
        match answer.result.and_then(|result| result.result) {
            Some(Emitted::Accepted(accepted)) => run.accepted(&accepted, begun),
            Some(Emitted::Error(error)) => drop(run.not_accepted(Code::from(error.code), &error.message)),
            None => drop(run.not_accepted(Code::Unknown, "an answer without a result")),
        }
        room.add_permits(1);
    }
    Ok(())
}
