//! Lists that the server gives in pages.

use tonic::{Response, Status};

use crate::failure::{Doing as _, Result};
use crate::output::{Format, View, notice};

/// How many entries of a list are asked for.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Limit {
    /// Maximum number of entries to show; 0 for all
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
}

impl Limit {
    /// All of them.
    pub(crate) fn none() -> Self {
        Self { limit: 0 }
    }
}

/// An answer that is one page of a list.
pub(crate) trait Page {
    /// What the list holds.
    type Entry;

    /// The entries, and where the next page begins; empty at the end.
    fn split(self) -> (Vec<Self::Entry>, String);
}

macro_rules! page {
    ($answer:ident, $entry:ident, $field:ident) => {
        impl Page for postrider_proto::v1::$answer {
            type Entry = postrider_proto::v1::$entry;

            fn split(self) -> (Vec<Self::Entry>, String) {
                (self.$field, self.next_page_token)
            }
        }
    };
}

page!(ListTenantsResponse, Tenant, tenants);
page!(ListEventTypesResponse, EventType, event_types);
page!(ListSubscriptionsResponse, Subscription, subscriptions);
page!(ListEventsResponse, Event, events);
page!(ExplainMatchResponse, MatchExplanation, explanations);
page!(ListDeliveriesResponse, Delivery, deliveries);
page!(ListOperationsResponse, Operation, operations);
page!(ListAgentsResponse, Agent, agents);
page!(ListPoolsResponse, Pool, pools);
page!(ListJoinTokensResponse, JoinToken, join_tokens);
page!(ListTokensResponse, Token, tokens);
page!(ListAuditRecordsResponse, AuditRecord, records);

const LARGEST_PAGE: usize = 1000;

/// A list, as far as it was asked for.
#[derive(Debug)]
pub(crate) struct Listed<T> {
    /// In the server's order.
    pub(crate) entries: Vec<T>,
    /// Whether the list may go on.
    more: bool,
}

impl<T> Listed<T> {
    /// Prints the list, and on stderr whether there is more.
    pub(crate) fn show<V: View + From<T>>(self, format: Format) -> Result<()> {
        let views: Vec<V> = self.entries.into_iter().map(V::from).collect();
        format.list(&views)?;
        if self.more {
            notice(format_args!("There may be more than these {}: see them with --limit.", views.len()));
        }
        Ok(())
    }
}

/// Follows the pages until the limit is reached or the list ends.
///
/// `fetch` is called with a page size and a page token. A page may be empty and have a successor.
pub(crate) async fn collect<P: Page>(
    limit: Limit,
    step: &str,
    mut fetch: impl AsyncFnMut(i32, String) -> std::result::Result<Response<P>, Status>,
) -> Result<Listed<P::Entry>> {
    let wanted = if limit.limit == 0 { usize::MAX } else { limit.limit };
    let (mut entries, mut token) = (Vec::new(), String::new());
    loop {
        let size = wanted.saturating_sub(entries.len()).min(LARGEST_PAGE);
        let page = fetch(i32::try_from(size).unwrap_or(i32::MAX), token).await.doing(step)?;
        let (found, next) = page.into_inner().split();
        entries.extend(found);
        if next.is_empty() {
            return Ok(Listed { entries, more: false });
        }
        if entries.len() >= wanted {
            return Ok(Listed { entries, more: true });
        }
        token = next;
    }
}

impl Limit {
    /// No limit.
    pub(crate) const ALL: Self = Self { limit: 0 };
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_proto::v1::{ListTenantsResponse, Tenant};

    async fn listed(limit: usize) -> (usize, bool, Vec<i32>) {
        let mut sizes = Vec::new();
        let tenants = collect(Limit { limit }, "list", async |size, token: String| {
            sizes.push(size);
            let start: usize = token.parse().unwrap_or(0);
            // The second page is empty and has a successor.
            let count = if start == 1 { 0 } else { 2.min(usize::try_from(size).unwrap()) };
            let next_page_token = if start < 3 { (start + 1).to_string() } else { String::new() };
            Ok(Response::new(ListTenantsResponse {
                tenants: vec![Tenant::default(); count],
                next_page_token,
            }))
        });
        let Listed { entries, more } = tenants.await.unwrap();
        (entries.len(), more, sizes)
    }

    #[tokio::test]
    async fn pages_are_followed_up_to_the_limit() {
        assert_eq!(listed(0).await, (6, false, vec![1000; 4]));
        assert_eq!(listed(3).await, (3, true, vec![3, 1, 1]));
        assert_eq!(listed(50).await, (6, false, vec![50, 48, 48, 46]));
    }
}
