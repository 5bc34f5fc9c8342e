//! `AuditService`.

use postrider_domain::access::Scope;
use postrider_domain::audit::{Head, Record};
use postrider_domain::time::Timestamp;
use postrider_proto::time;
use postrider_proto::v1;
use postrider_proto::v1::audit_service_server::AuditService;
use tonic::{Request, Response, Status};

use super::events::bound;
use super::{Api, page, status};
use crate::store::AuditQuery;

const LIST: &str = "audit";
/// Records that are checked between two reads.
const STEP: usize = 1000;

#[tonic::async_trait]
impl AuditService for Api {
    async fn list_audit_records(
        &self,
        request: Request<v1::ListAuditRecordsRequest>,
    ) -> Result<Response<v1::ListAuditRecordsResponse>, Status> {
        let (api, request) = self.call(request);
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let tenant = match (request.tenant.as_str(), &api.caller.scope) {
            ("", Scope::Tenant(own)) => Some(own.clone()),
            ("", _) => None,
            // Not looked up for the unconfined: the log outlives the tenants that it tells of.
            (tenant, Scope::Everything) => Some(status::parse("tenant", tenant)?),
            (tenant, _) => Some(api.tenant(tenant)?),
        };
        let query = AuditQuery {
            tenant,
            actor: some(&request.actor),
            action: some(&request.action),
            start: bound("start_time", request.start_time.as_ref(), Timestamp::default())?,
            end: bound("end_time", request.end_time.as_ref(), Timestamp::MAX)?,
            limit: page::size(request.page_size)?,
            before: page::read(LIST, &request.page_token)?,
        };
        let found = api.store.audit_records(query).await.map_err(|error| status::store(&error))?;
        let records = found.items.iter().map(write).collect();
        Ok(Response::new(v1::ListAuditRecordsResponse {
            records,
            next_page_token: page::write(LIST, found.next),
        }))
    }

    async fn verify_audit_log(
        &self,
        request: Request<v1::VerifyAuditLogRequest>,
    ) -> Result<Response<v1::VerifyAuditLogResponse>, Status> {
        let (api, request) = self.call(request);
        let known = read_known(&request)?;
        let (head, problem) = api.verify(known).await?;
        Ok(Response::new(v1::VerifyAuditLogResponse {
            intact: problem.is_none(),
            problem: problem.unwrap_or_default(),
            checked: head.sequence,
            head_sequence: head.sequence,
            head_hash: hex::encode(head.hash),
        }))
    }
}

impl Api {
    /// Follows the chain from its first record as far as it holds; what breaks it, if anything does.
    async fn verify(&self, known: Option<Head>) -> Result<(Head, Option<String>), Status> {
        // Read first: what is appended meanwhile comes behind it.
        let end = self.store.audit_head().await.map_err(|error| status::store(&error))?;
        let mut head = Head::default();
        while head.sequence < end.sequence {
            let step = self.store.audit_records_after(head.sequence, STEP).await;
            let records = step.map_err(|error| status::store(&error))?;
            if records.is_empty() {
                return Ok((head, Some(format!("the records after {} are missing", head.sequence))));
            }
            for record in &records {
                let Some(next) = head.follow(record) else {
                    let problem = format!("record {} is missing or was altered", head.sequence + 1);
                    return Ok((head, Some(problem)));
                };
                head = next;
                if known.is_some_and(|known| known.sequence == head.sequence && known != head) {
                    let problem = format!("record {} is not the one that was seen before", head.sequence);
                    return Ok((head, Some(problem)));
                }
                if head.sequence == end.sequence {
                    let problem = (head != end).then(|| "the last record was replaced".to_owned());
                    return Ok((head, problem.or_else(|| cut_off(known, head))));
                }
            }
        }
        Ok((head, cut_off(known, head)))
    }
}

fn cut_off(known: Option<Head>, head: Head) -> Option<String> {
    let known = known.filter(|known| known.sequence > head.sequence)?;
    Some(format!("the log ends at record {}, and {} was seen before", head.sequence, known.sequence))
}

fn read_known(request: &v1::VerifyAuditLogRequest) -> Result<Option<Head>, Status> {
    if request.known_sequence == 0 {
        return Ok(None);
    }
    let hash = hex::decode(&request.known_hash).ok().and_then(|hash| hash.try_into().ok());
    let hash = hash.ok_or_else(|| status::invalid_field("known_hash", "must be 64 hexadecimal digits"))?;
    Ok(Some(Head { sequence: request.known_sequence, hash }))
}

fn write(record: &Record) -> v1::AuditRecord {
    let entry = &record.entry;
    v1::AuditRecord {
        sequence: record.sequence,
        time: Some(time::write(entry.time)),
        actor: entry.actor.clone(),
        address: entry.address.clone(),
        action: entry.action.clone(),
        target: entry.target.clone(),
        tenant: entry.tenant.as_ref().map(ToString::to_string).unwrap_or_default(),
        request_id: entry.request_id.clone(),
        detail: entry.detail.clone(),
        hash: hex::encode(record.hash),
    }
}
