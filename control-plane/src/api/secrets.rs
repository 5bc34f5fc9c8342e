//! `SecretService`.

use postrider_proto::v1::secret_service_server::SecretService;
use postrider_proto::{time, v1};
use tonic::{Request, Response, Status};

use super::{Api, status};
use crate::secrets::rewrap::{Progress, State};

#[tonic::async_trait]
impl SecretService for Api {
    async fn rewrap_secrets(
        &self,
        request: Request<v1::RewrapSecretsRequest>,
    ) -> Result<Response<v1::RewrapSecretsResponse>, Status> {
        let (api, _) = self.call(request);
        let (rewrapper, audit) = (api.rewrapper.clone(), api.entry("RewrapSecrets", None, ""));
        // The gate carries every change through, so a caller that goes away leaves nothing half begun.
        let progress = rewrapper.begin(audit).await.map_err(|error| status::secrets(&error))?;
        Ok(Response::new(v1::RewrapSecretsResponse { rewrap: Some(write(&progress)) }))
    }

    async fn get_secrets_status(
        &self,
        request: Request<v1::GetSecretsStatusRequest>,
    ) -> Result<Response<v1::GetSecretsStatusResponse>, Status> {
        let (api, _) = self.call(request);
        let keks = &api.rewrapper.keks;
        let rows = api.store.data_keys().await.map_err(|error| status::store(&error))?;
        let data_key = |row: &crate::store::DataKeyRow| v1::DataKey {
            id: row.id.to_string(),
            kek: row.kek.to_string(),
            create_time: Some(time::write(row.id.created())),
        };
        let kek = |kek: &dyn crate::secrets::Kek| v1::KeyEncryptionKey {
            id: kek.id().to_string(),
            source: kek.source().to_owned(),
        };
        Ok(Response::new(v1::GetSecretsStatusResponse {
            keks: keks.iter().map(kek).collect(),
            data_keys: rows.iter().map(data_key).collect(),
            rewrap_advised: rows.iter().any(|row| row.kek != *keks.current().id()),
            rewrap: Some(write(&api.rewrapper.progress())),
        }))
    }
}

fn write(progress: &Progress) -> v1::Rewrap {
    let state = match progress.state {
        State::None => v1::RewrapState::Unspecified,
        State::Running => v1::RewrapState::Running,
        State::Done => v1::RewrapState::Done,
        State::Failed => v1::RewrapState::Failed,
    };
    let number = |number| i64::try_from(number).unwrap_or(i64::MAX);
    v1::Rewrap {
        state: state.into(),
        start_time: progress.started.map(time::write),
        end_time: progress.ended.map(time::write),
        value_count: number(progress.values),
        done_count: number(progress.done),
        problem: progress.problem.clone(),
    }
}
