//! `postrider subscriptions`: which events of a tenant go to which URL, and how.

use std::path::PathBuf;

use postrider_proto::v1;
use prost_types::FieldMask;

use super::looks::{Look, Validate};
use super::subscription_settings::Settings;
use super::{Context, input};
use crate::failure::{Doing as _, Exit, Failure, Result};
use crate::output::{Format, notice, print};
use crate::pages::{self, Limit};
use crate::view::promised;
use crate::view::subscription::{Created, Subscription};
use crate::view::test_post::TestPost;

/// What to do with subscriptions.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    /// Create a subscription with its first signing key, and print the secret
    Create(Box<Create>),
    /// Show one subscription
    Get {
        /// ID
        id: String,
    },
    /// List subscriptions, oldest first
    List {
        #[command(flatten)]
        limit: Limit,
    },
    /// Update the given settings; they apply to queued deliveries too
    Update(Box<Update>),
    /// Stop dispatching; events are still accepted and held
    Pause {
        /// ID
        id: String,
    },
    /// Resume a paused or disabled subscription
    Resume {
        /// ID
        id: String,
    },
    /// Delete a subscription: cancel its waiting deliveries and erase its keys
    Delete {
        /// ID
        id: String,
    },
    /// Diagnose the endpoint from an agent: DNS lookup, TCP, TLS, a HEAD request; nothing is delivered
    Diagnose(Look),
    /// Run the CloudEvents validation handshake with the endpoint, from an agent
    Validate(Validate),
    /// POST a test event to this subscription, and show the receiver's answer
    ///
    /// Makes one attempt immediately, even if the subscription is paused, disabled or failing. It does not count as a
    /// delivery. The exit code is 0 if the receiver accepted the event, else 5.
    Test {
        /// ID
        id: String,
        /// Type of the test event, which has the catalogue's example as data [default: postrider.test]
        #[arg(long = "type", value_name = "TYPE", default_value = "", hide_default_value = true)]
        event_type: String,
        /// Reason, for the audit log
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        request_id: String,
    },
}

/// A new subscription.
#[derive(clap::Args, Debug)]
pub(crate) struct Create {
    /// URL of the endpoint: http or https
    #[arg(long, value_name = "URL")]
    url: String,
    /// Event patterns: document.completed, document.* or '*'; may be repeated or separated by commas
    #[arg(long, value_name = "PATTERN,…", value_delimiter = ',', required = true)]
    event_types: Vec<String>,
    /// File with an existing secret (whsec_…) to use instead of a random one; '-' for stdin
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Request ID: repeating the call within 24 hours returns the first result
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    request_id: String,
    #[command(flatten)]
    settings: Settings,
}

/// A change of a subscription.
#[derive(clap::Args, Debug)]
pub(crate) struct Update {
    /// ID
    id: String,
    /// URL of the endpoint
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Event patterns; an update replaces all
    #[arg(long, value_name = "PATTERN,…", value_delimiter = ',')]
    event_types: Vec<String>,
    /// Remove all extra request headers
    #[arg(long, conflicts_with = "headers")]
    no_headers: bool,
    /// Reset to the default retry policy
    #[arg(long)]
    default_retries: bool,
    #[command(flatten)]
    settings: Settings,
}

pub(crate) async fn run(context: &Context, command: Command) -> Result<()> {
    let tenant = context.tenant()?;
    let mut api = context.client.subscriptions();
    match command {
        Command::Create(create) => create.run(context, tenant).await,
        Command::Update(update) => update.run(context, tenant).await,
        Command::Test { id, event_type, request_id } => {
            test(context, v1::TestSubscriptionRequest { tenant, subscription: id, event_type, request_id })
                .await
        }
        Command::Diagnose(look) => look.diagnose(context, tenant).await,
        Command::Validate(validate) => validate.run(context, tenant).await,
        Command::Get { id } => show(context, get(context, tenant, id).await?),
        Command::List { limit } => {
            let found = pages::collect(limit, "list subscriptions", async |page_size, page_token| {
                let tenant = tenant.clone();
                api.list_subscriptions(v1::ListSubscriptionsRequest { tenant, page_size, page_token }).await
            });
            found.await?.show::<Subscription>(context.format)
        }
        Command::Pause { id } => {
            let step = format!("pause {id}");
            let request = v1::PauseSubscriptionRequest { tenant, subscription: id };
            let answer = api.pause_subscription(request).await.doing(step)?.into_inner();
            show(context, promised(answer.subscription, "subscription")?)
        }
        Command::Resume { id } => {
            let step = format!("resume {id}");
            let request = v1::ResumeSubscriptionRequest { tenant, subscription: id };
            let answer = api.resume_subscription(request).await.doing(step)?.into_inner();
            show(context, promised(answer.subscription, "subscription")?)
        }
        Command::Delete { id } => {
            let request = v1::DeleteSubscriptionRequest { tenant, subscription: id.clone() };
            api.delete_subscription(request).await.doing(format_args!("delete {id}"))?;
            context.done(format_args!("Deleted {id}."))
        }
    }
}

