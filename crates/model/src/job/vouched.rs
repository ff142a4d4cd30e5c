//! What of a definition is signed, and how a share of it is known to belong to it.
//!
//! A definition is signed as a whole: every field of it, with the root of a hash tree in the place of its set of executions. A share names
//! one execution and carries the way from that to the root, so that one signature vouches for every share of a job for thousands, whoever
//! makes the share. The invariant guarded here: two definitions that differ in anything but the signature have different signed texts.

use std::collections::HashMap;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use crate::id::ExecutionId;
use crate::wire::record::{Definition, Signature};

type Hash = [u8; 32];

/// Steps from an execution to the root: more than any set that could be stored needs.
const STEPS_MAX: usize = 64;

/// What is signed of a definition; `None` for a share whose way to the root is not one.
#[must_use]
pub fn signed_text(definition: &Definition) -> Option<Vec<u8>> {
    let proof = definition.signature.as_ref().map_or(&[][..], |signature| &signature.proof);
    let root = match definition.executions.as_slice() {
        [execution] => climb(leaf(*execution), proof)?,
        _ if !proof.is_empty() => return None,
        several => *Tree::over(several).levels.last()?.first()?,
    };
    let mut form = serde_json::to_value(definition).expect("a definition has string keys only");
    let fields = form.as_object_mut().expect("a definition is an object");
    fields.remove("signature");
    fields.insert("executions".to_owned(), HEXLOWER.encode(&root).into());
    form.sort_all_objects();
    Some(format!("longshore job 1\n{form}").into_bytes())
}

/// Makes the share of each execution of a definition.
#[derive(Debug)]
pub struct Shares<'a> {
    definition: &'a Definition,
    /// For a signed definition of several executions: the tree, and where each execution is in it.
    tree: Option<(Tree, HashMap<ExecutionId, usize>)>,
}

impl<'a> Shares<'a> {
    /// Of this definition.
    #[must_use]
    pub fn of(definition: &'a Definition) -> Self {
        let executions = &definition.executions;
        let tree = (definition.signature.is_some() && executions.len() > 1)
            .then(|| (Tree::over(executions), executions.iter().enumerate().map(|(place, execution)| (*execution, place)).collect()));
        Self { definition, tree }
    }

    /// The definition with this execution alone in it.
    #[must_use]
    pub fn share(&self, execution: ExecutionId) -> Definition {
        let proof = self.tree.as_ref().and_then(|(tree, places)| Some(tree.way_from(*places.get(&execution)?)));
        let signature = self.definition.signature.as_ref().map(|signature| match proof {
            Some(proof) => Signature { proof, ..signature.clone() },
            None => signature.clone(),
        });
        // Field by field, as a clone would copy the names of thousands.
        let Definition {
            schema,
            id,
            operation,
            args,
            target,
            executions: _,
            timeout_ms,
            not_before,
            expires_at,
            max_attempts,
            backoff_ms,
            usual_backoff,
            concurrency_key,
            annotations,
            submitted_by,
            submitted_at,
            retry_of,
            sealed_for,
            key_sha256,
            fleet_revision,
            signature: _,
        } = self.definition;
        Definition {
            schema: *schema,
            id: *id,
            operation: operation.clone(),
            args: args.clone(),
            target: target.clone(),
            executions: vec![execution],
            timeout_ms: *timeout_ms,
            not_before: *not_before,
            expires_at: *expires_at,
            max_attempts: *max_attempts,
            backoff_ms: backoff_ms.clone(),
            usual_backoff: *usual_backoff,
            concurrency_key: concurrency_key.clone(),
            annotations: annotations.clone(),
            submitted_by: submitted_by.clone(),
            submitted_at: *submitted_at,
            retry_of: *retry_of,
            sealed_for: *sealed_for,
            key_sha256: key_sha256.clone(),
            fleet_revision: *fleet_revision,
            signature,
        }
    }
}

/// A hash tree, from the leaves to the root. One without a neighbour moves up as it is.
#[derive(Debug)]
struct Tree {
    levels: Vec<Vec<Hash>>,
}

impl Tree {
    fn over(executions: &[ExecutionId]) -> Self {
        let mut levels = vec![executions.iter().copied().map(leaf).collect::<Vec<_>>()];
        while let Some(level) = levels.last().filter(|level| level.len() > 1) {
            let above = level.chunks(2).map(|pair| match pair {
                [left, right] => node(left, right),
                alone => alone[0],
            });
            levels.push(above.collect());
        }
        Self { levels }
    }

    fn way_from(&self, mut place: usize) -> Vec<String> {
        let mut way = Vec::new();
        for level in &self.levels {
            if let Some(beside) = level.get(place ^ 1) {
                way.push(format!("{}{}", if place % 2 == 1 { 'l' } else { 'r' }, HEXLOWER.encode(beside)));
            }
            place /= 2;
        }
        way
    }
}

