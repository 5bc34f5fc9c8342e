//! Operations, shown.

use postrider_proto::v1::operation::Work;
use postrider_proto::v1::{self, OperationState};
use serde::Serialize;

use super::{duration, time, word};
use crate::output::View;

/// Mirrors `postrider.v1.Operation`.
#[derive(Debug, Serialize)]
pub(crate) struct Operation {
    id: String,
    tenant: String,
    replay: Option<Replay>,
    key_rotation: Option<KeyRotation>,
    tenant_deletion: Option<TenantDeletion>,
    state: String,
    progress: f64,
    matched: u64,
    done: u64,
    skipped: u64,
    problem: String,
    create_time: Option<String>,
    end_time: Option<String>,
}

/// Mirrors `postrider.v1.Replay`.
#[derive(Debug, Serialize)]
struct Replay {
    subscription: String,
    event_types: Vec<String>,
    states: Vec<String>,
    start_time: Option<String>,
    end_time: Option<String>,
    dry_run: bool,
    max_per_second: u32,
}

/// Mirrors `postrider.v1.TenantDeletion`.
#[derive(Debug, Serialize)]
struct TenantDeletion {}

/// Mirrors `postrider.v1.KeyRotation`.
#[derive(Debug, Serialize)]
struct KeyRotation {
    overlap: Option<String>,
    scheme: String,
}

impl From<v1::KeyRotation> for KeyRotation {
    fn from(rotation: v1::KeyRotation) -> Self {
        Self { overlap: duration(rotation.overlap.as_ref()), scheme: rotation.scheme }
    }
}

impl From<v1::Replay> for Replay {
    fn from(replay: v1::Replay) -> Self {
        Self {
            states: replay.states.iter().map(|state| word::<v1::DeliveryState>(*state)).collect(),
            start_time: time(replay.start_time.as_ref()),
            end_time: time(replay.end_time.as_ref()),
            subscription: replay.subscription,
            event_types: replay.event_types,
            dry_run: replay.dry_run,
            max_per_second: replay.max_per_second,
        }
    }
}

impl From<v1::Operation> for Operation {
    fn from(operation: v1::Operation) -> Self {
        let (mut replay, mut key_rotation, mut tenant_deletion) = (None, None, None);
        match operation.work {
            Some(Work::Replay(work)) => replay = Some(work.into()),
            Some(Work::KeyRotation(work)) => key_rotation = Some(work.into()),
            Some(Work::TenantDeletion(_)) => tenant_deletion = Some(TenantDeletion {}),
            None => {}
        }
        Self {
            state: word::<OperationState>(operation.state),
            create_time: time(operation.create_time.as_ref()),
            end_time: time(operation.end_time.as_ref()),
            id: operation.id,
            tenant: operation.tenant,
            replay,
            key_rotation,
            tenant_deletion,
            progress: operation.progress,
            matched: operation.matched,
            done: operation.done,
            skipped: operation.skipped,
            problem: operation.problem,
        }
    }
}

impl Operation {
    fn work(&self) -> String {
        match &self.replay {
            Some(replay) if replay.dry_run => "replay, dry run".to_owned(),
            Some(_) => "replay".to_owned(),
            None if self.key_rotation.is_some() => "key rotation".to_owned(),
            None if self.tenant_deletion.is_some() => "tenant deletion".to_owned(),
            None => "unknown to this version".to_owned(),
        }
    }

    fn about(&self) -> String {
        let Some(replay) = &self.replay else { return String::new() };
        let or_all = |list: &[String], all: &str| {
            if list.is_empty() { all.to_owned() } else { list.join(", ") }
        };
        let of = if replay.subscription.is_empty() { "all subscriptions" } else { &replay.subscription };
        let states = or_all(&replay.states, "delivered, exhausted");
        format!("{states} of {of}; {}", or_all(&replay.event_types, "all types"))
    }
}

/// A share, for people.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

impl View for Operation {
    const COLUMNS: &'static [&'static str] =
        &["ID", "WORK", "STATE", "PROGRESS", "MATCHED", "DONE", "SKIPPED", "CREATED"];

    fn row(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.work(),
            self.state.clone(),
            percent(self.progress),
            self.matched.to_string(),
            self.done.to_string(),
            self.skipped.to_string(),
            self.create_time.clone().unwrap_or_default(),
        ]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        vec![
            ("Operation", self.id.clone()),
            ("Work", self.work()),
            ("About", self.about()),
            ("State", self.state.clone()),
            ("Progress", percent(self.progress)),
            ("Matched", self.matched.to_string()),
            ("Done", self.done.to_string()),
            ("Skipped", self.skipped.to_string()),
            ("Problem", self.problem.clone()),
            ("Created", self.create_time.clone().unwrap_or_default()),
            ("Ended", self.end_time.clone().unwrap_or_default()),
        ]
    }
}
