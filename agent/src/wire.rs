//! Between the messages of the agent protocol and what the transport takes and gives.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use postrider_domain::headers::Reserved;
use postrider_proto::agent::{Diagnose, Diagnosis, Header, Job, JobKey, Outcome, SeenCertificate};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::clock::Instant;
use crate::gate::Gate;
use crate::shortage::Shortage;
use crate::transport::{Look, Report, Request, Sight};

/// What an outcome takes besides its strings and its body.
const OUTCOME_OVERHEAD: usize = 160;
/// Names of a certificate that are told.
const MAX_NAMES: usize = 20;

/// Header lines of a job: far more than a control plane sends, and far fewer than a map of headers can hold.
const MAX_HEADERS: usize = 1_024;

/// The job asks for a request that cannot be made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("one of the job's headers cannot be sent")]
pub(crate) struct Unsendable;

/// The request that `job` asks for.
pub(crate) fn request(job: Job, gate: Arc<Gate>, start_by: Instant) -> Result<Request, Unsendable> {
    Ok(Request {
        headers: header_map(job.headers).ok_or(Unsendable)?,
        url: job.url,
        body: job.body,
        start_by,
        connect_timeout: Duration::from_millis(job.connect_timeout_ms.into()),
        timeout: Duration::from_millis(job.timeout_ms.into()),
        keep_response_bytes: usize::try_from(job.keep_response_bytes).unwrap_or(usize::MAX),
        gate,
        trace_parent: job.trace_parent,
    })
}

/// The look that the control plane asks for.
pub(crate) fn look(diagnose: Diagnose) -> Result<Look, Unsendable> {
    let method = match diagnose.method.as_str() {
        "HEAD" => Method::HEAD,
        "OPTIONS" => Method::OPTIONS,
        // Nothing that could change something at the endpoint is sent but a job.
        _ => return Err(Unsendable),
    };
    Ok(Look {
        method,
        headers: header_map(diagnose.headers).ok_or(Unsendable)?,
        url: diagnose.url,
        connect_timeout: Duration::from_millis(diagnose.connect_timeout_ms.into()),
        timeout: Duration::from_millis(diagnose.timeout_ms.into()),
    })
}

/// What came of the look `id`.
pub(crate) fn diagnosis(id: u64, sight: Sight) -> Diagnosis {
    let Sight { kind, detail, refusal, status, headers, trace, seen, cause: _ } = sight;
    let (refusal_code, refusal) =
        refusal.map(|refusal| (refusal.code().as_str().to_owned(), refusal.to_string())).unwrap_or_default();
    Diagnosis {
        id,
        kind: kind.into(),
        detail: detail.to_owned(),
        http_status: status.map_or(0, u32::from),
        headers: wire_headers(headers),
        refusal_code,
        refusal,
        addresses: seen.addresses.iter().map(ToString::to_string).collect(),
        peer: trace.peer.map(|peer| peer.to_string()).unwrap_or_default(),
        through_proxy: seen.through_proxy,
        certificates: seen.certificates.iter().filter_map(|der| certificate(der)).collect(),
        dns_us: trace.dns.map(micros),
        connect_us: trace.connect.map(micros),
        tls_us: trace.tls.map(micros),
        first_byte_us: trace.first_byte.map(micros),
        total_us: micros(trace.total),
        http_version: trace.http_version.to_owned(),
        tls_version: trace.tls_version.to_owned(),
    }
}

/// What a certificate says; nothing when it is none.
fn certificate(der: &[u8]) -> Option<SeenCertificate> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names).take(MAX_NAMES);
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => Some(IpAddr::from(<[u8; 4]>::try_from(*bytes).ok()?).to_string()),
            _ => Some(IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?).to_string()),
        },
        _ => None,
    });
    Some(SeenCertificate {
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
        names: names.collect(),
    })
}

