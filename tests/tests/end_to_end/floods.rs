//! Clients that mean harm, or know no better, on both ports: what they get, and that others do not feel it.

mod calls;
mod enrollment;
mod frames;
mod handshakes;
mod messages;
mod places;
mod returning;
mod sessions;
mod silence;
mod versions;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use postrider_proto::agent::Hello;
use postrider_proto::v1;
use postrider_tests::api::Api;
use postrider_tests::applicant::{AgentPort, Credentials, credentials, hello, new_key};
use postrider_tests::clock::now;
use postrider_tests::frames::Port;
use postrider_tests::world::{ControlPlane, Security, TENANT, TlsFiles};
use tempfile::TempDir;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// How long a good client's call may take while a flood comes in, on a machine that has much else to do.
const PATIENT: Duration = Duration::from_secs(3);

/// A control plane behind TLS, without an agent.
struct Besieged {
    control_plane: ControlPlane,
    api: Api,
    _folder: TempDir,
}

/// An agent that has enrolled.
#[derive(Clone)]
struct Enrolled {
    hello: Hello,
    credentials: Credentials,
}

impl Besieged {
    async fn start(lines: &[&str]) -> Result<Self> {
        let folder = TempDir::with_prefix("postrider-test-")?;
        let files = TlsFiles::make(&folder.path().join("tls"))?;
        let control_plane = ControlPlane::start(folder.path(), lines, Security::Tls(files)).await?;
        let api = control_plane.api(TENANT)?;
        Ok(Self { control_plane, api, _folder: folder })
    }

    /// The API's port.
    fn api_port(&self) -> Result<Port> {
        let trust = std::fs::read_to_string(self.control_plane.ca().unwrap_or("".as_ref()))?;
        Port::new(self.control_plane.api_address(), &trust, None)
    }

    /// The agents' port.
    async fn agent_port(&self, agent: Option<&Enrolled>) -> Result<Port> {
        let trust = self.agents().await?.trust;
        let credentials = agent.map(|agent| &agent.credentials);
        Port::new(self.control_plane.agents_address(), &trust, credentials)
    }

    /// Both.
    async fn ports(&self) -> Result<[Port; 2]> {
        Ok([self.api_port()?, self.agent_port(None).await?])
    }

    /// A token of its own for a client that floods: calls are bounded for each token.
    async fn token_of_a_tenant(&self) -> Result<String> {
        self.api.create_tenant().await?;
        let token = v1::CreateTokenRequest {
            role: v1::Role::Emitter.into(),
            tenant: TENANT.into(),
            ..v1::CreateTokenRequest::default()
        };
        Ok(self.api.tokens().create_token(token).await?.into_inner().secret)
    }

    async fn agents(&self) -> Result<AgentPort> {
        self.control_plane.agent_port(&self.api).await
    }

    async fn enrolled(&self) -> Result<Enrolled> {
        let (port, join, key) = (self.agents().await?, self.api.join("acme", 1).await?, new_key()?);
        let identity = port.enroll(&join, &key).await?;
        Ok(Enrolled { hello: hello(&identity), credentials: credentials(&identity, &key) })
    }

    /// Lets a flood come in, and demands that a good client is served meanwhile, over a connection of long ago and over
    /// new ones, and that memory does not grow by more than so many MiB.
    async fn under<T: Send + 'static>(
        &self,
        what: &str,
        most_mib: u64,
        flood: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        call(&self.api).await?;
        self.control_plane.peak_memory()?;
        let memory = self.control_plane.peak_memory()?;
        let mut flood = AbortOnDropHandle::new(tokio::spawn(flood));
        let (mut slowest, mut count) = (Duration::ZERO, 0);
        let done = loop {
            for api in [&self.api, &self.control_plane.api(TENANT)?] {
                let begun = now();
                call(api).await.with_context(|| format!("{what}: a good client"))?;
                slowest = slowest.max(begun.elapsed());
                count += 1;
            }
            if let Ok(done) = timeout(Duration::from_millis(10), &mut flood).await {
                break done;
            }
        };
        let grown = self.control_plane.peak_memory()?.saturating_sub(memory) >> 20;
        println!("{what}: {count} calls, the slowest in {slowest:?}; memory has grown by {grown} MiB");
        ensure!(slowest < PATIENT, "{what}: the slowest of {count} calls took {slowest:?}");
        ensure!(grown <= most_mib, "{what}: memory has grown by {grown} MiB");
        done?
    }
}

async fn call(api: &Api) -> Result<()> {
    api.tenants().list_tenants(v1::ListTenantsRequest::default()).await?;
    Ok(())
}
