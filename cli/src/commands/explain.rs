//! `postrider explain`: why an event is owed to whom, or is not.

use std::path::PathBuf;

use postrider_domain::time::EventTime;
use postrider_proto::v1;
use postrider_proto::v1::explain_match_request::Subject;

use super::{Context, input};
use crate::failure::Result;
use crate::pages::{self, Limit};
use crate::time::{parse_event_time, to_wire};
use crate::view::explanation::Explanation;

/// Which event, and for whom.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  postrider explain evt_01kgeydw20a4e1yfw0f1p8q7rs
  postrider explain --type order.placed --data '{\"amount\":150}' --subscription sub_01kgeydw20a4e1yfw0f1p8q7rs")]
pub(crate) struct Args {
    /// ID of an accepted event
    #[arg(value_name = "EVENT", required_unless_present = "event_type", conflicts_with = "event_type")]
    event: Option<String>,
    /// Explain a hypothetical event of this type instead; nothing is accepted or sent
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Data of the hypothetical event: JSON text
    #[arg(long, short, value_name = "JSON", default_value = "{}", conflicts_with = "event")]
    data: String,
    /// File with the data of the hypothetical event; '-' for stdin
    #[arg(long, short, value_name = "FILE", conflicts_with_all = ["data", "event"])]
    file: Option<PathBuf>,
    /// Time of the hypothetical event: RFC 3339 [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_event_time, conflicts_with = "event")]
    timestamp: Option<EventTime>,
    /// Attribute of the hypothetical event, 'name=value'; may be repeated
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = input::parse_attribute)]
    #[arg(conflicts_with = "event")]
    attributes: Vec<(String, String)>,
    /// Explain only this subscription [default: all subscriptions of the tenant]
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    subscription: String,
    #[command(flatten)]
    limit: Limit,
}

/// Explains.
pub(crate) async fn run(context: &Context, args: Args) -> Result<()> {
    let (tenant, limit, subscription) = (context.tenant()?, args.limit, args.subscription.clone());
    let subject = args.subject()?;
    let mut api = context.client.events();
    let explanations = pages::collect(limit, "explain", async |page_size, page_token| {
        let request = v1::ExplainMatchRequest {
            tenant: tenant.clone(),
            subscription: subscription.clone(),
            subject: Some(subject.clone()),
            page_size,
            page_token,
        };
        api.explain_match(request).await
    });
    explanations.await?.show::<Explanation>(context.format)
}

impl Args {
    fn subject(self) -> Result<Subject> {
        if let Some(event) = self.event {
            return Ok(Subject::Event(event));
        }
        let data = match &self.file {
            Some(file) => input::read(file)?,
            None => self.data.into_bytes(),
        };
        Ok(Subject::Supposed(v1::NewEvent {
            r#type: self.event_type.unwrap_or_default(),
            data: data.into(),
            timestamp: self.timestamp.map(to_wire),
            attributes: self.attributes.into_iter().collect(),
            ..v1::NewEvent::default()
        }))
    }
}
