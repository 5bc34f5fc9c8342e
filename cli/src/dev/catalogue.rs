//! DocuRift: its event types, and the example of its documentation.

use crate::failure::{Exit, Failure, Result};
use crate::json::minify;

/// The tenant.
pub(crate) const TENANT: &str = "docurift";
/// The tenant's name for people.
pub(crate) const TENANT_NAME: &str = "DocuRift";

/// An entry of the catalogue.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The type's name.
    pub(crate) name: &'static str,
    /// What has happened.
    pub(crate) description: &'static str,
    /// An example of the data.
    pub(crate) example: &'static str,
}

/// The body that DocuRift's documentation promises to receivers.
const QUICK_EXAMPLE: &str = r#"{
  "event": "document.completed",
  "timestamp": "2026-02-02T10:30:00Z",
  "data": {
    "documentId": "doc_abc123",
    "jobId": "job_xyz789",
    "status": "completed",
    "confidence": 0.95
  }
}"#;

/// The type of the example.
pub(crate) const EXAMPLE_TYPE: &str = "document.completed";
/// When the example happened.
pub(crate) const EXAMPLE_TIMESTAMP: &str = "2026-02-02T10:30:00Z";
/// The data of the example.
pub(crate) const EXAMPLE_DATA: &str =
    r#"{"documentId":"doc_abc123","jobId":"job_xyz789","status":"completed","confidence":0.95}"#;

/// What DocuRift tells its customers about.
pub(crate) const CATALOGUE: [Entry; 6] = [
    Entry {
        name: EXAMPLE_TYPE,
        description: "A document finished processing successfully; its extracted fields can be fetched.",
        example: EXAMPLE_DATA,
    },
    Entry {
        name: "document.failed",
        description: "Processing a document failed; `error` says why and whether trying again can help.",
        example: r#"{"documentId":"doc_abc123","jobId":"job_xyz789","status":"failed","error":{"code":"unreadable_scan","message":"Page 2 is too dark to read","retryable":false}}"#,
    },
    Entry {
        name: "credits.low",
        description: "The credit balance fell below the threshold that the account has set.",
        example: r#"{"accountId":"acc_def456","balance":85,"threshold":100}"#,
    },
    Entry {
        name: "api_key.created",
        description: "An API key was created. The key itself is never part of an event.",
        example: r#"{"keyId":"ak_ghi789","name":"production","createdBy":"user_jkl012"}"#,
    },
    Entry {
        name: "api_key.revoked",
        description: "An API key was revoked and is refused from now on.",
        example: r#"{"keyId":"ak_ghi789","name":"production","revokedBy":"user_jkl012","reason":"rotated"}"#,
    },
    Entry {
        name: "batch.completed",
        description: "Every document of a batch has been processed, successfully or not.",
        example: r#"{"batchId":"bat_mno345","jobId":"job_xyz789","documents":{"total":120,"completed":118,"failed":2}}"#,
    },
];

/// Checks that a received body is the documentation's example: same members, same order, same values.
pub(crate) fn equals_quick_example(body: &str) -> Result<()> {
    if minify(body) == minify(QUICK_EXAMPLE) {
        return Ok(());
    }
    Err(Failure::new(Exit::Unexpected, "the received body is not the documented example").note(QUICK_EXAMPLE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_consists_of_its_parts() {
        let body = format!(
            r#"{{"event":"{EXAMPLE_TYPE}","timestamp":"{EXAMPLE_TIMESTAMP}","data":{EXAMPLE_DATA}}}"#
        );
        assert!(equals_quick_example(&body).is_ok());
        assert!(equals_quick_example(&body.replace("0.95", "0.950")).is_err());
    }

    #[test]
    fn examples_are_json() {
        for entry in CATALOGUE {
            assert!(crate::json::raw(entry.example.as_bytes()).is_some(), "{}", entry.name);
        }
    }
}
