//! `postrider keys rotate-all`: new signing keys for all subscriptions of a tenant, or of every tenant.

use std::time::Duration;

use postrider_proto::v1;

use super::Context;
use super::operations::follow;
use crate::failure::{Doing as _, Result};
use crate::pages::{self, Limit};
use crate::time::{duration_to_wire, parse_duration};
use crate::view::operation::Operation;
use crate::view::promised;

/// Which, and how.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Rotate for every tenant: one operation per tenant
    #[arg(long)]
    every_tenant: bool,
    /// Overlap during which the previous keys still sign: 0 (revoke now) to 7d [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    overlap: Option<Duration>,
    /// v1 (HMAC-SHA256) or v1a (Ed25519) [default: v1]
    #[arg(long, value_name = "SCHEME", default_value = "", hide_default_value = true)]
    scheme: String,
    /// Wait until it is done, and show its progress
    #[arg(long)]
    wait: bool,
    /// Request ID: repeating the call within 24 hours returns the first operation
    #[arg(long, value_name = "TEXT", default_value = "")]
    request_id: String,
}

/// Begins it.
pub(crate) async fn run(context: &Context, args: Args) -> Result<()> {
    let tenants = if args.every_tenant { every_tenant(context).await? } else { vec![context.tenant()?] };
    let mut operations = Vec::new();
    for tenant in tenants {
        let context = Context { tenant: Some(tenant.clone()), ..context.clone() };
        let rotation =
            v1::KeyRotation { overlap: args.overlap.map(duration_to_wire), scheme: args.scheme.clone() };
        let step = format!("begin to rotate the keys of {tenant}");
        let request = v1::RotateSigningKeysRequest {
            tenant,
            key_rotation: Some(rotation),
            request_id: args.request_id.clone(),
        };
        let answer = context.client.operations().rotate_signing_keys(request).await.doing(step)?;
        let begun = promised(answer.into_inner().operation, "operation")?;
        let operation = if args.wait { follow(&context, begun).await? } else { begun };
        operations.push(Operation::from(operation));
    }
    context.format.list(&operations)
}

async fn every_tenant(context: &Context) -> Result<Vec<String>> {
    let mut api = context.client.tenants();
    let tenants = pages::collect(Limit::none(), "list tenants", async |page_size, page_token| {
        api.list_tenants(v1::ListTenantsRequest { page_size, page_token }).await
    });
    Ok(tenants.await?.entries.into_iter().map(|tenant| tenant.id).collect())
}
