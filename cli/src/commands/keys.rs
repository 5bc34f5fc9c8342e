//! `postrider keys`: the signing keys of a subscription. Only create, rotate and reveal print a secret.

use std::path::PathBuf;
use std::time::Duration;

use postrider_proto::v1;

use super::subscriptions::show_test;
use super::{Context, input, rotate_all};
use crate::failure::{Doing as _, Result};
use crate::output::notice;
use crate::time::{duration_to_wire, parse_duration};
use crate::view::key::{SigningKey, WithSecret};
use crate::view::promised;
use crate::view::test_post::TestPost;

/// What to do with signing keys.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    /// List a subscription's keys, newest first, without secrets
    List {
        /// Subscription ID
        subscription: String,
    },
    /// Create a new active key and print its secret
    ///
    /// The previous key also signs during the overlap, so the receiver can switch at any time; then it is revoked.
    /// All queued deliveries are signed with the new key immediately.
    Rotate {
        /// Subscription ID
        subscription: String,
        /// Overlap during which the previous key still signs: 0 (revoke now) to 7d [default: 24h]
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        overlap: Option<Duration>,
        /// File with an existing secret (whsec_… or whsk_…) to use instead of a random one; '-' for stdin
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
        /// v1 (HMAC-SHA256) or v1a (Ed25519) [default: that of the secret, or v1]
        #[arg(long, value_name = "SCHEME", default_value = "", hide_default_value = true)]
        scheme: String,
        /// Request ID: repeating the call within 24 hours returns the first result
        #[arg(long, value_name = "TEXT", default_value = "")]
        request_id: String,
    },
    /// Create new active keys for all subscriptions of the tenant, or of every tenant
    ///
    /// It runs as an operation in the background (`postrider operations`). `reveal` shows the new secrets.
    RotateAll(rotate_all::Args),
    /// Create a pending key and print its secret
    ///
    /// A pending key signs only key tests. Give the secret to the receiver, run `keys test`, then `keys activate`.
    Create {
        /// Subscription ID
        subscription: String,
        /// v1 (HMAC-SHA256) or v1a (Ed25519) [default: that of the secret, or v1]
        #[arg(long, value_name = "SCHEME", default_value = "", hide_default_value = true)]
        scheme: String,
        /// File with an existing secret (whsec_… or whsk_…) to use instead of a random one; '-' for stdin
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
        /// Request ID: repeating the call within 24 hours returns the first result
        #[arg(long, value_name = "TEXT", default_value = "")]
        request_id: String,
    },
    /// Activate a pending key
    ///
    /// The previous key of the scheme also signs during the overlap; then it is revoked.
    Activate {
        /// Subscription ID
        subscription: String,
        /// Key ID
        #[arg(id = "signing_key", value_name = "KEY")]
        key: String,
        /// Overlap during which the previous key still signs: 0 (revoke now) to 7d [default: 24h]
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        overlap: Option<Duration>,
        /// Request ID: repeating the call within 24 hours returns the first result
        #[arg(long, value_name = "TEXT", default_value = "")]
        request_id: String,
    },
    /// POST a test event signed by this key only, and show whether the receiver accepts it
    ///
    /// Makes one attempt immediately, even if the subscription is paused, disabled or failing. It does not count as a
    /// delivery. The exit code is 0 if the receiver accepted the event, else 5.
    Test {
        /// Subscription ID
        subscription: String,
        /// Key ID
        #[arg(id = "signing_key", value_name = "KEY")]
        key: String,
        /// Type of the test event, which has the catalogue's example as data [default: postrider.test]
        #[arg(long = "type", value_name = "TYPE", default_value = "", hide_default_value = true)]
        event_type: String,
        /// Reason, for the audit log
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        request_id: String,
    },
    /// Revoke a key now and erase its secret
    Revoke {
        /// Subscription ID
        subscription: String,
        /// Key ID
        #[arg(id = "signing_key", value_name = "KEY")]
        key: String,
    },
    /// Print the secret of the active key, or of a retiring one
    Reveal {
        /// Subscription ID
        subscription: String,
        /// Key ID [default: the active key]
        #[arg(id = "signing_key", value_name = "KEY")]
        key: Option<String>,
    },
}

