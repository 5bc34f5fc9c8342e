//! `postrider emit --lines`: one event a line, pipelined over one stream.
//!
//! Lines are sent without waiting for answers; the server slows the stream down when it is busy. Each
//! answer is printed as it comes, in the order of the lines.

use std::collections::HashMap;
use std::path::Path;

use bytes::Bytes;
use postrider_domain::time::EventTime;
use postrider_proto::v1::{self, emit_result};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, BufReader};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Context, input};
use crate::failure::{Doing as _, Exit, Failure, Result, exit_of};
use crate::output::{Format, notice, print};
use crate::time::to_wire;
use crate::view::event::Accepted;

/// As many lines are read ahead of the connection; more would only take memory.
const READ_AHEAD: usize = 256;

/// A line without a type on the command line.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    r#type: String,
    #[serde(borrow)]
    data: &'a RawValue,
    timestamp: Option<String>,
    #[serde(default)]
    id: String,
    #[serde(default)]
    idempotency_key: String,
    #[serde(default)]
    ordering_key: String,
    #[serde(default)]
    attributes: HashMap<String, String>,
    #[serde(default)]
    trace_parent: String,
    #[serde(default)]
    trace_state: String,
}

/// What became of a line, for programs.
#[derive(Serialize)]
struct Answer {
    line: u64,
    accepted: Option<Accepted>,
    error: Option<Refusal>,
}

/// Mirrors `postrider.v1.EmitError`.
#[derive(Serialize)]
struct Refusal {
    code: i32,
    reason: String,
    message: String,
    field: String,
}

/// Reads lines to their end, emits each, and fails when any was refused.
pub(crate) async fn run(
    context: &Context,
    tenant: String,
    event_type: Option<String>,
    timestamp: Option<EventTime>,
    from: &Path,
) -> Result<()> {
    let lines = open(from).await?;
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    let shape = Shape { tenant, event_type, timestamp };
    let reader = tokio::spawn(send(lines, shape, sender, input::name(from)));
    let answers = context.client.events().emit_stream(ReceiverStream::new(receiver)).await;
    let mut tally = Tally::default();
    let streamed = match answers.doing("emit lines") {
        Ok(answers) => receive(context, answers.into_inner(), &mut tally).await,
        Err(failure) => Err(failure),
    };
    if let Err(failure) = streamed {
        reader.abort();
        let accepted = tally.accepted;
        return Err(failure.note(format!(
            "{accepted} lines are known to be accepted; repeating all is safe when they carry an idempotency_key"
        )));
    }
    let read = reader.await.map_err(|error| Failure::new(Exit::Unexpected, error.to_string()))?;
    tally.end(context.format, read)
}

async fn open(from: &Path) -> Result<Box<dyn AsyncBufRead + Send + Unpin>> {
    if from == Path::new("-") {
        return Ok(Box::new(BufReader::new(tokio::io::stdin())));
    }
    let file = tokio::fs::File::open(from).await;
    let file = file
        .map_err(|error| Failure::new(Exit::Usage, format!("cannot read {}: {error}", input::name(from))))?;
    Ok(Box::new(BufReader::new(file)))
}

/// What all lines share.
struct Shape {
    tenant: String,
    event_type: Option<String>,
    timestamp: Option<EventTime>,
}

/// Sends every line. A line that cannot be read ends it: the lines before it are emitted.
async fn send(
    mut lines: Box<dyn AsyncBufRead + Send + Unpin>,
    shape: Shape,
    sender: mpsc::Sender<v1::EmitStreamRequest>,
    name: String,
) -> Result<()> {
    let (mut number, mut line) = (0_u64, String::new());
    loop {
        line.clear();
        number += 1;
        if lines.read_line(&mut line).await.doing(format_args!("read line {number} of {name}"))? == 0 {
            return Ok(());
        }
        let text = line.trim();
        if text.is_empty() {
            continue;
        }
        let event = shape.event(text).map_err(|problem| {
            Failure::new(Exit::Usage, format!("line {number} of {name}: {problem}"))
                .note("the lines before it were emitted; nothing after it was")
        })?;
        let request =
            v1::EmitStreamRequest { reference: number, tenant: shape.tenant.clone(), event: Some(event) };
        if sender.send(request).await.is_err() {
            // The stream has failed; its reader says why.
            return Ok(());
        }
    }
}

