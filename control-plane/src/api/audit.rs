//! `AuditService`.

use postrider_domain::access::Scope;
use postrider_domain::audit::{Check, Head};
use postrider_domain::time::Timestamp;
use postrider_proto::time;
use postrider_proto::v1;
use postrider_proto::v1::audit_service_server::AuditService;
use postrider_telemetry::blocking;
use tonic::{Request, Response, Status};

use super::events::bound;
use super::{Api, page, status};
use crate::audit_head;
use crate::store::{AuditQuery, AuditRow, StoreError};

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
        let list = tenant.as_ref().map_or_else(|| LIST.to_owned(), |tenant| page::of(LIST, tenant));
        let query = AuditQuery {
            tenant,
            actor: some(&request.actor),
            action: some(&request.action),
            start: bound("start_time", request.start_time.as_ref(), Timestamp::default())?,
            end: bound("end_time", request.end_time.as_ref(), Timestamp::MAX)?,
            limit: page::size(request.page_size)?,
            before: page::read(&list, &request.page_token)?,
        };
        let found = api.store.audit_records(query).await.map_err(|error| status::store(&error))?;
        let records = found.items.into_iter().map(|row| (row.number, api.record_view(row))).collect();
        let (records, next) = page::fit(records, found.next);
        Ok(Response::new(v1::ListAuditRecordsResponse { records, next_page_token: page::write(&list, next) }))
    }

    async fn verify_audit_log(
        &self,
        request: Request<v1::VerifyAuditLogRequest>,
    ) -> Result<Response<v1::VerifyAuditLogResponse>, Status> {
        let (api, request) = self.call(request);
        let known = match read_known(&request)? {
            None => api.exported().await?,
            known => known,
        };
        let span = api.store.audit_span().await.map_err(|error| status::store(&error))?;
        if let Some(known) = known.filter(|known| known.sequence < span.start.sequence) {
            return Err(status::precondition(
                "KNOWN_RECORD_AGED_OUT",
                format!("record {} has aged out, so it proves nothing; give a later one", known.sequence),
            ));
        }
        let key = api.sealer.audit_key();
        let since = span
            .since
            .filter(|(since, code)| key.is_code(&Head { sequence: *since, ..Head::default() }, code));
        let check = Check::new(span.start, span.end, known);
        let check = check.authenticated(key, since.map_or(1, |(since, _)| since));
        let (check, problem) = api.verify(check).await?;
        let head = check.head();
        Ok(Response::new(v1::VerifyAuditLogResponse {
            intact: problem.is_none(),
            problem: problem.unwrap_or_default(),
            checked: check.checked(),
            head_sequence: head.sequence,
            head_hash: hex::encode(head.hash),
        }))
    }
}

impl Api {
    /// The head that was last exported to a file, if it is not aged out.
    async fn exported(&self) -> Result<Option<Head>, Status> {
        let Some(path) = self.audit_head_file.clone() else { return Ok(None) };
        let read = blocking::run(move || audit_head::read(&path)).await.map_err(|_| status::fault())?;
        let told =
            |error| status::precondition("AUDIT_HEAD_FILE", format!("{:#}", anyhow::Error::from(error)));
        let span = self.store.audit_span().await.map_err(|error| status::store(&error))?;
        let head = read.map_err(told)?.map(|exported| exported.head);
        Ok(head.filter(|head| head.sequence >= span.start.sequence.max(1)))
    }

    /// Follows the chain as far as it holds, a bounded number of records at a time; what breaks it, if anything does.
    async fn verify(&self, mut check: Check) -> Result<(Check, Option<String>), Status> {
        let mut step = STEP;
        while !check.is_at_end() {
            let last = check.head().sequence;
            let _turn = self.turn().await?;
            let records = match self.store.audit_records_after(last, step).await {
                Ok(records) => records,
                // One by one, to find which.
                Err(StoreError::Damaged { .. }) if step > 1 => {
                    step = 1;
                    continue;
                }
                Err(StoreError::Damaged { problem, .. }) => {
                    return Ok((check, Some(format!("record {} cannot be read: {problem}", last + 1))));
                }
                Err(error) => return Err(status::store(&error)),
            };
            if records.is_empty() {
                break;
            }
            for record in &records {
                // What was appended since the check has begun comes behind its end.
                if check.is_at_end() {
                    break;
                }
                if let Err(problem) = check.follow(record) {
                    return Ok((check, Some(problem)));
                }
            }
        }
        let problem = match check.finish() {
            Ok(()) => self.beyond(check.head()).await?,
            Err(problem) => Some(problem),
        };
        Ok((check, problem))
    }

    /// Whether records are there that the log's own end does not count.
    async fn beyond(&self, checked: Head) -> Result<Option<String>, Status> {
        let next = self.store.audit_records_after(checked.sequence, 1).await;
        // Read after it: what was appended meanwhile is counted.
        let span = self.store.audit_span().await.map_err(|error| status::store(&error))?;
        match next {
            Ok(next) => {
                let beyond = next.first().filter(|next| next.sequence > span.end.sequence);
                Ok(beyond.map(|next| format!("record {} is behind the log's end", next.sequence)))
            }
            Err(StoreError::Damaged { problem, .. }) => {
                Ok(Some(format!("what follows record {} cannot be read: {problem}", checked.sequence)))
            }
            Err(error) => Err(status::store(&error)),
        }
    }

    /// A record as the caller may see it: where it is among others' records is not for callers that see one tenant.
    fn record_view(&self, row: AuditRow) -> v1::AuditRecord {
        let AuditRow { number, record } = row;
        let everything = self.caller.scope == Scope::Everything;
        let entry = record.entry;
        v1::AuditRecord {
            sequence: if everything { record.sequence } else { number },
            time: Some(time::write(entry.time)),
            actor: entry.actor,
            address: entry.address,
            action: entry.action,
            target: entry.target,
            tenant: entry.tenant.as_ref().map(ToString::to_string).unwrap_or_default(),
            request_id: entry.request_id,
            detail: entry.detail,
            hash: if everything { hex::encode(record.hash) } else { String::new() },
        }
    }
}

fn read_known(request: &v1::VerifyAuditLogRequest) -> Result<Option<Head>, Status> {
    if request.known_sequence == 0 {
        return Ok(None);
    }
    let hash = hex::decode(&request.known_hash).ok().and_then(|hash| hash.try_into().ok());
    let hash = hash.ok_or_else(|| status::invalid_field("known_hash", "must be 64 hexadecimal digits"))?;
    Ok(Some(Head { sequence: request.known_sequence, hash }))
}