pub(crate) async fn run(context: &Context, command: Command) -> Result<()> {
    let command = match command {
        Command::RotateAll(args) => return rotate_all::run(context, args).await,
        command => command,
    };
    let tenant = context.tenant()?;
    let mut api = context.client.signing_keys();
    match command {
        Command::RotateAll(_) => Ok(()),
        Command::List { subscription } => {
            let step = format!("list the keys of {subscription}");
            let request = v1::ListSigningKeysRequest { tenant, subscription };
            let keys = api.list_signing_keys(request).await.doing(step)?.into_inner().signing_keys;
            context.format.list(&keys.into_iter().map(SigningKey::from).collect::<Vec<_>>())
        }
        Command::Rotate { subscription, overlap, secret_file, scheme, request_id } => {
            let step = format!("rotate the key of {subscription}");
            let request = v1::RotateSigningKeyRequest {
                tenant,
                subscription,
                overlap: overlap.map(duration_to_wire),
                secret: secret_file.as_deref().map(input::read_line).transpose()?.unwrap_or_default(),
                request_id,
                scheme,
            };
            rotate(context, request, step).await
        }
        Command::Create { subscription, scheme, secret_file, request_id } => {
            let secret = secret_file.as_deref().map(input::read_line).transpose()?.unwrap_or_default();
            create(context, v1::CreateSigningKeyRequest { tenant, subscription, scheme, secret, request_id })
                .await
        }
        Command::Activate { subscription, key: signing_key, overlap, request_id } => {
            let overlap = overlap.map(duration_to_wire);
            let request =
                v1::ActivateSigningKeyRequest { tenant, subscription, signing_key, overlap, request_id };
            activate(context, request).await
        }
        Command::Test { subscription, key: signing_key, event_type, request_id } => {
            let request =
                v1::TestSigningKeyRequest { tenant, subscription, signing_key, event_type, request_id };
            test(context, request).await
        }
        Command::Revoke { subscription, key } => {
            let step = format!("revoke the key {key}");
            let request = v1::RevokeSigningKeyRequest { tenant, subscription, signing_key: key };
            let answer = api.revoke_signing_key(request).await.doing(step)?.into_inner();
            context.format.one(&SigningKey::from(promised(answer.signing_key, "signing_key")?))
        }
        Command::Reveal { subscription, key } => {
            let step = format!("reveal the key of {subscription}");
            let signing_key = key.unwrap_or_default();
            let request = v1::RevealSigningKeyRequest { tenant, subscription, signing_key };
            let answer = api.reveal_signing_key(request).await.doing(step)?.into_inner();
            let key = promised(answer.signing_key, "signing_key")?;
            context.format.one(&WithSecret::new(key, answer.secret))
        }
    }
}

async fn rotate(context: &Context, request: v1::RotateSigningKeyRequest, step: String) -> Result<()> {
    let answer = context.client.signing_keys().rotate_signing_key(request).await.doing(step)?.into_inner();
    let key = promised(answer.signing_key, "signing_key")?;
    context.format.one(&WithSecret::new(key, answer.secret))?;
    notice("Hand the secret to the receiver before the former key's overlap ends.");
    Ok(())
}

async fn create(context: &Context, request: v1::CreateSigningKeyRequest) -> Result<()> {
    let step = format!("create a key of {}", request.subscription);
    let answer = context.client.signing_keys().create_signing_key(request).await.doing(step)?.into_inner();
    let key = promised(answer.signing_key, "signing_key")?;
    context.format.one(&WithSecret::new(key, answer.secret))?;
    notice("Hand the secret (of a v1a key, the public key) to the receiver, test it, then activate it.");
    Ok(())
}

async fn activate(context: &Context, request: v1::ActivateSigningKeyRequest) -> Result<()> {
    let step = format!("activate the key {}", request.signing_key);
    let answer = context.client.signing_keys().activate_signing_key(request).await.doing(step)?.into_inner();
    context.format.one(&SigningKey::from(promised(answer.signing_key, "signing_key")?))
}

async fn test(context: &Context, request: v1::TestSigningKeyRequest) -> Result<()> {
    let step = format!("test the key {}", request.signing_key);
    let answer = context.client.signing_keys().test_signing_key(request).await.doing(step)?.into_inner();
    show_test(context, &TestPost::new(answer.event_id, answer.attempt, answer.verdict)?)
}
