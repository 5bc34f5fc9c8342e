//! What has to change so that what there is becomes what is wanted. Pure: it compares fields by their values and knows
//! nothing of what they mean.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;

/// A thing's fields, by name.
pub(crate) type Fields = BTreeMap<&'static str, Value>;

/// Something that is wanted. Fields that it does not have stay as they are.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wanted {
    /// Where it stands in the file.
    pub(crate) line: usize,
    /// By what it is found: an id, which there must be, or a name.
    pub(crate) key: Key,
    /// As it shall be.
    pub(crate) fields: Fields,
}

/// By what a thing is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Key {
    /// Made by the server; never changes.
    Id(String),
    /// Chosen by people.
    Name(String),
}

/// Something that there is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Actual {
    /// Its id: what is not found by a name that is wanted is found by this.
    pub(crate) id: String,
    /// Its name; empty for none.
    pub(crate) name: String,
    /// As it is.
    pub(crate) fields: Fields,
}

/// What is to be done about one thing. Numbers are places in what was given.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// There is none: it is made.
    Create(usize),
    /// Some fields differ: from what to what.
    Update(usize, usize, Vec<Difference>),
    /// It is as it shall be.
    Keep(usize, usize),
    /// It is not wanted: it is removed.
    Prune(usize),
    /// It is not wanted, and stays, since nobody asked to remove anything.
    Leave(usize),
}

/// A field that differs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Difference {
    /// Its name.
    pub(crate) field: &'static str,
    /// As it is.
    pub(crate) before: Value,
    /// As it shall be.
    pub(crate) after: Value,
}

/// What has to be done, in the order of the file, and then what is not wanted.
///
/// # Errors
/// The wanted ones, by place, whose id there is not.
pub(crate) fn plan(wanted: &[Wanted], actual: &[Actual], prune: bool) -> Result<Vec<Step>, Vec<usize>> {
    let (mut steps, mut unknown, mut used) = (Vec::new(), Vec::new(), HashSet::new());
    for (at, thing) in wanted.iter().enumerate() {
        let found = actual.iter().position(|actual| match &thing.key {
            Key::Id(id) => actual.id == *id,
            Key::Name(name) => actual.name == *name,
        });
        match (found, &thing.key) {
            (Some(place), _) => {
                used.insert(place);
                let differences = differences(&thing.fields, &actual[place].fields);
                steps.push(if differences.is_empty() {
                    Step::Keep(at, place)
                } else {
                    Step::Update(at, place, differences)
                });
            }
            (None, Key::Name(_)) => steps.push(Step::Create(at)),
            (None, Key::Id(_)) => unknown.push(at),
        }
    }
    let rest = (0..actual.len()).filter(|place| !used.contains(place));
    steps.extend(rest.map(|place| if prune { Step::Prune(place) } else { Step::Leave(place) }));
    if unknown.is_empty() { Ok(steps) } else { Err(unknown) }
}

