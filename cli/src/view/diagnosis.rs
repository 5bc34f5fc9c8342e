//! Looks at endpoints, shown.

use postrider_proto::v1;
use serde::Serialize;

use super::attempt::{Timings, phases, timings};
use super::{time, word};
use crate::output::View;

/// Mirrors `postrider.v1.Diagnosis`.
#[derive(Debug, Serialize)]
pub(crate) struct Diagnosis {
    agent: String,
    pool: String,
    time: Option<String>,
    method: String,
    url: String,
    outcome: String,
    detail: String,
    refusal_code: String,
    refusal: String,
    addresses: Vec<String>,
    peer: String,
    through_proxy: bool,
    tls_version: String,
    certificates: Vec<Certificate>,
    http_version: String,
    http_status: u32,
    timings: Option<Timings>,
    #[serde(skip)]
    phases: Vec<(&'static str, String)>,
}

/// Mirrors `postrider.v1.EndpointCertificate`.
#[derive(Debug, Serialize)]
struct Certificate {
    subject: String,
    issuer: String,
    not_before: Option<String>,
    not_after: Option<String>,
    names: Vec<String>,
}

impl From<v1::Diagnosis> for Diagnosis {
    fn from(diagnosis: v1::Diagnosis) -> Self {
        Self {
            time: time(diagnosis.time.as_ref()),
            outcome: word::<v1::OutcomeClass>(diagnosis.outcome),
            phases: diagnosis.timings.as_ref().map(phases).unwrap_or_default(),
            timings: diagnosis.timings.as_ref().map(timings),
            certificates: diagnosis.certificates.into_iter().map(Certificate::from).collect(),
            agent: diagnosis.agent,
            pool: diagnosis.pool,
            method: diagnosis.method,
            url: diagnosis.url,
            detail: diagnosis.detail,
            refusal_code: diagnosis.refusal_code,
            refusal: diagnosis.refusal,
            addresses: diagnosis.addresses,
            peer: diagnosis.peer,
            through_proxy: diagnosis.through_proxy,
            tls_version: diagnosis.tls_version,
            http_version: diagnosis.http_version,
            http_status: diagnosis.http_status,
        }
    }
}

impl From<v1::EndpointCertificate> for Certificate {
    fn from(certificate: v1::EndpointCertificate) -> Self {
        Self {
            not_before: time(certificate.not_before.as_ref()),
            not_after: time(certificate.not_after.as_ref()),
            subject: certificate.subject,
            issuer: certificate.issuer,
            names: certificate.names,
        }
    }
}

impl Certificate {
    fn sentence(&self) -> String {
        let until = self.not_after.as_deref().unwrap_or("?");
        let names =
            if self.names.is_empty() { String::new() } else { format!(", for {}", self.names.join(", ")) };
        format!("{}, from {}, until {until}{names}", self.subject, self.issuer)
    }
}

impl Diagnosis {
    fn result(&self) -> String {
        match self.outcome.as_str() {
            "success" | "http_status" => {
                format!("reached: the endpoint answered {} with {}", self.method, self.http_status)
            }
            outcome => format!("not reached: {outcome}"),
        }
    }

    fn refused_by(&self) -> String {
        match self.refusal_code.as_str() {
            "" => String::new(),
            code => format!("{code}: {}", self.refusal),
        }
    }
}

impl View for Diagnosis {
    const COLUMNS: &'static [&'static str] = &["AGENT", "OUTCOME", "URL"];

    fn row(&self) -> Vec<String> {
        vec![self.agent.clone(), self.outcome.clone(), self.url.clone()]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let phases: Vec<String> = self.phases.iter().map(|(name, took)| format!("{name} {took}")).collect();
        let certificates: Vec<String> = self.certificates.iter().map(Certificate::sentence).collect();
        let protocol = [self.http_version.as_str(), self.tls_version.as_str()].join(" ");
        vec![
            ("Result", self.result()),
            ("Detail", self.detail.clone()),
            ("Refused by", self.refused_by()),
            ("Agent", format!("{} of the pool {}", self.agent, self.pool)),
            ("URL", self.url.clone()),
            ("Addresses", self.addresses.join(", ")),
            ("Connected to", self.peer.clone()),
            ("Proxy", if self.through_proxy { "yes" } else { "no" }.to_owned()),
            ("Certificates", certificates.join("\n")),
            ("Protocol", protocol.trim().to_owned()),
            ("Timings", phases.join(", ")),
            ("Time", self.time.clone().unwrap_or_default()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnosis_reads_well_and_json_has_every_field() {
        let diagnosis = Diagnosis::from(v1::Diagnosis {
            agent: "a".into(),
            method: "HEAD".into(),
            outcome: v1::OutcomeClass::HttpStatus.into(),
            http_status: 405,
            certificates: vec![v1::EndpointCertificate {
                subject: "CN=x".into(),
                issuer: "CN=y".into(),
                names: vec!["x".into()],
                ..Default::default()
            }],
            ..Default::default()
        });
        assert_eq!(diagnosis.result(), "reached: the endpoint answered HEAD with 405");
        assert_eq!(diagnosis.certificates[0].sentence(), "CN=x, from CN=y, until ?, for x");
        let json = serde_json::to_value(&diagnosis).unwrap();
        assert_eq!(json.as_object().unwrap().len(), 17);
        let refused = Diagnosis { outcome: "refused_by_policy".into(), ..diagnosis };
        assert_eq!(refused.result(), "not reached: refused_by_policy");
    }
}