async fn get(context: &Context, tenant: String, id: String) -> Result<v1::Subscription> {
    let step = format!("get the subscription '{id}'");
    let request = v1::GetSubscriptionRequest { tenant, subscription: id };
    let answer = context.client.subscriptions().get_subscription(request).await.doing(step)?;
    promised(answer.into_inner().subscription, "subscription")
}

fn show(context: &Context, subscription: v1::Subscription) -> Result<()> {
    context.format.one(&Subscription::from(subscription))
}

async fn test(context: &Context, request: v1::TestSubscriptionRequest) -> Result<()> {
    let step = format!("test {}", request.subscription);
    let answer = context.client.subscriptions().test_subscription(request).await.doing(step)?.into_inner();
    show_test(context, &TestPost::new(answer.event_id, answer.attempt, answer.verdict)?)
}

/// Shows what came of a test event. The command fails if the receiver did not accept it.
pub(super) fn show_test(context: &Context, tested: &TestPost) -> Result<()> {
    match context.format {
        Format::Json => context.format.json(tested)?,
        Format::Table => print(&tested.for_people())?,
    }
    if tested.is_accepted() { Ok(()) } else { Err(Failure::silent(Exit::DeliveryFailed)) }
}

impl Create {
    async fn run(self, context: &Context, tenant: String) -> Result<()> {
        let (url, event_types) = (self.url, self.event_types);
        let mut subscription = v1::Subscription { tenant, url, event_types, ..Default::default() };
        self.settings.apply(&mut subscription);
        let request = v1::CreateSubscriptionRequest {
            subscription: Some(subscription),
            secret: self.secret_file.as_deref().map(input::read_line).transpose()?.unwrap_or_default(),
            request_id: self.request_id,
        };
        let answer = context.client.subscriptions().create_subscription(request).await;
        let answer = answer.doing("create the subscription")?.into_inner();
        let subscription = promised(answer.subscription, "subscription")?;
        let key = promised(answer.signing_key, "signing_key")?;
        warn(&answer.warnings);
        let has_secret = !answer.secret.is_empty();
        context.format.one(&Created::new(subscription, key, answer.secret, answer.warnings))?;
        if has_secret {
            notice("Hand the secret to the receiver: it verifies every POST with it.");
        }
        Ok(())
    }
}

impl Update {
    async fn run(self, context: &Context, tenant: String) -> Result<()> {
        let step = format!("update {}", self.id);
        let mut subscription =
            v1::Subscription { tenant: tenant.clone(), id: self.id.clone(), ..Default::default() };
        let retries = self.settings.changes_retries() && !self.default_retries;
        if retries || self.settings.changes_failure_policy() {
            // Policies are written as a whole, so what is not given is taken from what is stored.
            let stored = get(context, tenant, self.id).await?;
            subscription.failure_policy = stored.failure_policy;
            subscription.retry_policy = stored.retry_policy.filter(|_| retries);
        }
        let mut paths = self.settings.apply(&mut subscription);
        if let Some(url) = self.url {
            subscription.url = url;
            paths.push("url".into());
        }
        if !self.event_types.is_empty() {
            subscription.event_types = self.event_types;
            paths.push("event_types".into());
        }
        if self.no_headers {
            paths.push("headers".into());
        }
        if self.default_retries && !paths.iter().any(|path| path == "retry_policy") {
            paths.push("retry_policy".into());
        }
        if paths.is_empty() {
            let failure = Failure::new(Exit::Usage, "nothing to update");
            return Err(
                failure.note("nothing to update: give at least one setting, such as --url or --event-types")
            );
        }
        let update_mask = Some(FieldMask { paths });
        let request = v1::UpdateSubscriptionRequest { subscription: Some(subscription), update_mask };
        let answer = context.client.subscriptions().update_subscription(request).await.doing(step)?;
        let answer = answer.into_inner();
        warn(&answer.warnings);
        show(context, promised(answer.subscription, "subscription")?)
    }
}

fn warn(warnings: &[String]) {
    warnings.iter().for_each(|warning| notice(format_args!("warning: {warning}")));
}
