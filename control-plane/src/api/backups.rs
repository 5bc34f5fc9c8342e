//! `BackupService`: the parts of a backup, as they come.

use std::pin::Pin;

use futures::stream::{self, Stream};
use postrider_proto::v1;
use postrider_proto::v1::backup_service_server::BackupService;
use tonic::{Request, Response, Status};

use super::streams::while_valid;
use super::{Api, status};
use crate::backups::Running;
use crate::store::BackupParts;

type Answers = Pin<Box<dyn Stream<Item = Result<v1::BackupResponse, Status>> + Send>>;

#[tonic::async_trait]
impl BackupService for Api {
    type BackupStream = Answers;

    async fn backup(&self, request: Request<v1::BackupRequest>) -> Result<Response<Answers>, Status> {
        let (api, _) = self.call(request);
        let running = api.backups.begin(&api.caller.actor).ok_or_else(|| {
            status::precondition("BACKUP_RUNNING", "another backup is being taken; wait for its end")
        })?;
        // Before it begins, so that it is in the backup.
        api.record(api.entry("Backup", None, "")).await?;
        let parts = api.store.backup(api.clock.wall()).await.map_err(|error| status::store(&error))?;
        let token_status = api.caller.token_status.clone();
        let taking = Some(Taking { api, parts, running });
        let answers = stream::unfold(taking, |taking| async { taking?.next().await });
        Ok(Response::new(Box::pin(while_valid(answers, &token_status))))
    }
}

struct Taking {
    api: Api,
    parts: BackupParts,
    running: Running,
}

type Answer = (Result<v1::BackupResponse, Status>, Option<Taking>);

impl Taking {
    /// The next answer, and what goes on after it.
    async fn next(mut self) -> Option<Answer> {
        let part = tokio::select! {
            part = self.parts.recv() => part,
            () = self.api.stopping.cancelled() => {
                self.running.fail("the control plane is stopping");
                return Some((Err(status::stopping()), None));
            }
        };
        match part {
            Some(Ok(data)) => {
                self.running.count(data.len());
                Some((Ok(v1::BackupResponse { data }), Some(self)))
            }
            Some(Err(error)) => {
                self.running.fail(&error.to_string());
                Some((Err(status::backup(&error)), None))
            }
            None => {
                self.running.succeed();
                None
            }
        }
    }
}
