//! An entry of the catalogue.

use postrider_domain::event::EventTypeName;
use postrider_proto::{event_type, v1};

use super::{Declared, Key, Node, Problems, Section, Wanted, fields};
use crate::view::parse_word;

pub(super) fn read(node: &Node, problems: &mut Problems) -> Option<Declared<v1::EventType>> {
    let mut section = Section::open(node, "an event type", problems);
    let name = section
        .parsed("name", problems, |text| text.parse::<EventTypeName>().map_err(|error| error.to_string()));
    let strictness = section.parsed("validation", problems, parse_word::<v1::Strictness>);
    let schema_line = section.line_of("schema");
    let message = v1::EventType {
        name: name.as_ref().map(ToString::to_string).unwrap_or_default(),
        description: section.text("description", problems).unwrap_or_default(),
        example: section.json("example").unwrap_or_default(),
        schema: section.json("schema").unwrap_or_default(),
        validation: strictness.unwrap_or_default().into(),
        deprecated: section.truth("deprecated", problems).unwrap_or_default(),
        deprecation_message: section.text("deprecation_message", problems).unwrap_or_default(),
        ..v1::EventType::default()
    };
    section.close(problems);
    if let Err(violation) = event_type::read(&message) {
        problems.add(schema_line, violation.to_string());
    }
    if name.is_none() {
        problems.add(node.line, "an event type needs its name");
    }
    let key = Key::Name(name?.to_string());
    let wanted = Wanted { line: node.line, key, fields: fields::of_event_type(&message) };
    Some(Declared { wanted, message })
}
