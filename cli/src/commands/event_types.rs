//! `postrider event-types`: the catalogue of a tenant.

use std::path::PathBuf;

use postrider_proto::v1;
use prost_types::FieldMask;

use super::{Context, input};
use crate::failure::{Doing as _, Exit, Failure, Result};
use crate::pages::{self, Limit};
use crate::view::event_type::EventType;
use crate::view::{parse_word, promised};

/// What to do with event types.
#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    /// Add a type to the catalogue
    Create {
        /// Name, such as document.completed
        name: String,
        #[command(flatten)]
        text: Text,
    },
    /// Show one type with its example
    Get {
        /// Name
        name: String,
    },
    /// List event types by name
    List {
        #[command(flatten)]
        limit: Limit,
    },
    /// Update an event type
    Update {
        /// Name
        name: String,
        #[command(flatten)]
        text: Text,
    },
    /// Delete a type from the catalogue; events and subscriptions stay
    Delete {
        /// Name
        name: String,
    },
}

/// What the catalogue says about a type.
#[derive(clap::Args, Debug)]
pub(crate) struct Text {
    /// Description of the event
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Example of the event's data: JSON text
    #[arg(long, value_name = "JSON")]
    example: Option<String>,
    /// File with the example; '-' for stdin
    #[arg(long, value_name = "FILE", conflicts_with = "example")]
    example_file: Option<PathBuf>,
    /// File with a JSON Schema of the event's data; '-' for stdin
    #[arg(long, value_name = "FILE")]
    schema_file: Option<PathBuf>,
    /// Remove the schema
    #[arg(long, conflicts_with = "schema_file")]
    no_schema: bool,
    /// How to handle events that do not match the schema: off, warn or reject
    #[arg(long, value_name = "STRICTNESS", value_parser = parse_word::<v1::Strictness>)]
    validation: Option<v1::Strictness>,
    /// Mark the type as deprecated: emitters get a warning
    #[arg(long, value_name = "BOOL")]
    deprecated: Option<bool>,
    /// Replacement for a deprecated type
    #[arg(long, value_name = "TEXT")]
    deprecation_message: Option<String>,
}

pub(crate) async fn run(context: &Context, command: Command) -> Result<()> {
    let tenant = context.tenant()?;
    let mut api = context.client.event_types();
    match command {
        Command::Create { name, text } => {
            let step = format!("create the event type '{name}'");
            let event_type = Some(text.fill(tenant, name)?.0);
            let answer =
                api.create_event_type(v1::CreateEventTypeRequest { event_type }).await.doing(step)?;
            show(context, answer.into_inner().event_type)
        }
        Command::Get { name } => {
            let step = format!("get the event type '{name}'");
            let answer = api.get_event_type(v1::GetEventTypeRequest { tenant, name }).await.doing(step)?;
            show(context, answer.into_inner().event_type)
        }
        Command::List { limit } => {
            let entries = pages::collect(limit, "list event types", async |page_size, page_token| {
                let tenant = tenant.clone();
                api.list_event_types(v1::ListEventTypesRequest { tenant, page_size, page_token }).await
            });
            entries.await?.show::<EventType>(context.format)
        }
        Command::Update { name, text } => {
            let step = format!("update the event type '{name}'");
            let (event_type, paths) = text.fill(tenant, name)?;
            if paths.is_empty() {
                return Err(Failure::new(
                    Exit::Usage,
                    "nothing to update: give at least one setting, such as --description",
                ));
            }
            let update_mask = Some(FieldMask { paths });
            let request = v1::UpdateEventTypeRequest { event_type: Some(event_type), update_mask };
            let answer = api.update_event_type(request).await.doing(step)?;
            show(context, answer.into_inner().event_type)
        }
        Command::Delete { name } => {
            let request = v1::DeleteEventTypeRequest { tenant, name: name.clone() };
            api.delete_event_type(request).await.doing(format_args!("delete the event type '{name}'"))?;
            context.done(format_args!("Deleted {name}."))
        }
    }
}

impl Text {
    /// The entry, and which fields were given.
    fn fill(self, tenant: String, name: String) -> Result<(v1::EventType, Vec<String>)> {
        let mut entry = v1::EventType { tenant, name, ..Default::default() };
        let mut paths = Vec::new();
        if let Some(description) = self.description {
            entry.description = description;
            paths.push("description".into());
        }
        let example = match &self.example_file {
            Some(path) => Some(input::read_line(path)?),
            None => self.example,
        };
        if let Some(example) = example {
            entry.example = example;
            paths.push("example".into());
        }
        if let Some(path) = &self.schema_file {
            entry.schema = input::read_line(path)?;
        }
        if self.schema_file.is_some() || self.no_schema {
            paths.push("schema".into());
        }
        if let Some(validation) = self.validation {
            entry.set_validation(validation);
            paths.push("validation".into());
        }
        if let Some(deprecated) = self.deprecated {
            entry.deprecated = deprecated;
            paths.push("deprecated".into());
        }
        if let Some(message) = self.deprecation_message {
            entry.deprecation_message = message;
            paths.push("deprecation_message".into());
        }
        Ok((entry, paths))
    }
}

fn show(context: &Context, entry: Option<v1::EventType>) -> Result<()> {
    context.format.one(&EventType::from(promised(entry, "event_type")?))
}
