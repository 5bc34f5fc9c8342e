//! `postrider apply`: makes a tenant as a file says, and shows what that changes.

use std::path::PathBuf;

use postrider_proto::v1;
use prost_types::FieldMask;
use serde::Serialize;
use serde_json::Value;

use super::{Context, export, input};
use crate::declare::plan::{Actual, Difference, Key, Step, Wanted, plan};
use crate::declare::read::{self, Declared, File};
use crate::declare::{Problem, fields};
use crate::failure::{Doing as _, Exit, Failure, Result};
use crate::output::{Format, print, visible};

/// What is applied, and how.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// File in the format of `postrider export`; '-' for stdin
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// Show the changes without making them
    #[arg(long)]
    dry_run: bool,
    /// Delete subscriptions and event types that are not in the file
    #[arg(long)]
    prune: bool,
    /// Write the headers of all subscriptions, even if their names have not changed (values cannot be read back and
    /// compared)
    #[arg(long)]
    headers: bool,
}

/// What became, or would become, of one thing.
#[derive(Debug, Serialize)]
struct Change {
    /// tenant, event_type or subscription.
    kind: &'static str,
    /// Its name, or its id.
    name: String,
    /// created, changed, pruned, unchanged or left.
    change: &'static str,
    fields: Vec<FieldChange>,
}

/// A field that changes.
#[derive(Debug, Serialize)]
struct FieldChange {
    field: &'static str,
    before: Value,
    after: Value,
}

/// Applies a file.
pub(crate) async fn run(context: &Context, args: Args) -> Result<()> {
    let name = input::name(&args.file);
    let text = String::from_utf8(input::read(&args.file)?)
        .map_err(|_| Failure::new(Exit::Usage, format!("{name} is not text")))?;
    let file = read::file(&text).map_err(|problems| wrong(&name, &problems))?;
    let tenant = whose(context, &file)?;
    let mut apply = Apply { context, tenant, args: &args, file: name, changes: Vec::new() };
    apply.settings(file.settings).await?;
    let pruned_types = match file.event_types {
        Some(event_types) => apply.event_types(event_types).await?,
        None => Vec::new(),
    };
    if let Some(subscriptions) = file.subscriptions {
        apply.subscriptions(subscriptions).await?;
    }
    // Last, when nothing wants them any more.
    for name in pruned_types {
        apply.prune_event_type(name).await?;
    }
    show(context, &apply.changes, args.dry_run)
}

fn wrong(name: &str, problems: &[Problem]) -> Failure {
    let count = problems.len();
    let failure = Failure::new(Exit::Usage, format!("{name} has {count} errors; nothing was changed"));
    problems.iter().fold(failure, |failure, problem| {
        failure.note(format!("line {}: {}", problem.line, visible(&problem.problem, ' ')))
    })
}

/// The tenant that the file and the command line agree on.
fn whose(context: &Context, file: &File) -> Result<String> {
    let given = context.tenant.clone().filter(|tenant| !tenant.is_empty());
    match (&file.tenant, given) {
        (Some(named), Some(given)) if *named != given => Err(Failure::new(
            Exit::Usage,
            format!(
                "the file is about the tenant '{named}', and --tenant or POSTRIDER_TENANT says '{given}'"
            ),
        )),
        (Some(named), _) => Ok(named.clone()),
        (None, _) => context.tenant(),
    }
}

struct Apply<'a> {
    context: &'a Context,
    tenant: String,
    args: &'a Args,
    /// Its name for people.
    file: String,
    changes: Vec<Change>,
}

