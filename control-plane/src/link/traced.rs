//! The sampled attempts of one stream: from the job that is sent to the outcome that is stored.
//!
//! It is the stream's own. Of an attempt whose outcome comes by another stream, after a reconnection or a restart, there is
//! no span here; the agent's own is there all the same.

use std::time::SystemTime;

use ahash::{HashMap, HashMapExt as _};
use postrider_domain::outcome::Class;
use postrider_proto::session::{JobKey, Report};
use postrider_telemetry::traces::Traces;

use crate::clock::Clock;
use crate::traced::{Attempted, Ended};

pub(super) struct Traced {
    traces: Traces,
    clock: Clock,
    /// Jobs that are sent.
    out: HashMap<JobKey, Box<Attempted>>,
    /// Outcomes that are not stored yet, by their number.
    heard: HashMap<u64, (Box<Attempted>, Ended, SystemTime)>,
}

impl Traced {
    pub(super) fn new(traces: Traces, clock: Clock) -> Self {
        Self { traces, clock, out: HashMap::new(), heard: HashMap::new() }
    }

    /// A job is sent.
    pub(super) fn sent(&mut self, job: JobKey, attempted: Option<Box<Attempted>>) {
        if let Some(attempted) = attempted {
            attempted.sent(&self.traces, self.clock);
            self.out.insert(job, attempted);
        }
    }

    /// A job is answered, by the outcome of this number.
    pub(super) fn heard(&mut self, sequence: u64, job: JobKey, report: &Report) {
        let (Some(attempted), Report::Made(outcome)) = (self.out.remove(&job), report) else { return };
        let ended = Ended {
            delivery: job.delivery.to_string(),
            number: job.attempt,
            outcome: outcome.class.as_str(),
            success: outcome.class == Class::Success,
        };
        self.heard.insert(sequence, (attempted, ended, self.clock.precise()));
    }

    /// The outcomes of these numbers are stored.
    pub(super) fn stored(&mut self, sequences: &[u64]) {
        if self.heard.is_empty() {
            return;
        }
        for sequence in sequences {
            if let Some((attempted, ended, heard)) = self.heard.remove(sequence) {
                attempted.settled(&self.traces, self.clock, &ended, heard);
            }
        }
    }

    /// A job is not waited for any more.
    pub(super) fn forget(&mut self, job: JobKey) {
        self.out.remove(&job);
    }
}