/// The outcome of the job `key`, without a sequence, and about how many bytes it takes.
pub(crate) fn outcome(key: JobKey, report: Report, queue: Duration) -> (Outcome, usize) {
    let trace = report.trace;
    let (http_status, headers, body) = match report.response {
        Some(response) => (response.status.into(), wire_headers(response.headers), response.body),
        None => Default::default(),
    };
    let outcome = Outcome {
        sequence: 0,
        key: Some(key),
        kind: report.kind.into(),
        detail: report.detail.into_owned(),
        http_status,
        headers,
        body,
        request_sent: trace.request_sent,
        queue_us: micros(queue),
        dns_us: trace.dns.map(micros),
        connect_us: trace.connect.map(micros),
        tls_us: trace.tls.map(micros),
        first_byte_us: trace.first_byte.map(micros),
        total_us: micros(trace.total),
        http_version: trace.http_version.to_owned(),
        tls_version: trace.tls_version.to_owned(),
        refusal_code: report.refusal.map(|refusal| refusal.code().as_str().to_owned()).unwrap_or_default(),
        not_processed: report.not_processed,
        shortage: report.shortage.map_or("", Shortage::as_str).to_owned(),
    };
    let bytes = size(&outcome);
    (outcome, bytes)
}

fn header_map(headers: Vec<Header>) -> Option<HeaderMap> {
    if headers.len() > MAX_HEADERS {
        return None;
    }
    // Two more: the transport adds `host`, and hyper `content-length`.
    let mut map = HeaderMap::with_capacity(headers.len() + 2);
    for Header { name, value } in headers {
        let name = HeaderName::try_from(name).ok()?;
        if is_forbidden(&name, &value) {
            return None;
        }
        map.append(name, HeaderValue::try_from(value).ok()?);
    }
    Some(map)
}

/// Says whether a job may not have this header. The control plane has checked what tenants wrote; but the agent's owner
/// need not trust it, and a job that could frame its request could smuggle a second one.
fn is_forbidden(name: &HeaderName, value: &str) -> bool {
    // Most headers of a job are these, and the rest are few.
    if name.as_str().starts_with("webhook-") {
        return false;
    }
    !matches!(Reserved::by(name.as_str(), value), None | Some(Reserved::Ours))
}

fn wire_headers(headers: Vec<(&'static str, String)>) -> Vec<Header> {
    headers.into_iter().map(|(name, value)| Header { name: name.to_owned(), value }).collect()
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

fn size(outcome: &Outcome) -> usize {
    let headers: usize =
        outcome.headers.iter().map(|header| header.name.len() + header.value.len() + 8).sum();
    OUTCOME_OVERHEAD + outcome.detail.len() + headers + outcome.body.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_proto::agent::OutcomeKind;
    use prost::Message as _;

    fn headers(pairs: &[(&str, &str)]) -> Vec<Header> {
        pairs.iter().map(|&(name, value)| Header { name: name.into(), value: value.into() }).collect()
    }

    #[test]
    fn headers_that_would_frame_or_break_the_request_are_refused() {
        let usual = [("a", "1"), ("a", "2"), ("webhook-id", "x"), ("content-type", "x"), ("user-agent", "x")];
        assert_eq!(header_map(headers(&usual)).unwrap().len(), 5);
        assert!(header_map(headers(&[("authorization", "Bearer x")])).is_some());
        for bad in [
            ("host", "x"),
            ("Content-Length", "3"),
            ("transfer-encoding", "chunked"),
            ("proxy-authorization", "Basic x"),
            ("keep-alive", "timeout=5"),
            ("x-forwarded-for", "10.0.0.1"),
            ("Via", "1.1 proxy"),
            ("metadata-flavor", "Google"),
            ("X-aws-ec2-metadata-token", "x"),
            ("authorization", "Bearer Oracle"),
            ("a b", "x"),
            ("a", "x\r\nb: y"),
        ] {
            assert!(header_map(headers(&[bad])).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_job_with_more_headers_than_a_map_can_hold_is_refused() {
        let many = |count: usize| (0..count).map(|_| ("a", "1")).collect::<Vec<_>>();
        assert_eq!(header_map(headers(&many(MAX_HEADERS))).unwrap().len(), MAX_HEADERS);
        for count in [MAX_HEADERS + 1, 24_577, 32_768, 40_000] {
            assert!(header_map(headers(&many(count))).is_none(), "{count}");
        }
    }

    #[test]
    fn an_outcome_is_not_larger_than_its_estimate() {
        let key = JobKey {
            delivery_id: format!("dlv_{}-12345", "0".repeat(26)),
            attempt: 7,
            epoch: u64::MAX,
            tag: vec![1; 16].into(),
        };
        let report = Report::not_started("the job came too late");
        let (mut outcome, bytes) = outcome(key, report, Duration::from_secs(1));
        outcome.sequence = u64::MAX;
        assert!(outcome.encoded_len() <= bytes);
        assert_eq!(outcome.kind(), OutcomeKind::NotStarted);
        assert_eq!(outcome.queue_us, 1_000_000);
    }
}
