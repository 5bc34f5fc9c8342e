//! `postrider agents authorities`: who vouches for agents.

use std::time::Duration;

use postrider_proto::v1;

use super::Context;
use crate::failure::{Doing as _, Result};
use crate::output::notice;
use crate::time::{duration_to_wire, parse_duration};
use crate::view::authority::Authority;
use crate::view::promised;

/// What to do with authorities.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    /// List trusted authorities, newest first; the first one issues certificates
    List,
    /// Create a new authority; previous ones stay trusted while agents renew their certificates
    Rotate {
        /// How long previous authorities stay trusted, at most 90d; 0 after a key compromise: every agent must enroll
        /// again [default: the lifetime of an agent certificate plus one hour]
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        overlap: Option<Duration>,
    },
}

pub(crate) async fn run(context: &Context, command: Command) -> Result<()> {
    let mut api = context.client.agents();
    match command {
        Command::List => {
            let answer = api.list_authorities(v1::ListAuthoritiesRequest {}).await;
            let found = answer.doing("list authorities")?.into_inner().authorities;
            context.format.list(&found.into_iter().map(Authority::from).collect::<Vec<_>>())
        }
        Command::Rotate { overlap } => {
            let request = v1::RotateAuthorityRequest { overlap: overlap.map(duration_to_wire) };
            let made = api.rotate_authority(request).await.doing("make a new authority")?.into_inner();
            context.format.one(&Authority::from(promised(made.authority, "authority")?))?;
            notice("Agents that renew within the overlap go on; all others have to enroll again.");
            Ok(())
        }
    }
}
