//! The resources of this worker: what handlers have registered, for the tasks that refer to it, whichever package they are of.
//!
//! In memory only. Files are not removed with their entries: they lie in the data directories of tasks, which have a policy of their own.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::call::{ErrorKind, HandlerError};

/// Resources that are known at a time; the oldest that nobody uses goes for a new one.
const RESOURCES_MAX: usize = 10_000;
/// Bytes of what is known of one. `python/resources.py` knows it too.
const RESOURCE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of what is known of all.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Resources(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<String, Entry>,
    registered: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    handle: Value,
    bytes: usize,
    in_use: usize,
    /// The how many-th it was.
    number: u64,
}

/// Resources that a task uses; given back when dropped.
#[derive(Debug)]
pub(crate) struct Leased<'a> {
    resources: &'a Resources,
    /// What the handler is told of them.
    pub(crate) handles: Vec<Value>,
    ids: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum News {
    Evicted { evicted: String },
    Registered(Map<String, Value>),
}

impl State {
    fn remove(&mut self, id: &str) {
        if let Some(entry) = self.entries.remove(id) {
            self.bytes -= entry.bytes;
        }
    }
}

impl Resources {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a host says of a resource.
    pub(crate) fn take(&self, payload: &[u8]) {
        if payload.len() > RESOURCE_BYTES_MAX {
            tracing::debug!(bytes = payload.len(), "a handler host registered a resource with too much to say of it");
            return;
        }
        let mut state = self.state();
        match serde_json::from_slice(payload) {
            Ok(News::Evicted { evicted }) => {
                if state.entries.get(&evicted).is_some_and(|entry| entry.in_use == 0) {
                    state.remove(&evicted);
                }
            }
            Ok(News::Registered(handle)) => {
                let Some(id) = handle.get("resource_id").and_then(Value::as_str).map(str::to_owned) else { return };
                state.registered += 1;
                let number = state.registered;
                let in_use = state.entries.get(&id).map_or(0, |entry| entry.in_use);
                state.remove(&id);
                state.bytes += payload.len();
                state.entries.insert(id, Entry { handle: Value::Object(handle), bytes: payload.len(), in_use, number });
                while state.entries.len() > RESOURCES_MAX || state.bytes > BYTES_MAX {
                    let idle = state.entries.iter().filter(|(_, entry)| entry.in_use == 0);
                    let Some(oldest) = idle.min_by_key(|(_, entry)| entry.number).map(|(id, _)| id.clone()) else { break };
                    state.remove(&oldest);
                }
            }
            Err(error) => tracing::debug!(%error, "a handler host registered a resource that is none"),
        }
    }

    /// Leases what a task refers to.
    ///
    /// # Errors
    /// One of them is not here.
    pub(crate) fn lease(&self, refs: &[Map<String, Value>]) -> Result<Leased<'_>, HandlerError> {
        let mut leased = Leased { resources: self, handles: Vec::new(), ids: Vec::new() };
        if refs.is_empty() {
            return Ok(leased);
        }
        let mut state = self.state();
        for reference in refs {
            let id = reference.get("resource_id").and_then(Value::as_str).unwrap_or_default();
            let Some(entry) = state.entries.get_mut(id) else {
                let shown = &id[..id.floor_char_boundary(128)];
                drop(state);
                return Err(HandlerError::new(
                    ErrorKind::ResourceMissing,
                    format!("the resource {shown:?} is not registered on this worker"),
                ));
            };
            entry.in_use += 1;
            leased.ids.push(id.to_owned());
            leased.handles.push(entry.handle.clone());
        }
        drop(state);
        Ok(leased)
    }

    /// How many are in use, and how many bytes those and all others say they have.
    pub(crate) fn usage(&self) -> (usize, u64) {
        let state = self.state();
        let bytes = state.entries.values().filter_map(|entry| entry.handle.get("size_bytes")?.as_u64()).sum();
        (state.entries.len(), bytes)
    }
}

impl Drop for Leased<'_> {
    fn drop(&mut self) {
        let mut state = self.resources.state();
        for id in &self.ids {
            if let Some(entry) = state.entries.get_mut(id) {
                entry.in_use = entry.in_use.saturating_sub(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reference(id: &str) -> Vec<Map<String, Value>> {
        vec![json!({ "resource_id": id }).as_object().unwrap().clone()]
    }

    #[test]
    fn what_is_in_use_is_not_evicted() {
        let resources = Resources::default();
        resources.take(br#"{"resource_id":"r","type":"file","size_bytes":7}"#);
        let leased = resources.lease(&reference("r")).unwrap();
        resources.take(br#"{"evicted":"r"}"#);
        assert_eq!((leased.handles[0]["type"].as_str(), resources.usage()), (Some("file"), (1, 7)));
        drop(leased);
        resources.take(br#"{"evicted":"r"}"#);
        assert_eq!(resources.lease(&reference("r")).unwrap_err().kind, ErrorKind::ResourceMissing);
    }

    #[test]
    fn nobody_can_register_without_end() {
        let resources = Resources::default();
        for n in 0..RESOURCES_MAX + 10 {
            resources.take(json!({ "resource_id": n.to_string(), "type": "t" }).to_string().as_bytes());
        }
        assert_eq!(resources.usage().0, RESOURCES_MAX);
        assert!(resources.lease(&reference("0")).is_err());
        let long = "x".repeat(RESOURCE_BYTES_MAX - 100);
        for n in 0..BYTES_MAX / RESOURCE_BYTES_MAX + 20 {
            resources.take(json!({ "resource_id": n.to_string(), "type": "t", "metadata": { "long": long } }).to_string().as_bytes());
        }
        let state = resources.state();
        assert!(state.bytes <= BYTES_MAX && state.bytes == state.entries.values().map(|entry| entry.bytes).sum::<usize>());
        drop(state);
        let known = resources.usage().0;
        resources.take(json!({ "resource_id": "huge", "type": "t", "metadata": { "long": long.repeat(2) } }).to_string().as_bytes());
        assert_eq!(resources.usage().0, known);
    }
}
