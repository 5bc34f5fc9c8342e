//! Outcomes that an agent reports: of jobs that it has, in their order, and no more than that.

use postrider_domain::outcome::Class;
use postrider_proto::agent::{Outcome, Outcomes};
use postrider_proto::session::{JobKey, MAX_OUTCOMES, Report, read_report};
use postrider_telemetry::Untrusted;
use tracing::{debug, info};

use super::{End, Session, flood, nonsense};
use crate::dispatch::KEPT_RESPONSE;
use crate::link::misconduct::Kind;

/// What is wrong with an outcome of a job that the agent does not have.
pub(super) const NOT_GIVEN: &str =
    "an outcome names a job that this stream was not given, or has reported already";

impl Session {
    pub(super) async fn hear_outcomes(&mut self, outcomes: Outcomes) -> Result<(), End> {
        let outcomes = outcomes.outcomes;
        if outcomes.is_empty() {
            return Err(nonsense("a message of outcomes must have one"));
        }
        if outcomes.len() > MAX_OUTCOMES {
            return Err(flood("a message has more outcomes than any may have"));
        }
        let mut reports = Vec::with_capacity(outcomes.len());
        for outcome in outcomes {
            // What came before the fault is reported all the same: it is the agent's own.
            match self.hear_outcome(outcome) {
                Ok(report) => reports.push(report),
                Err(end) => {
                    self.links.lanes.reported(self.holder, reports).await;
                    return Err(end);
                }
            }
        }
        self.links.agents.seen(&self.agent, self.links.dispatcher.clock.wall());
        if let Some((last, _, _)) = reports.last() {
            self.acks.heard(*last, self.links.dispatcher.clock.since_start());
        }
        self.links.lanes.reported(self.holder, reports).await;
        self.send_jobs().await
    }

    fn hear_outcome(&mut self, outcome: Outcome) -> Result<(u64, JobKey, Report), End> {
        let sequence = outcome.sequence;
        let Some(key) = outcome.key.as_ref().and_then(JobKey::read) else {
            return Err(nonsense("an outcome must name its job"));
        };
        if !self.outbox.done(key) {
            return Err(End::Misconduct(Kind::Outcome, Some(key), NOT_GIVEN));
        }
        if !self.acks.follows(sequence) {
            let why = "outcomes must be numbered without gaps";
            return Err(End::Misconduct(Kind::Outcome, Some(key), why));
        }
        log(key, &outcome);
        let Some(mut report) = read_report(outcome) else {
            return Err(nonsense("an outcome must say what happened"));
        };
        if let Report::Made(outcome) = &mut report
            && let Some(response) = &mut outcome.response
        {
            response.body.truncate(KEPT_RESPONSE as usize);
            if let Some(row) = self.links.dispatcher.registry.get(key.delivery.subscription) {
                row.subscription.headers.hide_in(response);
            }
        }
        self.note_answer(key, &report);
        self.traced.heard(sequence, key, &report);
        Ok((sequence, key, report))
    }

    /// A success of what one key alone has signed shows that the receiver has that key.
    fn note_answer(&mut self, key: JobKey, report: &Report) {
        let Some((signer, signed)) = self.signed.answered(key) else { return };
        if matches!(report, Report::Made(outcome) if outcome.class == Class::Success) {
            let dispatcher = &self.links.dispatcher;
            dispatcher.uses.accepted(key.delivery.subscription, signer, signed, dispatcher.clock.wall());
        }
    }
}

fn log(key: JobKey, outcome: &Outcome) {
    if !outcome.refusal_code.is_empty() {
        info!(
            delivery.id = %key.delivery,
            code = %Untrusted(&outcome.refusal_code),
            "refused by the agent's egress policy"
        );
    }
    if !outcome.shortage.is_empty() {
        debug!(
            delivery.id = %key.delivery,
            shortage = %Untrusted(&outcome.shortage),
            "the agent's machine is short of resources; the attempt was not started"
        );
    }
}