impl Apply<'_> {
    async fn settings(&mut self, settings: Option<(v1::Tenant, crate::declare::plan::Fields)>) -> Result<()> {
        let Some((message, fields)) = settings else { return Ok(()) };
        let now = export::tenant(self.context, &self.tenant).await?;
        let key = Key::Id(self.tenant.clone());
        let wanted = [Wanted { line: 0, key, fields }];
        let id = self.tenant.clone();
        let actual = [Actual { id, name: String::new(), fields: fields::of_tenant(&now) }];
        for step in self.plan(&wanted, &actual, false)? {
            let differences = self.note("tenant", &step, &wanted, &actual);
            if differences.is_empty() || self.args.dry_run {
                continue;
            }
            let tenant = v1::Tenant { id: self.tenant.clone(), ..message.clone() };
            let request = v1::UpdateTenantRequest { tenant: Some(tenant), update_mask: mask(&differences) };
            let answer = self.context.client.tenants().update_tenant(request).await;
            answer.doing(format!("update the tenant '{}'", self.tenant))?;
        }
        Ok(())
    }

    /// Returns the names of those that are to be pruned.
    async fn event_types(&mut self, declared: Vec<Declared<v1::EventType>>) -> Result<Vec<String>> {
        let now = export::event_types(self.context, &self.tenant).await?;
        let actual: Vec<Actual> = now
            .iter()
            .map(|entry| Actual {
                id: entry.name.clone(),
                name: entry.name.clone(),
                fields: fields::of_event_type(entry),
            })
            .collect();
        let (wanted, messages): (Vec<_>, Vec<_>) =
            declared.into_iter().map(|declared| (declared.wanted, declared.message)).unzip();
        let mut pruned = Vec::new();
        for step in self.plan(&wanted, &actual, self.args.prune)? {
            if let Step::Prune(place) = step {
                pruned.push(actual[place].name.clone());
                continue;
            }
            let differences = self.note("event_type", &step, &wanted, &actual);
            if self.args.dry_run {
                continue;
            }
            let mut api = self.context.client.event_types();
            let entry = |at: usize| v1::EventType { tenant: self.tenant.clone(), ..messages[at].clone() };
            match step {
                Step::Create(at) => {
                    let request = v1::CreateEventTypeRequest { event_type: Some(entry(at)) };
                    let answer = api.create_event_type(request).await;
                    answer.doing(format!("create the event type '{}'", messages[at].name))?;
                }
                Step::Update(at, ..) => {
                    let request = v1::UpdateEventTypeRequest {
                        event_type: Some(entry(at)),
                        update_mask: mask(&differences),
                    };
                    let answer = api.update_event_type(request).await;
                    answer.doing(format!("update the event type '{}'", messages[at].name))?;
                }
                Step::Keep(..) | Step::Prune(_) | Step::Leave(_) => {}
            }
        }
        Ok(pruned)
    }

    async fn prune_event_type(&mut self, name: String) -> Result<()> {
        let change = Change { kind: "event_type", name: name.clone(), change: "pruned", fields: Vec::new() };
        self.changes.push(change);
        if self.args.dry_run {
            return Ok(());
        }
        let step = format!("delete the event type '{name}'");
        let request = v1::DeleteEventTypeRequest { tenant: self.tenant.clone(), name };
        self.context.client.event_types().delete_event_type(request).await.doing(step).map(drop)
    }

    async fn subscriptions(&mut self, declared: Vec<Declared<v1::Subscription>>) -> Result<()> {
        let now = export::subscriptions(self.context, &self.tenant).await?;
        let actual: Vec<Actual> = now
            .iter()
            .map(|subscription| {
                let mut fields = fields::of_subscription(subscription);
                fields.insert("paused", fields::is_paused(subscription));
                Actual { id: subscription.id.clone(), name: subscription.name.clone(), fields }
            })
            .collect();
        let (wanted, messages): (Vec<_>, Vec<_>) =
            declared.into_iter().map(|declared| (declared.wanted, declared.message)).unzip();
        for step in self.plan(&wanted, &actual, self.args.prune)? {
            let step = self.with_headers(step, &wanted);
            let differences = self.note("subscription", &step, &wanted, &actual);
            if self.args.dry_run {
                self.check(&step, &messages, &actual, &differences).await?;
                continue;
            }
            match step {
                Step::Create(at) => {
                    let paused = wanted[at].fields.get("paused") == Some(&Value::Bool(true));
                    self.create(messages[at].clone(), paused).await?;
                }
                Step::Update(at, place, _) => {
                    self.update(&actual[place].id, messages[at].clone(), &differences).await?;
                }
                Step::Prune(place) => {
                    let id = actual[place].id.clone();
                    let step = format!("delete {id}");
                    let request =
                        v1::DeleteSubscriptionRequest { tenant: self.tenant.clone(), subscription: id };
                    self.context.client.subscriptions().delete_subscription(request).await.doing(step)?;
                }
                Step::Keep(..) | Step::Leave(_) => {}
            }
        }
        Ok(())
    }

    /// Headers that are to be written though nobody can say whether they differ.
    fn with_headers(&self, step: Step, wanted: &[Wanted]) -> Step {
        let (at, place, mut differences) = match step {
            Step::Keep(at, place) => (at, place, Vec::new()),
            Step::Update(at, place, differences) => (at, place, differences),
            other => return other,
        };
        let headers = wanted[at].fields.get("headers").cloned().unwrap_or_default();
        let has_some = headers.as_array().is_some_and(|headers| !headers.is_empty());
        let is_there = differences.iter().any(|differs| differs.field == "headers");
        if self.args.headers && has_some && !is_there {
            differences.push(Difference { field: "headers", before: headers.clone(), after: headers });
        }
        if differences.is_empty() { Step::Keep(at, place) } else { Step::Update(at, place, differences) }
    }

    /// Has the server judge what it would be asked to do with a subscription, and does nothing.
    async fn check(
        &self,
        step: &Step,
        messages: &[v1::Subscription],
        actual: &[Actual],
        differences: &[Difference],
    ) -> Result<()> {
        let (id, message, update_mask) = match step {
            Step::Create(at) => (String::new(), &messages[*at], None),
            Step::Update(at, place, _) => {
                let settings = settings(differences);
                if settings.is_empty() {
                    return Ok(());
                }
                (actual[*place].id.clone(), &messages[*at], mask(&settings))
            }
            Step::Keep(..) | Step::Prune(_) | Step::Leave(_) => return Ok(()),
        };
        let doing = match message.name.as_str() {
            "" => format!("check {id}"),
            name => format!("check the subscription {name}"),
        };
        let subscription = Some(v1::Subscription { tenant: self.tenant.clone(), id, ..message.clone() });
        let request = v1::CheckSubscriptionRequest { subscription, update_mask };
        self.context.client.subscriptions().check_subscription(request).await.doing(doing).map(drop)
    }

    async fn create(&self, message: v1::Subscription, paused: bool) -> Result<()> {
        let step = format!("create the subscription '{}'", message.name);
        let subscription =
            Some(v1::Subscription { tenant: self.tenant.clone(), id: String::new(), ..message });
        let request = v1::CreateSubscriptionRequest { subscription, ..Default::default() };
        let answer = self.context.client.subscriptions().create_subscription(request).await.doing(step)?;
        match answer.into_inner().subscription {
            Some(made) if paused => self.pause(&made.id, true).await,
            _ => Ok(()),
        }
    }

    async fn update(&self, id: &str, message: v1::Subscription, differences: &[Difference]) -> Result<()> {
        let settings = settings(differences);
        if !settings.is_empty() {
            let subscription =
                Some(v1::Subscription { tenant: self.tenant.clone(), id: id.to_owned(), ..message });
            let request = v1::UpdateSubscriptionRequest { subscription, update_mask: mask(&settings) };
            let answer = self.context.client.subscriptions().update_subscription(request).await;
            answer.doing(format!("update {id}"))?;
        }
        match differences.iter().find(|differs| differs.field == "paused") {
            Some(differs) => self.pause(id, differs.after == Value::Bool(true)).await,
            None => Ok(()),
        }
    }

    async fn pause(&self, id: &str, paused: bool) -> Result<()> {
        let mut api = self.context.client.subscriptions();
        let (tenant, subscription) = (self.tenant.clone(), id.to_owned());
        if paused {
            let request = v1::PauseSubscriptionRequest { tenant, subscription };
            api.pause_subscription(request).await.doing(format!("pause {id}")).map(drop)
        } else {
            let request = v1::ResumeSubscriptionRequest { tenant, subscription };
            api.resume_subscription(request).await.doing(format!("resume {id}")).map(drop)
        }
    }

    fn plan(&self, wanted: &[Wanted], actual: &[Actual], prune: bool) -> Result<Vec<Step>> {
        plan(wanted, actual, prune).map_err(|unknown| {
            let problem = |at: usize| {
                let (Key::Id(key) | Key::Name(key)) = &wanted[at].key;
                Problem::new(wanted[at].line, format!("the tenant has no {key}; ids are made by the server"))
            };
            wrong(&self.file, &unknown.into_iter().map(problem).collect::<Vec<_>>())
        })
    }

    /// Remembers what is done about a thing; the fields that change.
    fn note(
        &mut self,
        kind: &'static str,
        step: &Step,
        wanted: &[Wanted],
        actual: &[Actual],
    ) -> Vec<Difference> {
        let key = |at: usize| {
            let (Key::Id(key) | Key::Name(key)) = &wanted[at].key;
            key.clone()
        };
        let of_actual = |place: usize| {
            let Actual { id, name, .. } = &actual[place];
            if name.is_empty() { id.clone() } else { name.clone() }
        };
        let (name, change, differences) = match step {
            Step::Create(at) => (key(*at), "created", Vec::new()),
            Step::Update(at, _, differences) => (key(*at), "changed", differences.clone()),
            Step::Keep(at, _) => (key(*at), "unchanged", Vec::new()),
            Step::Prune(place) => (of_actual(*place), "pruned", Vec::new()),
            Step::Leave(place) => (of_actual(*place), "left", Vec::new()),
        };
        let field = |differs: &Difference| FieldChange {
            field: differs.field,
            before: differs.before.clone(),
            after: differs.after.clone(),
        };
        self.changes.push(Change { kind, name, change, fields: differences.iter().map(field).collect() });
        differences
    }
}

