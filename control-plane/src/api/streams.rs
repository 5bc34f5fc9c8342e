//! Streams of answers, that end when their callers' tokens do.

use std::sync::Arc;

use futures::stream::{self, Stream, StreamExt as _};
use tonic::Status;

use super::status;
use crate::tokens::Standing;

/// The answers until the token ceases to be valid; then what still waits is not sent, and the last word is an error.
pub(super) fn while_valid<T: Send + 'static>(
    answers: impl Stream<Item = Result<T, Status>> + Send + 'static,
    standing: &Arc<Standing>,
) -> impl Stream<Item = Result<T, Status>> + Send + 'static {
    let kept = standing.clone();
    let last = stream::once(async move { kept.ended.is_cancelled().then(|| Err(status::token_ended())) });
    let ended = standing.ended.clone().cancelled_owned();
    // The end is looked at first, whatever there is to be sent.
    answers.take_until(ended).chain(last.filter_map(std::future::ready))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[tokio::test]
    async fn nothing_that_waits_is_sent_after_the_end() {
        let standing = Arc::new(Standing::default());
        let mut answers = Box::pin(while_valid(stream::iter((1..9).map(Ok)), &standing));
        assert_eq!(answers.next().await.unwrap().unwrap(), 1);
        standing.ended.cancel();
        assert_eq!(answers.next().await.unwrap().unwrap_err().code(), Code::Unauthenticated);
        assert!(answers.next().await.is_none());
    }

    #[tokio::test]
    async fn a_stream_that_waits_ends_and_one_that_is_over_is_no_error() {
        let standing = Arc::new(Standing::default());
        let over = while_valid(stream::iter([Ok(1)]), &standing);
        assert_eq!(over.map(|answer| answer.is_ok()).collect::<Vec<_>>().await, [true]);
        let waits = while_valid(stream::pending::<Result<u8, _>>(), &standing).collect::<Vec<_>>();
        let ends = async { standing.ended.cancel() };
        let (answers, ()) = futures::future::join(waits, ends).await;
        assert!(answers.len() == 1 && answers[0].is_err());
    }
}
