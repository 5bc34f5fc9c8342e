//! What one agent is asked directly over one stream, beside its jobs: questions out, answers back.

use ahash::{HashMap, HashMapExt as _};
use postrider_proto::agent::control_message::Message as ToAgent;
use postrider_proto::agent::{Diagnose, Diagnosis, TestPost, TestPostOutcome};
use postrider_proto::diagnosis::{self, Found};
use postrider_proto::session::{Report, read_report};
use postrider_telemetry::Untrusted;
use tokio::sync::{mpsc, oneshot};
use tracing::info;

use crate::diagnoses::{Question, Seat};

/// See the module. It has a seat for as long as it is there.
pub(super) struct Looks {
    questions: mpsc::Receiver<Question>,
    /// By the id that the agent was given.
    waiting: HashMap<u64, Waiting>,
    last_id: u64,
    _seat: Seat,
}

/// Who waits for an answer.
enum Waiting {
    Look(oneshot::Sender<Found>),
    Post(oneshot::Sender<Report>),
}

impl Waiting {
    fn has_gone(&self) -> bool {
        match self {
            Self::Look(answer) => answer.is_closed(),
            Self::Post(answer) => answer.is_closed(),
        }
    }
}

impl Looks {
    pub(super) fn new(seat: Seat, questions: mpsc::Receiver<Question>) -> Self {
        Self { questions, waiting: HashMap::new(), last_id: 0, _seat: seat }
    }

    /// The next question for the agent. It may be cancelled.
    pub(super) async fn next(&mut self) -> ToAgent {
        let Some(question) = self.questions.recv().await else {
            // Its seat holds the other end; it cannot be.
            return std::future::pending().await;
        };
        // An agent that never answers must not be remembered for ever what it was asked.
        self.waiting.retain(|_, waiting| !waiting.has_gone());
        self.last_id += 1;
        let id = self.last_id;
        let (waiting, asked) = match question {
            Question::Look(diagnose, answer) => {
                (Waiting::Look(answer), ToAgent::Diagnose(Diagnose { id, ..diagnose }))
            }
            Question::Post(job, answer) => {
                (Waiting::Post(answer), ToAgent::TestPost(TestPost { id, job: Some(*job) }))
            }
        };
        self.waiting.insert(id, waiting);
        asked
    }

    /// The agent has looked. Nobody may wait any more; `false` when it says nothing that can be
    /// read.
    pub(super) fn answered(&mut self, said: Diagnosis) -> bool {
        let waiting = self.waiting.remove(&said.id);
        let Some(found) = diagnosis::read(said) else { return false };
        if let Some(Waiting::Look(answer)) = waiting {
            let _nobody_waits = answer.send(found);
        }
        true
    }

    /// The agent has sent a test event, or could not. As [`Looks::answered`].
    pub(super) fn posted(&mut self, said: TestPostOutcome) -> bool {
        let waiting = self.waiting.remove(&said.id);
        let Some(outcome) = said.outcome else { return false };
        if !outcome.refusal_code.is_empty() {
            info!(test_post = said.id, code = %Untrusted(&outcome.refusal_code), "refused by the agent's egress policy");
        }
        let Some(report) = read_report(outcome) else { return false };
        if let Some(Waiting::Post(answer)) = waiting {
            let _nobody_waits = answer.send(report);
        }
        true
    }
}
