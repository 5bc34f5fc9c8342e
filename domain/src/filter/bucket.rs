//! Subscribers that one pattern finds, in an order in which an event finds those whose filters it can pass.

use std::collections::HashMap;
use std::sync::Arc;

use super::anchor::{Anchor, Found, Path};
use super::facts::Facts;

/// Subscribers by what their filters need.
#[derive(Clone, Debug)]
pub(crate) struct Bucket<S> {
    /// Those without a filter, and those whose filter needs no certain value.
    open: Vec<S>,
    anchored: HashMap<Path, Anchored<S>>,
}

/// Those that need one of certain values at one place.
#[derive(Clone, Debug)]
struct Anchored<S> {
    by_value: HashMap<Arc<str>, Vec<S>>,
    guarded: Vec<S>,
    unguarded: Vec<S>,
}

impl<S> Default for Bucket<S> {
    fn default() -> Self {
        Self { open: Vec::new(), anchored: HashMap::new() }
    }
}

impl<S> Default for Anchored<S> {
    fn default() -> Self {
        Self { by_value: HashMap::new(), guarded: Vec::new(), unguarded: Vec::new() }
    }
}

impl<S: Copy + Ord> Bucket<S> {
    pub(crate) fn insert(&mut self, anchor: Option<&Anchor>, subscriber: S) {
        let Some(anchor) = anchor else { return add(&mut self.open, subscriber) };
        let anchored = self.anchored.entry(anchor.path.clone()).or_default();
        for value in &anchor.values {
            add(anchored.by_value.entry(value.clone()).or_default(), subscriber);
        }
        add(if anchor.guarded { &mut anchored.guarded } else { &mut anchored.unguarded }, subscriber);
    }

    pub(crate) fn remove(&mut self, anchor: Option<&Anchor>, subscriber: S) {
        let Some(anchor) = anchor else { return take(&mut self.open, subscriber) };
        let Some(anchored) = self.anchored.get_mut(&anchor.path) else { return };
        for value in &anchor.values {
            if let Some(subscribers) = anchored.by_value.get_mut(value) {
                take(subscribers, subscriber);
                if subscribers.is_empty() {
                    anchored.by_value.remove(value);
                }
            }
        }
        take(&mut anchored.guarded, subscriber);
        take(&mut anchored.unguarded, subscriber);
        if anchored.guarded.is_empty() && anchored.unguarded.is_empty() {
            self.anchored.remove(&anchor.path);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.anchored.is_empty()
    }

    /// Adds to `found` everyone whose filter the event can pass, or may give no answer.
    pub(crate) fn find(&self, facts: &Facts<'_>, found: &mut Vec<S>) {
        found.extend_from_slice(&self.open);
        for (path, anchored) in &self.anchored {
            match facts.at(path) {
                Found::Text(text) => found.extend(anchored.by_value.get(text).into_iter().flatten()),
                Found::Other => {}
                // Without has(…) there is no answer.
                Found::Missing => found.extend_from_slice(&anchored.unguarded),
                Found::NoPlace => {
                    found.extend_from_slice(&anchored.unguarded);
                    found.extend_from_slice(&anchored.guarded);
                }
            }
        }
    }
}

fn add<S: Copy + Ord>(subscribers: &mut Vec<S>, subscriber: S) {
    if let Err(place) = subscribers.binary_search(&subscriber) {
        subscribers.insert(place, subscriber);
    }
}

fn take<S: Copy + Ord>(subscribers: &mut Vec<S>, subscriber: S) {
    if let Ok(place) = subscribers.binary_search(&subscriber) {
        subscribers.remove(place);
    }
}