fn climb(from: Hash, way: &[String]) -> Option<Hash> {
    if way.len() > STEPS_MAX {
        return None;
    }
    way.iter().try_fold(from, |here, step| {
        let (side, beside) = step.split_at_checked(1)?;
        let beside = unhex(beside)?;
        match side {
            "l" => Some(node(&beside, &here)),
            "r" => Some(node(&here, &beside)),
            _ => None,
        }
    })
}

// Leaves and nodes are hashed apart, so that none can be taken for the other.

fn leaf(execution: ExecutionId) -> Hash {
    Sha256::new().chain_update([0]).chain_update(execution.to_string()).finalize().into()
}

fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

fn unhex(text: &str) -> Option<Hash> {
    HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{agent, at, job};
    use super::*;
    use crate::JobId;
    use crate::wire::agent::FleetRevision;

    fn definition(n_executions: u128) -> Definition {
        let signature = Some(Signature { key: "k".into(), value: "v".into(), proof: Vec::new() });
        let executions = (0..n_executions).map(|n| agent(n).into()).collect();
        Definition { executions, signature, ..Definition::from(&job()) }
    }

    #[test]
    fn every_share_is_vouched_for_by_what_was_signed_of_the_whole() {
        for n_executions in [1, 2, 3, 5, 8, 33] {
            let whole = definition(n_executions);
            let signed = signed_text(&whole).unwrap();
            let shares = Shares::of(&whole);
            for execution in &whole.executions {
                let share = shares.share(*execution);
                assert_eq!(share.executions, [*execution]);
                assert_eq!(signed_text(&share).unwrap(), signed, "of {n_executions}");
                // As it travels.
                let read: Definition = serde_json::from_str(&serde_json::to_string(&share).unwrap()).unwrap();
                assert_eq!(signed_text(&read).unwrap(), signed);
                // The same share in another agent's hands.
                let moved = Definition { executions: vec![agent(99).into()], ..share.clone() };
                assert_ne!(signed_text(&moved).unwrap(), signed);
            }
            // Somebody who was not in the set.
            assert_ne!(signed_text(&shares.share(agent(99).into())), Some(signed));
        }
    }

    #[test]
    fn a_change_of_any_field_changes_what_is_signed() {
        let whole = Definition { usual_backoff: false, ..definition(3) };
        let signed = signed_text(&whole).unwrap();
        let form = serde_json::to_value(&whole).unwrap();
        let full = Definition {
            not_before: Some(at(1)),
            backoff_ms: vec![1],
            usual_backoff: true,
            concurrency_key: Some("k".to_owned()),
            annotations: [("a".to_owned(), "b".to_owned())].into(),
            retry_of: Some(JobId::from_bits(7)),
            sealed_for: Some(JobId::from_bits(8)),
            key_sha256: Some("ab".into()),
            fleet_revision: Some(FleetRevision { heartbeats: 1, states: 2 }),
            ..whole.clone()
        };
        let full = serde_json::to_value(&full).unwrap();
        let changed: &[(&str, serde_json::Value)] = &[
            ("id", "j-00000000000000000000000009".into()),
            ("operation", "node.os.get".into()),
            ("args", serde_json::json!({"a": 1})),
            ("target", "web-01".into()),
            ("executions", serde_json::json!(["a-00000000000000000000000001", "a-00000000000000000000000002"])),
            ("timeout_ms", 1.into()),
            ("expires_at", "2030-01-01T00:00:00Z".into()),
            ("max_attempts", 9.into()),
            ("submitted_by", "mallory".into()),
            ("submitted_at", "2030-01-01T00:00:00Z".into()),
            ("schema", 2.into()),
        ];
        let mut names = vec!["signature".to_owned()];
        for (name, value) in changed.iter().cloned().chain(
            [
                "not_before",
                "backoff_ms",
                "usual_backoff",
                "concurrency_key",
                "annotations",
                "retry_of",
                "sealed_for",
                "key_sha256",
                "fleet_revision",
            ]
            .map(|name| (name, full[name].clone())),
        ) {
            let mut other = form.clone();
            other[name] = value;
            assert_ne!(signed_text(&serde_json::from_value(other).unwrap()).unwrap(), signed, "{name}");
            names.push(name.to_owned());
        }
        names.sort();
        let mut fields: Vec<_> = full.as_object().unwrap().keys().cloned().collect();
        fields.sort();
        assert_eq!(names, fields, "no field was left out");
    }

    proptest! {
        #[test]
        fn no_proof_panics_or_is_taken_for_another(steps in proptest::collection::vec("[lrx]?[0-9a-f]{0,70}", 0..80)) {
            let whole = definition(4);
            let mut share = Shares::of(&whole).share(agent(2).into());
            let proof = share.signature.as_ref().unwrap().proof.clone();
            share.signature.as_mut().unwrap().proof = steps.clone();
            prop_assert!(steps == proof || signed_text(&share) != signed_text(&whole));
        }
    }
}
