//! Every answer of the API and of the command that may hold no secret, as text.

use std::fmt::Debug;

use anyhow::{Result, ensure};
use postrider_proto::v1;
use postrider_tests::api::Api;
use postrider_tests::cli::{Cli, Ended};
use tonic::{Response, Status};

/// The answers, each with the name of its question.
#[derive(Default)]
pub(super) struct Answers(Vec<(String, Vec<u8>)>);

impl Answers {
    pub(super) fn places(&self) -> &[(String, Vec<u8>)] {
        &self.0
    }

    /// Keeps an answer or a refusal, whole: message, details, metadata.
    pub(super) fn add<T: Debug>(&mut self, question: &str, answer: &Result<Response<T>, Status>) {
        let text = match answer {
            Ok(answer) => format!("{answer:?}"),
            Err(status) => format!("{status:?} {}", String::from_utf8_lossy(status.details())),
        };
        self.0.push((question.to_owned(), text.into_bytes()));
    }

    /// Keeps what a command printed, which must have succeeded.
    pub(super) fn add_ended(&mut self, question: &str, ended: Ended) -> Result<()> {
        ensure!(ended.code == 0, "{question}: {ended:?}");
        self.0.push((question.to_owned(), format!("{}{}", ended.stdout, ended.stderr).into_bytes()));
        Ok(())
    }

    /// Makes every call that only looks.
    #[expect(clippy::needless_update, reason = "the macro leaves unset whatever a call does not name")]
    pub(super) async fn ask_everything(&mut self, who: &str, api: &Api) -> Result<()> {
        let tenant = api.tenant();
        let whose = |what: &str| format!("{what} for {who}");
        macro_rules! ask {
            ($what:literal, $service:ident.$method:ident($request:ident { $($field:ident: $value:expr),* })) => {{
                let request = v1::$request { $($field: $value,)* ..v1::$request::default() };
                let answer = api.$service().$method(request).await;
                self.add(&whose($what), &answer);
                answer.map(Response::into_inner)
            }};
        }
        let list = ask!(
            "subscriptions",
            subscriptions.list_subscriptions(ListSubscriptionsRequest { tenant: tenant.clone() })
        )?;
        for subscription in list.subscriptions.iter().map(|subscription| subscription.id.clone()) {
            let tenant = tenant.clone();
            ask!(
                "a subscription",
                subscriptions.get_subscription(GetSubscriptionRequest {
                    tenant: tenant.clone(),
                    subscription: subscription.clone()
                })
            )?;
            ask!(
                "its keys",
                signing_keys
                    .list_signing_keys(ListSigningKeysRequest { tenant: tenant, subscription: subscription })
            )?;
        }
        let list =
            ask!("deliveries", deliveries.list_deliveries(ListDeliveriesRequest { tenant: tenant.clone() }))?;
        for delivery in list.deliveries {
            ask!(
                "a delivery",
                deliveries.get_delivery(GetDeliveryRequest { tenant: tenant.clone(), delivery: delivery.id })
            )?;
        }
        let list = ask!("events", events.list_events(ListEventsRequest { tenant: tenant.clone() }))?;
        for event in list.events {
            ask!("an event", events.get_event(GetEventRequest { tenant: tenant.clone(), event: event.id }))?;
        }
        ask!("tenants", tenants.list_tenants(ListTenantsRequest {}))?;
        ask!("a tenant", tenants.get_tenant(GetTenantRequest { tenant: tenant.clone() }))?;
        ask!("agents", agents.list_agents(ListAgentsRequest {}))?;
        // These are refused to some: the refusal is an answer too.
        drop(ask!("tokens", tokens.list_tokens(ListTokensRequest {})));
        drop(ask!("the audit log", audit.list_audit_records(ListAuditRecordsRequest { page_size: 1000 })));
        drop(ask!("the verdict on it", audit.verify_audit_log(VerifyAuditLogRequest {})));
        drop(ask!("how secrets are sealed", secrets.get_secrets_status(GetSecretsStatusRequest {})));
        Ok(())
    }

    /// Runs every command that only looks.
    pub(super) async fn run_everything(&mut self, cli: &Cli, subscription: &str) -> Result<()> {
        let lines = [
            "tenants list",
            "event-types list",
            "subscriptions list",
            "subscriptions get SUBSCRIPTION",
            "keys list SUBSCRIPTION",
            "events list",
            "deliveries list",
            "agents list",
            "tokens list",
            "audit list",
            "audit verify",
            "secrets status",
        ];
        for line in lines {
            let arguments: Vec<&str> = line
                .split(' ')
                .map(|word| if word == "SUBSCRIPTION" { subscription } else { word })
                .collect();
            for format in ["table", "json"] {
                let arguments = [&arguments[..], &["-o", format]].concat();
                self.add_ended(&format!("`postrider {line}`"), cli.run(&arguments).await?)?;
            }
        }
        let events = cli.json(&["events", "list"]).await?;
        for event in events.as_array().into_iter().flatten().filter_map(|event| event["id"].as_str()) {
            self.add_ended("`postrider events get`", cli.run(&["events", "get", event]).await?)?;
        }
        let deliveries = cli.json(&["deliveries", "list"]).await?;
        for delivery in deliveries.as_array().into_iter().flatten().filter_map(|row| row["id"].as_str()) {
            self.add_ended("`postrider deliveries show`", cli.run(&["deliveries", "show", delivery]).await?)?;
        }
        Ok(())
    }
}
