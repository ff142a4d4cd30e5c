//! What agents know of their hosts.

use longshore_model::AgentId;
use longshore_model::wire::facts::{Facts, FactsRecord};
use longshore_store::Store;

use crate::sample::{agent_id, then};

conformance!(GENEROUS: facts_are_kept_one_record_an_agent);

pub(crate) fn record(agent: AgentId, hostname: &str) -> FactsRecord {
    FactsRecord { schema: 1, agent, gathered_at: then(), left: false, facts: Facts { hostname: hostname.to_owned(), ..Facts::default() } }
}

async fn facts_are_kept_one_record_an_agent(store: Store) {
    let (one, other) = (agent_id(1), agent_id(2));
    assert_eq!(store.facts.of(one).await.unwrap(), None);
    for name in ["web-01", "web-02", "web-02"] {
        store.facts.put(&record(one, name)).await.unwrap();
        assert_eq!(store.facts.of(one).await.unwrap(), Some(record(one, name)), "the newest, at once");
    }
    assert_eq!(store.facts.of(other).await.unwrap(), None);
    let left = FactsRecord { left: true, ..record(other, "db") };
    store.facts.put(&left).await.unwrap();
    let mut all = store.facts.all().await.unwrap();
    all.sort_by_key(|record| record.agent);
    assert_eq!(all, [record(one, "web-02"), left]);
    let large = record(other, &"x".repeat(2 << 20));
    let is_refused = store.facts.put(&large).await.is_err();
    // The twin has no bound on a record.
    assert!(is_refused || store.broker.version().is_none());
}
