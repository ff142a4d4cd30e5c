//! Calls of nobody: what stands between those who knock without a token and the audit trail, so that a flood of them neither drives real
//! records out of the trail nor keeps the broker busy.
//!
//! The first few of a source within a minute are recorded as they are. The others are counted, and one record at the minute's end stands
//! for all of them. A crash loses that count, and nothing else.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use longshore_model::limits::{AUDIT_SOURCES_MAX, AUDIT_STRANGERS_EACH_MAX, AUDIT_STRANGERS_EVERY};
use longshore_model::wire::audit::AuditRecord;
use tokio::time::Instant;

use crate::app::App;

/// Between looks at whether a source's minute is over.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What is known of sources whose calls come without a valid token.
#[derive(Default)]
pub(crate) struct Strangers(Mutex<BTreeMap<Option<IpAddr>, Spell>>);

/// A source's calls since `began`.
struct Spell {
    began: Instant,
    n_recorded: usize,
    /// The last one that was not recorded; it counts those before it.
    held: Option<AuditRecord>,
}

impl Spell {
    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.began) >= AUDIT_STRANGERS_EVERY
    }
}

impl Strangers {
    /// What is to be recorded now: the call itself, unless it is one of too many of nobody's; and what was counted before it.
    pub(crate) fn take(&self, mut record: AuditRecord, now: Instant) -> impl Iterator<Item = AuditRecord> {
        if record.who.is_some() {
            return [None, Some(record)].into_iter().flatten();
        }
        let mut spells = self.lock();
        let mut source = source(&record);
        if spells.len() >= AUDIT_SOURCES_MAX && !spells.contains_key(&source) {
            // The rest of the world counts as one.
            source = None;
        }
        let fresh = || Spell { began: now, n_recorded: 0, held: None };
        let spell = spells.entry(source).or_insert_with(fresh);
        let ended = if spell.is_over(now) { std::mem::replace(spell, fresh()).held } else { None };
        if spell.n_recorded < AUDIT_STRANGERS_EACH_MAX {
            spell.n_recorded += 1;
            return [ended, Some(record)].into_iter().flatten();
        }
        record.more = spell.held.as_ref().map_or(0, |before| before.more + 1);
        if source.is_none() {
            record.remote = None;
        }
        spell.held = Some(record);
        [ended, None].into_iter().flatten()
    }

    /// What sources whose minute is over have left.
    fn ended(&self, now: Instant) -> Vec<AuditRecord> {
        let mut over = BTreeMap::new();
        self.lock().retain(|source, spell| {
            let is_over = spell.is_over(now);
            if is_over {
                over.insert(*source, spell.held.take());
            }
            !is_over
        });
        over.into_values().flatten().collect()
    }

    /// Everything that was counted and is not recorded yet.
    pub(crate) fn rest(&self) -> Vec<AuditRecord> {
        std::mem::take(&mut *self.lock()).into_values().filter_map(|spell| spell.held).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Option<IpAddr>, Spell>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whom a call came from: one address, or the network of one subscriber, who has as many addresses as he likes.
fn source(record: &AuditRecord) -> Option<IpAddr> {
    match record.remote.as_deref()?.parse::<IpAddr>().ok()?.to_canonical() {
        IpAddr::V4(address) => Some(address.into()),
        IpAddr::V6(address) => Some(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

/// Records what was counted, until the controller ends.
pub(crate) async fn follow(app: App) {
    while tokio::time::timeout(LOOK_EVERY, app.drain.cancelled()).await.is_err() {
        for record in app.strangers.ended(Instant::now()) {
            tracing::warn!(
                remote = record.remote,
                n_calls = record.more + 1,
                "calls without a valid token were counted, not recorded one by one"
            );
            app.audit.record(record);
        }
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    fn call(remote: &str, who: Option<&str>) -> AuditRecord {
        AuditRecord {
            who: who.map(str::to_owned),
            remote: Some(remote.to_owned()),
            status: Some(401),
            ..AuditRecord::new(String::new(), jiff::Timestamp::UNIX_EPOCH, "GET".to_owned(), "/".to_owned())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_calls_of_nobody_the_first_are_recorded_and_the_rest_counted_once() {
        let strangers = Strangers::default();
        let knock = |remote: &str| strangers.take(call(remote, None), Instant::now()).map(|record| record.more).collect::<Vec<_>>();
        for n in 0..1000 {
            let expected = if n < AUDIT_STRANGERS_EACH_MAX { vec![0] } else { vec![] };
            assert_eq!(knock("192.0.2.1"), expected, "{n}");
        }
        // Nobody pays for another: another source, and whoever has a token.
        assert_eq!(knock("192.0.2.2"), [0]);
        assert_eq!(strangers.take(call("192.0.2.1", Some("ada")), Instant::now()).count(), 1);
        assert_eq!(strangers.ended(Instant::now()), []);
        tokio::time::advance(AUDIT_STRANGERS_EVERY).await;
        let counted = strangers.ended(Instant::now());
        assert_eq!(counted.len(), 1);
        assert_eq!(counted[0].more + 1, 1000 - AUDIT_STRANGERS_EACH_MAX as u64);
        assert_eq!(strangers.ended(Instant::now()), []);
        assert_eq!(knock("192.0.2.1"), [0], "a new minute");
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_back_before_the_count_was_recorded_brings_it_along() {
        let strangers = Strangers::default();
        let n_calls = AUDIT_STRANGERS_EACH_MAX + 3;
        (0..n_calls).for_each(|_| strangers.take(call("::1", None), Instant::now()).for_each(drop));
        tokio::time::advance(AUDIT_STRANGERS_EVERY).await;
        let more: Vec<u64> = strangers.take(call("::1", None), Instant::now()).map(|record| record.more).collect();
        assert_eq!(more, [2, 0]);
        assert_eq!(strangers.rest(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn many_sources_are_a_bounded_number_and_count_together_beyond_it() {
        let strangers = Strangers::default();
        let address = |n: usize| Ipv6Addr::from_bits(((n as u128) << 64) + 7).to_string();
        let n_recorded: usize = (0..AUDIT_SOURCES_MAX + 500).map(|n| strangers.take(call(&address(n), None), Instant::now()).count()).sum();
        assert_eq!(n_recorded, AUDIT_SOURCES_MAX + AUDIT_STRANGERS_EACH_MAX);
        assert_eq!(strangers.lock().len(), AUDIT_SOURCES_MAX + 1);
        let counted = strangers.rest();
        assert_eq!((counted.len(), counted[0].more + 1, &counted[0].remote), (1, 500 - AUDIT_STRANGERS_EACH_MAX as u64, &None));
        // The addresses of one network are one source.
        for n in 0..100u128 {
            strangers.take(call(&Ipv6Addr::from_bits((1 << 127) + n).to_string(), None), Instant::now()).for_each(drop);
        }
        assert_eq!(strangers.rest()[0].more + 1, 100 - AUDIT_STRANGERS_EACH_MAX as u64);
    }
}
