//! `postrider keys`: the signing keys of a subscription. Only rotate and reveal print a secret.

use std::path::PathBuf;
use std::time::Duration;

use postrider_proto::v1;

use super::{Context, input};
use crate::failure::{Doing as _, Result};
use crate::output::notice;
use crate::time::{duration_to_wire, parse_duration};
use crate::view::key::{SigningKey, WithSecret};
use crate::view::promised;

/// What to do with signing keys.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Verb {
    /// List a subscription's keys, newest first, without secrets
    List {
        /// The subscription's id
        subscription: String,
    },
    /// Make a new active key and print its secret
    ///
    /// The former key signs beside the new one for the overlap, so that the receiver can switch in its own
    /// time; then it is revoked. Everything queued is signed with the new key at once.
    Rotate {
        /// The subscription's id
        subscription: String,
        /// How long the former key goes on signing: 0 (revoked now) to 7d [default: 24h]
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        overlap: Option<Duration>,
        /// A file with an existing secret (whsec_…) to use instead of a new random one; '-' is stdin
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
        /// Makes a repeated call return the first call's result for 24 hours
        #[arg(long, value_name = "TEXT", default_value = "")]
        request_id: String,
    },
    /// Revoke a retiring key now and erase its secret
    Revoke {
        /// The subscription's id
        subscription: String,
        /// The key's id
        #[arg(id = "signing_key", value_name = "KEY")]
        key: String,
    },
    /// Print the secret of the active key, or of a retiring one
    Reveal {
        /// The subscription's id
        subscription: String,
        /// The key's id [default: the active key]
        #[arg(id = "signing_key", value_name = "KEY")]
        key: Option<String>,
    },
}

/// Runs the verb.
pub(crate) async fn run(context: &Context, verb: Verb) -> Result<()> {
    let tenant = context.tenant()?;
    let mut api = context.client.signing_keys();
    match verb {
        Verb::List { subscription } => {
            let step = format!("list the keys of {subscription}");
            let request = v1::ListSigningKeysRequest { tenant, subscription };
            let keys = api.list_signing_keys(request).await.doing(step)?.into_inner().signing_keys;
            context.format.list(&keys.into_iter().map(SigningKey::from).collect::<Vec<_>>())
        }
        Verb::Rotate { subscription, overlap, secret_file, request_id } => {
            let step = format!("rotate the key of {subscription}");
            let request = v1::RotateSigningKeyRequest {
                tenant,
                subscription,
                overlap: overlap.map(duration_to_wire),
                secret: secret_file.as_deref().map(input::read_line).transpose()?.unwrap_or_default(),
                request_id,
            };
            let answer = api.rotate_signing_key(request).await.doing(step)?.into_inner();
            let key = promised(answer.signing_key, "signing_key")?;
            context.format.one(&WithSecret::new(key, answer.secret))?;
            notice("Hand the secret to the receiver before the former key's overlap ends.");
            Ok(())
        }
        Verb::Revoke { subscription, key } => {
            let step = format!("revoke the key {key}");
            let request = v1::RevokeSigningKeyRequest { tenant, subscription, signing_key: key };
            let answer = api.revoke_signing_key(request).await.doing(step)?.into_inner();
            context.format.one(&SigningKey::from(promised(answer.signing_key, "signing_key")?))
        }
        Verb::Reveal { subscription, key } => {
            let step = format!("reveal the key of {subscription}");
            let signing_key = key.unwrap_or_default();
            let request = v1::RevealSigningKeyRequest { tenant, subscription, signing_key };
            let answer = api.reveal_signing_key(request).await.doing(step)?.into_inner();
            let key = promised(answer.signing_key, "signing_key")?;
            context.format.one(&WithSecret::new(key, answer.secret))
        }
    }
}
