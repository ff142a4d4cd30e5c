//! Reads a manifest that nobody vouches for: bounded, and every fault with its place.

use std::collections::BTreeSet;

use longshore_model::limits::PACKAGE_MANIFEST_BYTES_MAX;
use serde_json::Value;

use super::{Adapter, Manifest};

/// A manifest that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("manifest.json: {path}: {reason}")]
pub struct ManifestError {
    /// Where: a path such as `nodes[0].handler`, `.` for the whole of it.
    pub path: String,
    /// What is wrong there.
    pub reason: String,
}

impl ManifestError {
    pub(crate) fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { path: path.into(), reason: reason.into() }
    }
}

impl Manifest {
    /// Reads a manifest, and gives it as it was written too.
    ///
    /// # Errors
    /// It is too large, no JSON, or not what the schema takes; the error names the place.
    pub fn parse(text: &[u8]) -> Result<(Self, Value), ManifestError> {
        if text.len() as u64 > PACKAGE_MANIFEST_BYTES_MAX {
            return Err(ManifestError::new(".", format!("it has more than {PACKAGE_MANIFEST_BYTES_MAX} bytes")));
        }
        let mut reader = serde_json::Deserializer::from_slice(text);
        let manifest: Self = serde_path_to_error::deserialize(&mut reader)
            .map_err(|error| ManifestError::new(error.path().to_string(), error.inner().to_string()))?;
        reader.end().map_err(|error| ManifestError::new(".", error.to_string()))?;
        manifest.check()?;
        let raw = serde_json::from_slice(text).map_err(|error| ManifestError::new(".", error.to_string()))?;
        Ok((manifest, raw))
    }

    /// The adapter that a node names.
    #[must_use]
    pub fn adapter(&self, name: &str) -> Option<&Adapter> {
        self.adapters.iter().find(|adapter| adapter.name == name)
    }

    /// What the schema takes and yet will not work, with its place: a node whose adapter is missing, names that come twice.
    ///
    /// A package with such a fault can be installed, as its other nodes do work; building one is refused.
    #[must_use]
    pub fn remarks(&self) -> Vec<ManifestError> {
        let mut remarks = Vec::new();
        let (mut adapters, mut types) = (BTreeSet::new(), BTreeSet::new());
        for (idx, adapter) in self.adapters.iter().enumerate() {
            if !adapters.insert(&adapter.name) {
                remarks.push(ManifestError::new(format!("adapters[{idx}].name"), format!("{:?} comes twice", adapter.name)));
            }
        }
        for (idx, node) in self.nodes.iter().enumerate() {
            if !types.insert(&node.node_type) {
                remarks.push(ManifestError::new(format!("nodes[{idx}].type"), format!("{:?} comes twice", node.node_type.as_str())));
            }
            if !adapters.contains(&node.adapter) {
                remarks.push(ManifestError::new(format!("nodes[{idx}].adapter"), format!("there is no adapter {:?}", node.adapter)));
            }
        }
        remarks
    }