impl Shape {
    fn event(&self, text: &str) -> std::result::Result<v1::NewEvent, String> {
        let timestamp = self.timestamp.map(to_wire);
        if let Some(event_type) = &self.event_type {
            let data = Bytes::copy_from_slice(text.as_bytes());
            return Ok(v1::NewEvent { r#type: event_type.clone(), data, timestamp, ..Default::default() });
        }
        let line: Line<'_> = serde_json::from_str(text)
            .map_err(|error| format!("is not {{\"type\":…, \"data\":…}}: {error}"))?;
        let own = line.timestamp.as_deref().map(EventTime::parse).transpose()?;
        Ok(v1::NewEvent {
            r#type: line.r#type,
            data: Bytes::copy_from_slice(line.data.get().as_bytes()),
            timestamp: own.map(to_wire).or(timestamp),
            id: line.id,
            idempotency_key: line.idempotency_key,
            ordering_key: line.ordering_key,
            attributes: line.attributes,
            trace_parent: line.trace_parent,
            trace_state: line.trace_state,
        })
    }
}

/// How many lines were accepted, and the worst refusal.
#[derive(Default)]
struct Tally {
    accepted: u64,
    refused: u64,
    exit: Option<Exit>,
}

async fn receive(
    context: &Context,
    mut answers: tonic::Streaming<v1::EmitStreamResponse>,
    tally: &mut Tally,
) -> Result<()> {
    while let Some(answer) = answers.message().await.doing("emit lines")? {
        let line = answer.reference;
        let Some(result) = answer.result.and_then(|result| result.result) else { continue };
        let answer = tally.count(line, result);
        match (context.format, &answer) {
            (Format::Json, answer) => context.format.json_line(answer)?,
            (Format::Table, Answer { accepted: Some(accepted), .. }) => {
                print(&format!("{}\n", accepted.line()))?;
            }
            (Format::Table, Answer { error, .. }) => {
                let (message, reason) =
                    error.as_ref().map(|e| (e.message.as_str(), e.reason.as_str())).unzip();
                let (message, reason) = (message.unwrap_or_default(), reason.unwrap_or_default());
                notice(format_args!("line {line} was refused: {message} [{reason}]"));
            }
        }
    }
    Ok(())
}

impl Tally {
    fn count(&mut self, line: u64, result: emit_result::Result) -> Answer {
        match result {
            emit_result::Result::Accepted(accepted) => {
                self.accepted += 1;
                Answer { line, accepted: Some(accepted.into()), error: None }
            }
            emit_result::Result::Error(error) => {
                self.refused += 1;
                self.exit.get_or_insert(exit_of(error.code.into()));
                let v1::EmitError { code, reason, message, field, .. } = error;
                Answer { line, accepted: None, error: Some(Refusal { code, reason, message, field }) }
            }
        }
    }

    /// Sums up, once all answers are there.
    fn end(self, format: Format, read: Result<()>) -> Result<()> {
        if format == Format::Table {
            notice(format_args!("{} accepted, {} refused", self.accepted, self.refused));
        }
        read?;
        match self.exit {
            None => Ok(()),
            Some(exit) => {
                let all = self.accepted + self.refused;
                Err(Failure::new(exit, format!("{} of {all} lines were refused", self.refused)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(event_type: Option<&str>) -> Shape {
        Shape { tenant: "t".into(), event_type: event_type.map(Into::into), timestamp: None }
    }

    #[test]
    fn a_line_is_the_data_when_the_type_is_given() {
        let event = shape(Some("a.b")).event(r#"{"n": 1.50}"#).unwrap();
        assert_eq!((event.r#type.as_str(), &event.data[..]), ("a.b", &br#"{"n": 1.50}"#[..]));
    }

    #[test]
    fn a_line_is_an_event_otherwise() {
        let line =
            r#"{"data":{"n": 1.50},"type":"a.b","timestamp":"2026-02-02T10:30:00Z","idempotency_key":"k"}"#;
        let event = shape(None).event(line).unwrap();
        assert_eq!(&event.data[..], br#"{"n": 1.50}"#);
        assert_eq!(event.timestamp.unwrap().seconds, 1_770_028_200);
        assert_eq!(event.idempotency_key, "k");
        for wrong in
            ["{}", "[]", r#"{"type":"a","data":1,"dat":2}"#, r#"{"type":"a","data":1,"timestamp":"x"}"#]
        {
            assert!(shape(None).event(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_first_refusal_decides_the_exit() {
        let mut tally = Tally::default();
        let refused = |code: tonic::Code| {
            emit_result::Result::Error(v1::EmitError { code: code.into(), ..Default::default() })
        };
        tally.count(1, emit_result::Result::Accepted(v1::EmitResponse::default()));
        tally.count(2, refused(tonic::Code::InvalidArgument));
        tally.count(3, refused(tonic::Code::ResourceExhausted));
        let failure = tally.end(Format::Json, Ok(())).unwrap_err();
        assert_eq!((failure.exit, failure.to_string()), (Exit::Refused, "2 of 3 lines were refused".into()));
    }
}
