//! `postrider subscriptions diagnose` and `validate`: an agent looks at the endpoint from where it is.

use postrider_proto::v1;
use serde::Serialize;

use super::Context;
use crate::failure::{Doing as _, Result};
use crate::output::{Format, notice};
use crate::view::diagnosis::Diagnosis;
use crate::view::promised;
use crate::view::subscription::Subscription;

/// Whose endpoint, and who looks.
#[derive(clap::Args, Debug)]
pub(crate) struct Look {
    /// Subscription ID
    id: String,
    /// ID of the agent that runs the diagnosis [default: any agent of the subscription's pool]
    #[arg(long, value_name = "AGENT", default_value = "", hide_default_value = true)]
    agent: String,
}

/// Whose endpoint is asked for its consent.
#[derive(clap::Args, Debug)]
pub(crate) struct Validate {
    #[command(flatten)]
    look: Look,
    /// Set the subscription's rate limit to the rate that the endpoint allows, if the current limit is higher or
    /// unset
    #[arg(long)]
    apply_rate: bool,
}

impl Look {
    pub(crate) async fn diagnose(self, context: &Context, tenant: String) -> Result<()> {
        let step = format!("diagnose {}", self.id);
        let request = v1::DiagnoseSubscriptionRequest { tenant, subscription: self.id, agent: self.agent };
        let answer = context.client.subscriptions().diagnose_subscription(request).await.doing(step)?;
        context.format.one(&Diagnosis::from(promised(answer.into_inner().diagnosis, "diagnosis")?))
    }
}

/// Mirrors `postrider.v1.ValidateSubscriptionResponse`.
#[derive(Serialize)]
struct Validated {
    subscription: Subscription,
    diagnosis: Diagnosis,
    warnings: Vec<String>,
}

impl Validate {
    pub(crate) async fn run(self, context: &Context, tenant: String) -> Result<()> {
        let Look { id, agent } = self.look;
        let step = format!("validate {id}");
        let request =
            v1::ValidateSubscriptionRequest { tenant, subscription: id, agent, apply_rate: self.apply_rate };
        let answer = context.client.subscriptions().validate_subscription(request).await.doing(step)?;
        let answer = answer.into_inner();
        let subscription = Subscription::from(promised(answer.subscription, "subscription")?);
        let diagnosis = Diagnosis::from(promised(answer.diagnosis, "diagnosis")?);
        match context.format {
            Format::Json => {
                context.format.json(&Validated { subscription, diagnosis, warnings: answer.warnings })
            }
            Format::Table => {
                answer.warnings.iter().for_each(|warning| notice(format_args!("warning: {warning}")));
                context.format.one(&subscription)
            }
        }
    }
}
