//! How secrets are sealed, shown. Never a secret or a key.

use postrider_proto::v1;
use serde::Serialize;

use super::{time, word};
use crate::output::View;

/// Mirrors `postrider.v1.GetSecretsStatusResponse`.
#[derive(Debug, Serialize)]
pub(crate) struct SecretsStatus {
    keks: Vec<KeyEncryptionKey>,
    data_keys: Vec<DataKey>,
    rewrap_advised: bool,
    rewrap: Option<Rewrap>,
}

/// Mirrors `postrider.v1.KeyEncryptionKey`.
#[derive(Debug, Serialize)]
struct KeyEncryptionKey {
    id: String,
    source: String,
}

/// Mirrors `postrider.v1.DataKey`.
#[derive(Debug, Serialize)]
struct DataKey {
    id: String,
    kek: String,
    create_time: Option<String>,
}

/// Mirrors `postrider.v1.Rewrap`.
#[derive(Debug, Serialize)]
pub(crate) struct Rewrap {
    state: String,
    start_time: Option<String>,
    end_time: Option<String>,
    value_count: i64,
    done_count: i64,
    problem: String,
}

impl From<v1::GetSecretsStatusResponse> for SecretsStatus {
    fn from(status: v1::GetSecretsStatusResponse) -> Self {
        let kek = |kek: v1::KeyEncryptionKey| KeyEncryptionKey { id: kek.id, source: kek.source };
        let data_key = |key: v1::DataKey| DataKey {
            id: key.id,
            kek: key.kek,
            create_time: time(key.create_time.as_ref()),
        };
        Self {
            keks: status.keks.into_iter().map(kek).collect(),
            data_keys: status.data_keys.into_iter().map(data_key).collect(),
            rewrap_advised: status.rewrap_advised,
            rewrap: status.rewrap.map(Rewrap::from),
        }
    }
}

impl From<v1::Rewrap> for Rewrap {
    fn from(rewrap: v1::Rewrap) -> Self {
        Self {
            state: word::<v1::RewrapState>(rewrap.state),
            start_time: time(rewrap.start_time.as_ref()),
            end_time: time(rewrap.end_time.as_ref()),
            value_count: rewrap.value_count,
            done_count: rewrap.done_count,
            problem: rewrap.problem,
        }
    }
}

impl View for SecretsStatus {
    const COLUMNS: &'static [&'static str] = &["CURRENT KEK", "DATA KEYS", "REWRAP"];

    fn row(&self) -> Vec<String> {
        let current = self.keks.first().map(|kek| kek.id.clone()).unwrap_or_default();
        let state = self.rewrap.as_ref().map(|rewrap| rewrap.state.clone()).unwrap_or_default();
        vec![current, self.data_keys.len().to_string(), state]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let kek = |kek: &KeyEncryptionKey| format!("{} ({})", kek.id, kek.source);
        let others: Vec<String> = self.keks.iter().skip(1).map(kek).collect();
        let data_key = |key: &DataKey| {
            format!("{} under {}, made {}", key.id, key.kek, key.create_time.as_deref().unwrap_or("?"))
        };
        let data_keys: Vec<String> = self.data_keys.iter().map(data_key).collect();
        let advice = "something is sealed under another key than the current one: postrider secrets rewrap";
        let mut pairs = vec![
            ("Current KEK", self.keks.first().map(kek).unwrap_or_default()),
            ("Other KEKs", others.join("\n")),
            ("Data keys", data_keys.join("\n")),
            ("Advice", if self.rewrap_advised { advice.to_owned() } else { String::new() }),
        ];
        pairs.extend(self.rewrap.iter().flat_map(Rewrap::details));
        pairs
    }
}

impl View for Rewrap {
    const COLUMNS: &'static [&'static str] = &["STATE", "DONE", "PROBLEM"];

    fn row(&self) -> Vec<String> {
        vec![self.state.clone(), self.progress(), self.problem.clone()]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        if self.start_time.is_none() {
            return Vec::new();
        }
        vec![
            ("Rewrap", format!("{}, {}", self.state, self.progress())),
            ("Began", self.start_time.clone().unwrap_or_default()),
            ("Ended", self.end_time.clone().unwrap_or_default()),
            ("Problem", self.problem.clone()),
        ]
    }
}

impl Rewrap {
    /// How far it is.
    pub(crate) fn progress(&self) -> String {
        format!("{} of {} values", self.done_count, self.value_count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_what_to_do() {
        let kek = |id: &str| v1::KeyEncryptionKey { id: id.into(), source: format!("file:/{id}") };
        let data_key = v1::DataKey { id: "dk_1".into(), kek: "kek_1".into(), create_time: None };
        let status = SecretsStatus::from(v1::GetSecretsStatusResponse {
            keks: vec![kek("kek_2"), kek("kek_1")],
            data_keys: vec![data_key],
            rewrap_advised: true,
            rewrap: Some(v1::Rewrap::default()),
        });
        let shown = format!("{:?}", status.details());
        for words in ["kek_2 (file:/kek_2)", "dk_1 under kek_1", "postrider secrets rewrap"] {
            assert!(shown.contains(words), "{shown}");
        }
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(json["rewrap"]["state"], "unspecified");
        assert_eq!(json.as_object().unwrap().len(), 4);
    }
}
