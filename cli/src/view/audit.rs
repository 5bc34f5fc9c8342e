//! Audit records, shown.

use postrider_proto::v1;
use serde::Serialize;

use super::{time, time_for_table};
use crate::output::View;

/// Mirrors `postrider.v1.AuditRecord`.
#[derive(Debug, Serialize)]
pub(crate) struct AuditRecord {
    sequence: u64,
    time: Option<String>,
    actor: String,
    address: String,
    action: String,
    target: String,
    tenant: String,
    request_id: String,
    detail: String,
    hash: String,
    #[serde(skip)]
    when: String,
}

impl From<v1::AuditRecord> for AuditRecord {
    fn from(record: v1::AuditRecord) -> Self {
        Self {
            sequence: record.sequence,
            time: time(record.time.as_ref()),
            when: time_for_table(record.time.as_ref()),
            actor: record.actor,
            address: record.address,
            action: record.action,
            target: record.target,
            tenant: record.tenant,
            request_id: record.request_id,
            detail: record.detail,
            hash: record.hash,
        }
    }
}

impl View for AuditRecord {
    const COLUMNS: &'static [&'static str] =
        &["NUMBER", "TIME", "ACTOR", "FROM", "ACTION", "TARGET", "TENANT", "DETAIL"];

    fn row(&self) -> Vec<String> {
        let texts =
            [&self.when, &self.actor, &self.address, &self.action, &self.target, &self.tenant, &self.detail];
        std::iter::once(self.sequence.to_string()).chain(texts.into_iter().cloned()).collect()
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        Self::COLUMNS.iter().copied().zip(self.row()).collect()
    }
}

/// Mirrors `postrider.v1.VerifyAuditLogResponse`.
#[derive(Debug, Serialize)]
pub(crate) struct Verdict {
    pub(crate) intact: bool,
    problem: String,
    checked: u64,
    head_sequence: u64,
    head_hash: String,
}

impl From<v1::VerifyAuditLogResponse> for Verdict {
    fn from(verdict: v1::VerifyAuditLogResponse) -> Self {
        Self {
            intact: verdict.intact,
            problem: verdict.problem,
            checked: verdict.checked,
            head_sequence: verdict.head_sequence,
            head_hash: verdict.head_hash,
        }
    }
}

impl View for Verdict {
    const COLUMNS: &'static [&'static str] = &["INTACT", "CHECKED", "HEAD", "PROBLEM"];

    fn row(&self) -> Vec<String> {
        let head = format!("{}:{}", self.head_sequence, self.head_hash);
        vec![self.intact.to_string(), self.checked.to_string(), head, self.problem.clone()]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let verdict = if self.intact { "intact".to_owned() } else { self.problem.clone() };
        vec![
            ("Audit log", verdict),
            ("Records checked", self.checked.to_string()),
            ("Head", format!("{}:{}", self.head_sequence, self.head_hash)),
        ]
    }
}
