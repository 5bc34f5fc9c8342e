//! Jobs that the schedule gives to an agent: signed, and sent as there is room for them.

use std::time::Duration;

use postrider_domain::time::Timestamp;
use postrider_proto::agent::Jobs;
use postrider_proto::agent::control_message::Message as ToAgent;
use postrider_proto::session::{JobKey, Report};
use tracing::warn;

use super::{End, Session};
use crate::dispatch::Prepared;
use crate::schedule::Assignment;

/// Jobs prepared at once: it bounds a message's size, together with the limit below.
const BATCH: usize = 256;
/// Bytes of bodies in one message, about.
const MESSAGE_BYTES: usize = 1024 * 1024;
/// How long assignments wait whose events could not be read.
const READ_RETRY: Duration = Duration::from_millis(250);

/// Whether the agent has room for more bytes.
#[derive(PartialEq)]
enum Room {
    Left,
    Full,
}

impl Session {
    /// Signs and sends what there is room for.
    pub(super) async fn send_jobs(&mut self) -> Result<(), End> {
        while self.outbox.has_waiting() {
            let assignments = self.outbox.take(BATCH);
            if assignments.is_empty() {
                return Ok(());
            }
            let taken: Vec<Assignment> = assignments.iter().map(|(assignment, _)| *assignment).collect();
            match self.links.dispatcher.prepare(&taken).await {
                Ok(prepared) => {
                    if self.send_prepared(&assignments, prepared).await? == Room::Full {
                        return Ok(());
                    }
                }
                Err(error) => {
                    warn!(%error, "failed to read events; their jobs wait");
                    tokio::time::sleep(READ_RETRY).await;
                    let keys = taken.iter().map(|assignment| assignment.key).collect();
                    self.not_started(keys).await;
                }
            }
        }
        Ok(())
    }

    async fn send_prepared(
        &mut self,
        assignments: &[(Assignment, Timestamp)],
        prepared: Vec<Prepared>,
    ) -> Result<Room, End> {
        let (mut jobs, mut bytes, mut unsent, mut full) =
            (Vec::with_capacity(prepared.len()), 0, Vec::new(), Vec::new());
        for ((assignment, since), prepared) in assignments.iter().zip(prepared) {
            match prepared {
                Prepared::Unsent(report) => unsent.push((0, assignment.key, report)),
                Prepared::Job { mut job, alone, signed, traced }
                    if full.is_empty() && self.outbox.fits(job.body.len() as u64) =>
                {
                    job.key = Some(self.links.tags.write(assignment.key, &self.agent));
                    self.signed.sent(assignment.key, alone, signed);
                    self.traced.sent(assignment.key, traced);
                    self.outbox.sent(assignment.key, job.body.len() as u64);
                    bytes += job.body.len();
                    jobs.push(*job);
                    if bytes >= MESSAGE_BYTES {
                        self.send(ToAgent::Jobs(Jobs { jobs: std::mem::take(&mut jobs) })).await?;
                        bytes = 0;
                    }
                }
                // Signed again when there is room: the signature must be fresh.
                Prepared::Job { .. } => full.push((*assignment, *since)),
            }
        }
        let room = if full.is_empty() { Room::Left } else { Room::Full };
        full.into_iter().rev().for_each(|waiting| self.outbox.put_back(waiting));
        if !unsent.is_empty() {
            self.links.lanes.reported(self.holder, unsent).await;
        }
        if !jobs.is_empty() {
            self.send(ToAgent::Jobs(Jobs { jobs })).await?;
        }
        Ok(room)
    }

    /// Gives back what has waited too long for room at the agent: another one may have some.
    pub(super) async fn give_back_overdue(&mut self) {
        let overdue = self.outbox.overdue(self.links.dispatcher.clock.now());
        self.not_started(overdue).await;
    }

    pub(super) async fn not_started(&self, keys: Vec<JobKey>) {
        if keys.is_empty() {
            return;
        }
        let reports = keys.into_iter().map(|key| (0, key, Report::NotStarted)).collect();
        self.links.lanes.reported(self.holder, reports).await;
    }
}