fn differences(wanted: &Fields, actual: &Fields) -> Vec<Difference> {
    let differs = |(field, after): (&&'static str, &Value)| {
        let before = actual.get(field).cloned().unwrap_or_default();
        (before != *after).then(|| Difference { field, before, after: after.clone() })
    };
    wanted.iter().filter_map(differs).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 4] = ["a", "b", "c", "d"];
    const FIELDS: [&str; 3] = ["url", "filter", "timeout"];

    fn fields() -> impl Strategy<Value = Fields> {
        prop::collection::btree_map(prop::sample::select(&FIELDS), (0_u8..3).prop_map(Value::from), 0..=3)
    }

    fn things() -> impl Strategy<Value = BTreeMap<&'static str, Fields>> {
        prop::collection::btree_map(prop::sample::select(&NAMES), fields(), 0..=4)
    }

    fn wanted(things: &BTreeMap<&'static str, Fields>) -> Vec<Wanted> {
        let thing = |(name, fields): (&&str, &Fields)| Wanted {
            line: 1,
            key: Key::Name((*name).to_owned()),
            fields: fields.clone(),
        };
        things.iter().map(thing).collect()
    }

    /// What there is, some of it without a name.
    fn actual(things: &BTreeMap<&'static str, Fields>, nameless: &[Fields]) -> Vec<Actual> {
        let named = things.iter().map(|(name, fields)| Actual {
            id: format!("id-{name}"),
            name: (*name).to_owned(),
            fields: fields.clone(),
        });
        let nameless = nameless.iter().enumerate().map(|(at, fields)| Actual {
            id: format!("id-{at}"),
            name: String::new(),
            fields: fields.clone(),
        });
        named.chain(nameless).collect()
    }

    /// Does what the steps say.
    fn apply(steps: &[Step], wanted: &[Wanted], actual: &[Actual]) -> Vec<Actual> {
        let mut after: Vec<Option<Actual>> = actual.iter().cloned().map(Some).collect();
        for step in steps {
            match step {
                Step::Create(at) => {
                    let Key::Name(name) = &wanted[*at].key else { panic!("made by id") };
                    let (id, fields) = (format!("id-{name}"), wanted[*at].fields.clone());
                    after.push(Some(Actual { id, name: name.clone(), fields }));
                }
                Step::Update(_, place, differences) => {
                    let thing = after[*place].as_mut().expect("it is there");
                    differences.iter().for_each(|differs| {
                        thing.fields.insert(differs.field, differs.after.clone());
                    });
                }
                Step::Prune(place) => after[*place] = None,
                Step::Keep(..) | Step::Leave(_) => {}
            }
        }
        after.into_iter().flatten().collect()
    }

    proptest! {
        /// Applied once, it is as it shall be: applied again, nothing changes. What is pruned is exactly what is not
        /// wanted, and without pruning nothing is lost.
        #[test]
        fn what_is_applied_is_reached_and_stays(
            desired in things(),
            existing in things(),
            nameless in prop::collection::vec(fields(), 0..3),
            prune in any::<bool>(),
        ) {
            let (wanted, actual) = (wanted(&desired), actual(&existing, &nameless));
            let steps = plan(&wanted, &actual, prune).unwrap();
            let after = apply(&steps, &wanted, &actual);
            let again = plan(&wanted, &after, prune).unwrap();
            prop_assert!(again.iter().all(|step| matches!(step, Step::Keep(..) | Step::Leave(_))), "{again:?}");
            let gone: Vec<&Actual> = actual
                .iter()
                .filter(|before| !after.iter().any(|after| after.id == before.id))
                .collect();
            let unwanted: Vec<&Actual> = actual
                .iter()
                .filter(|before| prune && !desired.contains_key(before.name.as_str()))
                .collect();
            prop_assert_eq!(gone, unwanted);
            for (name, fields) in &desired {
                let reached = after.iter().find(|after| after.name == *name).expect("it is there");
                prop_assert!(fields.iter().all(|(field, value)| reached.fields.get(field) == Some(value)));
                // What the file does not say stays.
                if let Some(before) = existing.get(name) {
                    let unsaid = before.iter().filter(|(field, _)| !fields.contains_key(*field));
                    prop_assert!(unsaid.into_iter().all(|(field, value)| reached.fields.get(field) == Some(value)));
                }
            }
        }

        /// Each thing has one step, whether it is wanted, there, or both.
        #[test]
        fn everything_has_one_step(desired in things(), existing in things(), prune in any::<bool>()) {
            let steps = plan(&wanted(&desired), &actual(&existing, &[]), prune).unwrap();
            let all: HashSet<&str> = desired.keys().chain(existing.keys()).copied().collect();
            prop_assert_eq!(steps.len(), all.len());
        }
    }

    #[test]
    fn an_id_must_be_there_and_may_get_a_name() {
        let named = Fields::from([("name", "billing".into())]);
        let wanted = [Wanted { line: 1, key: Key::Id("id-0".into()), fields: named }];
        let actual = actual(&BTreeMap::new(), &[Fields::from([("name", "".into())])]);
        let steps = plan(&wanted, &actual, true).unwrap();
        assert!(
            matches!(&steps[..], [Step::Update(0, 0, differences)] if differences.len() == 1),
            "{steps:?}"
        );
        assert_eq!(plan(&wanted, &[], false), Err(vec![0]));
    }
}