/// What an update sets; a pause is a call of its own.
fn settings(differences: &[Difference]) -> Vec<Difference> {
    differences.iter().filter(|differs| differs.field != "paused").cloned().collect()
}

fn mask(differences: &[Difference]) -> Option<FieldMask> {
    Some(FieldMask { paths: differences.iter().map(|differs| differs.field.to_owned()).collect() })
}

fn show(context: &Context, changes: &[Change], dry_run: bool) -> Result<()> {
    if context.format == Format::Json {
        return context.format.json(&serde_json::json!({ "dry_run": dry_run, "changes": changes }));
    }
    let mut text = String::new();
    for change in changes.iter().filter(|change| change.change != "unchanged") {
        let sign = match change.change {
            "created" => '+',
            "pruned" => '-',
            "left" => ' ',
            _ => '~',
        };
        let kind = change.kind.replace('_', " ");
        let what = if change.change == "left" { "not in the file, left as it is" } else { change.change };
        text += &format!("{sign} {kind} {}: {what}\n", visible(&change.name, ' '));
        for field in &change.fields {
            let change = if field.before == field.after {
                "rewritten".to_owned()
            } else {
                format!("{} → {}", field.before, field.after)
            };
            text += &format!("    {}: {}\n", field.field, visible(&change, ' '));
        }
    }
    let count = |word: &str| changes.iter().filter(|change| change.change == word).count();
    text += &format!(
        "{}{} created, {} changed, {} pruned, {} unchanged\n",
        if dry_run { "Dry run: " } else { "" },
        count("created"),
        count("changed"),
        count("pruned"),
        count("unchanged")
    );
    print(&text)
}
