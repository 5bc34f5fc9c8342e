//! Streams of answers: their tasks end with them, and they end when their callers' tokens do.

use std::sync::Arc;

use futures::stream::{self, Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use tracing::{Instrument as _, Span, error};

use super::status;
use crate::tokens::TokenStatus;

/// The answers that a task sends. It ends with the stream, and when it panics the last word is an error: the client
/// must not take the end of the stream for a good one.
pub(super) fn fed<T: Send + 'static>(
    answers: mpsc::Receiver<Result<T, Status>>,
    work: impl Future<Output = ()> + Send + 'static,
    span: Span,
) -> impl Stream<Item = Result<T, Status>> + Send + 'static {
    let task = AbortOnDropHandle::new(tokio::spawn(work.instrument(span)));
    let last = stream::once(async move {
        let error = task.await.err()?;
        error!(%error, "the task of a stream failed");
        Some(Err(status::fault()))
    });
    ReceiverStream::new(answers).chain(last.filter_map(std::future::ready))
}

/// The answers until the token ceases to be valid; then what still waits is not sent, and the last word is an error.
pub(super) fn while_valid<T: Send + 'static>(
    answers: impl Stream<Item = Result<T, Status>> + Send + 'static,
    token_status: &Arc<TokenStatus>,
) -> impl Stream<Item = Result<T, Status>> + Send + 'static {
    let kept = token_status.clone();
    let last = stream::once(async move { kept.ended.is_cancelled().then(|| Err(status::token_ended())) });
    let ended = token_status.ended.clone().cancelled_owned();
    // The end is looked at first, whatever there is to be sent.
    answers.take_until(ended).chain(last.filter_map(std::future::ready))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[tokio::test]
    async fn a_stream_whose_task_panics_ends_with_an_error_and_takes_its_task_with_it() {
        for (panics, last) in [(true, Some(Code::Internal)), (false, None)] {
            let (sender, answers) = mpsc::channel(1);
            let work = async move {
                sender.send(Ok(1)).await.unwrap();
                assert!(!panics, "the test says so");
            };
            let mut answers = Box::pin(fed(answers, work, Span::none()));
            assert_eq!(answers.next().await.unwrap().unwrap(), 1);
            assert_eq!(answers.next().await.map(|last| last.unwrap_err().code()), last);
            assert!(answers.next().await.is_none());
        }
        let (sender, answers) = mpsc::channel::<Result<u32, Status>>(1);
        let (ended, task_ended) = tokio::sync::oneshot::channel::<()>();
        let work = async move {
            let _kept = (sender, ended);
            std::future::pending::<()>().await;
        };
        drop(fed(answers, work, Span::none()));
        assert!(task_ended.await.is_err(), "the task has been dropped");
    }

    #[tokio::test]
    async fn nothing_that_waits_is_sent_after_the_end() {
        let token_status = Arc::new(TokenStatus::default());
        let mut answers = Box::pin(while_valid(stream::iter((1..9).map(Ok)), &token_status));
        assert_eq!(answers.next().await.unwrap().unwrap(), 1);
        token_status.ended.cancel();
        assert_eq!(answers.next().await.unwrap().unwrap_err().code(), Code::Unauthenticated);
        assert!(answers.next().await.is_none());
    }

    #[tokio::test]
    async fn a_stream_that_waits_ends_and_one_that_is_over_is_no_error() {
        let token_status = Arc::new(TokenStatus::default());
        let over = while_valid(stream::iter([Ok(1)]), &token_status);
        assert_eq!(over.map(|answer| answer.is_ok()).collect::<Vec<_>>().await, [true]);
        let waits = while_valid(stream::pending::<Result<u8, _>>(), &token_status).collect::<Vec<_>>();
        let ends = async { token_status.ended.cancel() };
        let (answers, ()) = futures::future::join(waits, ends).await;
        assert!(answers.len() == 1 && answers[0].is_err());
    }
}
