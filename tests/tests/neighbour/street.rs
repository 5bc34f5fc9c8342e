//! Where they live: a control plane with two tenants, an honest one and an evil one, and an agent that serves both.

use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use postrider_proto::v1::{self, Role};
use postrider_tests::api::Api;
use postrider_tests::turn;
use postrider_tests::world::{AgentSettings, TENANT, World};
use tokio::sync::SemaphorePermit;

use crate::honest::{Emitting, Honest, slowest};
use crate::steady::Steady;

/// The attacker's tenant, and a pool that only it may use.
pub(crate) const EVIL: &str = "evil";
/// What a neighbour's event may take, from the emit to its arrival, all but the slowest hundredth.
const LONGEST: Duration = Duration::from_millis(100);
/// On a slow machine it may take this many times as long as without an attack: the programs and the attack, with its
/// receivers, share the machine's cores.
const TIMES: u32 = 25;
/// The limits that are in force unless an operator changes them; the other tests run without them.
const DEFAULTS: &[&str] = &["tenant_delivery_rate = 1000", "destination_rate = 1000"];
/// What the control plane may have resident, in MiB.
const MOST_MIB: u64 = 512;
/// How long the neighbour is measured without an attack, and after one.
const CALM: Duration = Duration::from_secs(3);
const AFTER: Duration = Duration::from_secs(4);

/// Everything of one attack.
pub(crate) struct Street {
    pub(crate) world: World,
    honest: Honest,
    _turn: SemaphorePermit<'static>,
}

impl Street {
    /// # Errors
    /// When something does not start.
    pub(crate) async fn start(lines: &[&str]) -> Result<Self> {
        let turn = turn::take().await;
        let honest = Honest::start().await?;
        let settings = AgentSettings { ports: vec![honest.port], ..AgentSettings::default() };
        let world = World::with(settings, &[DEFAULTS, lines].concat()).await?;
        world.api.subscribe(honest.subscription(), "").await?;
        let evil = world.control_plane.api(EVIL)?;
        evil.create_tenant().await?;
        evil.allow_pool(EVIL).await?;
        Ok(Self { world, honest, _turn: turn })
    }

    /// The API as a token confined to the evil tenant uses it, over a connection of its own.
    ///
    /// # Errors
    /// When it is refused.
    pub(crate) async fn attacker(&self, role: Role) -> Result<Api> {
        let secret = self.token(role).await?;
        Api::new(self.world.control_plane.channel()?, EVIL, &secret)
    }

    /// A token confined to the evil tenant.
    ///
    /// # Errors
    /// When it is refused.
    pub(crate) async fn token(&self, role: Role) -> Result<String> {
        let request = v1::CreateTokenRequest {
            display_name: "evil".to_owned(),
            role: role.into(),
            tenant: EVIL.to_owned(),
            lifetime: None,
        };
        Ok(self.world.api.tokens().create_token(request).await?.into_inner().secret)
    }

    /// Attacks, and demands that the neighbour does not feel it: neither during the attack nor after it.
    ///
    /// # Errors
    /// When it does, or the attack itself fails.
    pub(crate) fn attack<T>(
        &self,
        what: &str,
        attack: impl Future<Output = Result<T>>,
    ) -> impl Future<Output = Result<T>> {
        // Some attacks are large.
        self.beside(what, Box::pin(attack))
    }

    async fn beside<T>(&self, what: &str, attack: Pin<Box<impl Future<Output = Result<T>>>>) -> Result<T> {
        let machine = Steady::watch(self.world.folder())?;
        let (calm, _) = slowest(&self.emit_for(CALM).await?, &machine)?;
        self.world.control_plane.peak_memory()?;
        let emitting = self.emitting().await?;
        let done = attack.await.context(what.to_owned());
        tokio::time::sleep(AFTER).await;
        let samples = emitting.end().await.with_context(|| format!("beside {what}"))?;
        let done = done?;
        let (took, count) = slowest(&samples, &machine)?;
        let mib = self.world.control_plane.peak_memory()? >> 20;
        println!("{what}: p99 {took:?} of {count} events, {calm:?} without it; at most {mib} MiB");
        let longest = LONGEST.max(calm * TIMES);
        ensure!(took < longest, "beside {what} the p99 of {count} events was {took:?}, {calm:?} without it");
        ensure!(mib < MOST_MIB, "beside {what} the control plane had {mib} MiB");
        Ok(done)
    }

    async fn emitting(&self) -> Result<Emitting> {
        self.honest.emit(self.world.control_plane.api(TENANT)?).await
    }

    async fn emit_for(&self, time: Duration) -> Result<Vec<crate::honest::Sample>> {
        let emitting = self.emitting().await?;
        tokio::time::sleep(time).await;
        emitting.end().await
    }
}
