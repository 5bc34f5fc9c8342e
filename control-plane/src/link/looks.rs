//! Looks at endpoints that one agent was asked for over one stream: questions out, answers back.

use std::collections::HashMap;

use postrider_proto::agent::{Diagnose, Diagnosis};
use postrider_proto::diagnosis::{self, Found};
use tokio::sync::{mpsc, oneshot};

use crate::diagnoses::{Question, Seat};

/// See the module. It has a seat for as long as it is there.
pub(super) struct Looks {
    questions: mpsc::Receiver<Question>,
    /// By the id that the agent was given.
    waiting: HashMap<u64, oneshot::Sender<Found>>,
    last_id: u64,
    _seat: Seat,
}

impl Looks {
    pub(super) fn new(seat: Seat, questions: mpsc::Receiver<Question>) -> Self {
        Self { questions, waiting: HashMap::new(), last_id: 0, _seat: seat }
    }

    /// The next question for the agent. It may be cancelled.
    pub(super) async fn next(&mut self) -> Diagnose {
        let Some(Question { diagnose, answer }) = self.questions.recv().await else {
            // Its seat holds the other end; it cannot be.
            return std::future::pending().await;
        };
        // An agent that never answers must not be remembered for ever what it was asked.
        self.waiting.retain(|_, answer| !answer.is_closed());
        self.last_id += 1;
        self.waiting.insert(self.last_id, answer);
        Diagnose { id: self.last_id, ..diagnose }
    }

    /// The agent answers. Nobody may wait any more; `false` when it says nothing that can be read.
    pub(super) fn answered(&mut self, said: Diagnosis) -> bool {
        let answer = self.waiting.remove(&said.id);
        let Some(found) = diagnosis::read(said) else { return false };
        if let Some(answer) = answer {
            let _nobody_waits = answer.send(found);
        }
        true
    }
}