    fn check(&self) -> Result<(), ManifestError> {
        let at_least_one = |list: usize, path: String| {
            if list == 0 { Err(ManifestError::new(path, "it takes at least one")) } else { Ok(()) }
        };
        at_least_one(self.adapters.len(), "adapters".to_owned())?;
        at_least_one(self.nodes.len(), "nodes".to_owned())?;
        for (idx, adapter) in self.adapters.iter().enumerate() {
            at_least_one(adapter.capabilities.len(), format!("adapters[{idx}].capabilities"))?;
        }
        for (idx, node) in self.nodes.iter().enumerate() {
            if !(node.schema.is_object() || node.schema.is_boolean()) {
                return Err(ManifestError::new(format!("nodes[{idx}].schema"), "it takes an object or a boolean"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sample() -> Value {
        json!({
            "schemaVersion": "1.0.0", "name": "example.pkg", "version": "1.0.0", "description": "An example.",
            "adapters": [{ "name": "main", "entrypoint": "adapters.echo:Echo", "capabilities": ["echo"], "metadata": { "exec_mode": "thread" } }],
            "python": { "requires": ">=3.11", "dependencies": [] },
            "nodes": [{
                "type": "example.pkg.echo", "status": "published", "category": "text", "label": "Echo", "adapter": "main",
                "handler": "echo", "schema": { "type": "object" }, "role": "node", "tags": ["a"],
                "ui": { "inputPorts": [{ "key": "in", "label": "In", "binding": { "path": "/x", "mode": "two_way",
                    "scope": { "kind": "subgraph", "subgraphAliases": ["s"], "nodeId": "n" } } }] },
            }],
            "requirements": {
                "resources": [{ "key": "db", "type": "secret" }],
                "permissions": [{ "key": "p", "types": ["x"], "whatever": 1 }],
                "vault": [{ "key": "v", "type": "token", "label": "V" }],
            },
            "resources": [{ "path": "data/x", "type": "model", "sha256": "A".repeat(64) }],
            "hooks": { "install": ["python setup.py"] },
            "signature": { "signedBy": "x" },
        })
    }

    fn parse(value: &Value) -> Result<(Manifest, Value), ManifestError> {
        Manifest::parse(value.to_string().as_bytes())
    }

    #[test]
    fn a_manifest_is_read_with_its_defaults_and_kept_as_it_was_written() {
        let (manifest, raw) = parse(&sample()).unwrap();
        assert_eq!(raw, sample());
        assert_eq!(manifest.adapters[0].entrypoint.module(), "adapters.echo");
        assert_eq!(manifest.adapters[0].entrypoint.attribute(), Some("Echo"));
        assert_eq!(manifest.requirements.resources[0].actions, ["read"]);
        assert!(manifest.requirements.resources[0].required);
        assert_eq!(manifest.resources[0].sha256.as_ref().unwrap().as_str(), "a".repeat(64));
        assert!(manifest.remarks().is_empty());
    }

    #[test]
    fn every_fault_of_a_manifest_is_told_with_its_place() {
        let cases = [
            ("/name", json!("../x"), "name", "no package name"),
            ("/version", json!("1"), "version", "no package version"),
            ("/schemaVersion", json!("1.0"), "schemaVersion", "N.N.N"),
            ("/adapters", json!([]), "adapters", "at least one"),
            ("/adapters/0/entrypoint", json!("../x:y"), "adapters[0].entrypoint", "no entrypoint"),
            ("/adapters/0/capabilities", json!([]), "adapters[0].capabilities", "at least one"),
            ("/adapters/0/metadata", json!(3), "adapters[0].metadata", "invalid type"),
            ("/python/dependencies", json!("x"), "python.dependencies", "invalid type"),
            ("/nodes", json!([]), "nodes", "at least one"),
            ("/nodes/0/type", json!("a b"), "nodes[0].type", "no type of a node"),
            ("/nodes/0/status", json!("new"), "nodes[0].status", "unknown variant"),
            ("/nodes/0/handler", json!("a.b"), "nodes[0].handler", "no identifier"),
            ("/nodes/0/schema", json!("x"), "nodes[0].schema", "an object or a boolean"),
            ("/nodes/0/ui/inputPorts/0/binding/mode", json!("x"), "nodes[0].ui.inputPorts[0].binding.mode", "unknown variant"),
            ("/resources/0/sha256", json!("x"), "resources[0].sha256", "no SHA-256"),
        ];
        for (pointer, value, path, reason) in cases {
            let mut changed = sample();
            *changed.pointer_mut(pointer).unwrap() = value;
            let error = parse(&changed).unwrap_err();
            assert_eq!(error.path, path);
            assert!(error.reason.contains(reason), "{path}: {error}");
        }
    }

    #[test]
    fn unknown_and_missing_fields_are_refused_by_name_at_every_level() {
        for pointer in ["", "/adapters/0", "/python", "/nodes/0", "/nodes/0/ui", "/nodes/0/ui/inputPorts/0/binding/scope", "/hooks"] {
            let mut changed = sample();
            changed.pointer_mut(pointer).unwrap()["surprise"] = json!(1);
            assert!(parse(&changed).unwrap_err().to_string().contains("surprise"), "{pointer}");
        }
        for (pointer, field) in [("", "python"), ("/nodes/0", "label"), ("/adapters/0", "capabilities"), ("/python", "requires")] {
            let mut changed = sample();
            changed.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(field);
            assert!(parse(&changed).unwrap_err().to_string().contains(field), "{pointer} {field}");
        }
    }

    #[test]
    fn a_manifest_that_means_harm_is_refused_within_bounds() {
        let huge = format!("{{\"name\": \"{}\"}}", "x".repeat(2 * 1024 * 1024));
        let deep = format!("{{\"nodes\": {}", "[".repeat(100_000));
        let trailing = format!("{}{}", sample(), "{}");
        let twice = sample().to_string().replacen('{', "{\"name\":\"a\",", 1);
        for text in [huge.as_str(), &deep, &trailing, &twice, "", "[]", "null", "\u{0}"] {
            assert!(Manifest::parse(text.as_bytes()).is_err(), "{:.40}", text);
        }
        assert!(Manifest::parse(b"\xff\xfe").is_err());
    }

    #[test]
    fn what_the_schema_takes_and_will_not_work_is_remarked() {
        let mut changed = sample();
        changed["nodes"][0]["adapter"] = json!("gone");
        let node = changed["nodes"][0].clone();
        changed["nodes"].as_array_mut().unwrap().push(node);
        let (manifest, _) = parse(&changed).unwrap();
        let paths: Vec<_> = manifest.remarks().into_iter().map(|remark| remark.path).collect();
        assert_eq!(paths, ["nodes[0].adapter", "nodes[1].type", "nodes[1].adapter"]);
    }
}
