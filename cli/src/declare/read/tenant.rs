//! The tenant's own settings. What the file does not say stays as it is.

use postrider_proto::{tenant, v1};

use super::{Fields, Node, Problems, Section, fields};
use crate::view::{limit, parse_word};

pub(super) fn read(node: &Node, problems: &mut Problems) -> (Option<String>, Option<(v1::Tenant, Fields)>) {
    let mut section = Section::open(node, "tenant", problems);
    let id = section.text("id", problems);
    let mut wanted = v1::Tenant::default();
    let mut said = Vec::new();
    if let Some(name) = section.text("display_name", problems) {
        wanted.display_name = name;
        said.push("display_name");
    }
    if let Some(strictness) = section.parsed("unknown_event_types", problems, parse_word::<v1::Strictness>) {
        wanted.set_unknown_event_types(strictness);
        said.push("unknown_event_types");
    }
    if let Some(node) = section.take("quota") {
        wanted.quota = Some(quota(node, problems));
        said.push("quota");
    }
    section.close(problems);
    let mut fields = fields::of_tenant(&wanted);
    fields.retain(|field, _| said.contains(field));
    (id, (!said.is_empty()).then_some((wanted, fields)))
}

fn quota(node: &Node, problems: &mut Problems) -> v1::TenantQuota {
    let mut section = Section::open(node, "quota", problems);
    let quota = v1::TenantQuota {
        max_subscriptions: section.parsed("max_subscriptions", problems, limit::read).unwrap_or_default(),
        emit_rate: section.parsed("emit_rate", problems, limit::read).unwrap_or_default(),
        emit_burst: section.number("emit_burst", problems).unwrap_or_default(),
        max_stored_bytes: section.parsed("max_stored_bytes", problems, limit::read_bytes).unwrap_or_default(),
        max_event_types: section.parsed("max_event_types", problems, limit::read).unwrap_or_default(),
        delivery_rate: section.parsed("delivery_rate", problems, limit::read).unwrap_or_default(),
        delivery_burst: section.number("delivery_burst", problems).unwrap_or_default(),
    };
    section.close(problems);
    for violation in tenant::read_quota(Some(&quota)).err().into_iter().flatten() {
        problems.add(node.line, format!("quota.{violation}"));
    }
    quota
}
