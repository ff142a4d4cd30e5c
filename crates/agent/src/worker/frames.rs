//! What the frames between a worker and whoever hands out work say, beyond the session itself. Unknown fields are refused, as the existing ends refuse them.

use longshore_session::{Envelope, Payload};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Kinds of frames.
pub(crate) mod kind {
    pub(crate) const DISPATCH: &str = "biz.exec.dispatch";
    pub(crate) const RESULT: &str = "biz.exec.result";
    pub(crate) const ERROR: &str = "biz.exec.error";
    pub(crate) const FEEDBACK: &str = "biz.exec.feedback";
    pub(crate) const NEXT_REQUEST: &str = "biz.exec.next.request";
    pub(crate) const NEXT_RESPONSE: &str = "biz.exec.next.response";
    pub(crate) const INSTALL: &str = "biz.pkg.install";
    pub(crate) const UNINSTALL: &str = "biz.pkg.uninstall";
    pub(crate) const EVENT: &str = "biz.pkg.event";
    /// Between two Longshores: one operation of the catalogue.
    pub(crate) const OPERATION: &str = "ext.longshore.operation";
    /// Between two Longshores: a task is to be ended.
    pub(crate) const CANCEL: &str = "ext.longshore.cancel";
}

/// Codes of errors that a worker answers with.
pub(crate) mod code {
    /// The handler raised, is unknown, or gave no result.
    pub(crate) const FAILURE: &str = "E.RUNNER.FAILURE";
    /// It was ended or never begun; whoever sent it sends it again.
    pub(crate) const CANCELLED: &str = "E.RUNNER.CANCELLED";
    /// It ran longer than it may.
    pub(crate) const TIMEOUT: &str = "E.RUNNER.TIMEOUT";
    /// Its handler has failed too often in a row.
    pub(crate) const COOLDOWN: &str = "E.RUNNER.COOLDOWN";
    /// Another task runs under its key.
    pub(crate) const CONCURRENCY: &str = "E.CMD.CONCURRENCY_VIOLATION";
    /// There is no room for it.
    pub(crate) const OVERLOADED: &str = "E.CMD.OVERLOADED";
    /// It cannot be read.
    pub(crate) const INVALID: &str = "E.CMD.INVALID";
    /// This worker does not take frames of its kind.
    pub(crate) const UNSUPPORTED: &str = "E.CMD.UNSUPPORTED";
    /// A resource is on another worker, or nowhere.
    pub(crate) const RESOURCE: &str = "E.RESOURCE.MISSING";
}

/// What stands for a package where a task is an operation of the catalogue: no package can be called so.
pub(crate) const OWN_PACKAGE: &str = "@longshore";

/// `biz.exec.dispatch`: one task. Parameters may hold secrets, so `Debug` does not show them.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Dispatch {
    pub(crate) run_id: String,
    pub(crate) task_id: String,
    pub(crate) node_id: String,
    pub(crate) node_type: String,
    pub(crate) package_name: String,
    pub(crate) package_version: String,
    pub(crate) parameters: Payload,
    pub(crate) constraints: Payload,
    #[serde(default)]
    pub(crate) priority: Option<i64>,
    #[serde(default)]
    pub(crate) host_node_id: Option<String>,
    #[serde(default)]
    pub(crate) middleware_chain: Option<Vec<Value>>,
    #[serde(default)]
    pub(crate) chain_index: Option<u64>,
    #[serde(default)]
    pub(crate) concurrency_key: Option<String>,
    #[serde(default)]
    pub(crate) resource_refs: Option<Vec<Payload>>,
    #[serde(default)]
    pub(crate) affinity: Option<Payload>,
}

impl std::fmt::Debug for Dispatch {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Dispatch").field("run_id", &self.run_id).field("task_id", &self.task_id).finish_non_exhaustive()
    }
}

/// `ext.longshore.operation`: one operation of the catalogue. Read by whoever performs it; here only what a task is known by.
#[derive(Deserialize)]
struct OperationNames {
    run_id: String,
    task_id: String,
    node_id: String,
    operation: String,
}

/// `ext.longshore.cancel`.
#[derive(Deserialize)]
pub(crate) struct Cancel {
    pub(crate) run_id: String,
    pub(crate) task_id: String,
}

impl Dispatch {
    /// Reads and checks it; the error says which field is wrong.
    pub(crate) fn read(envelope: &Envelope) -> Result<Self, String> {
        let dispatch = if envelope.kind == kind::OPERATION { Self::of_operation(envelope)? } else { Self::of_package(envelope)? };
        dispatch.check()?;
        Ok(dispatch)
    }

    /// An operation is a task whose package is this program itself, and whose parameters are the whole frame.
    fn of_operation(envelope: &Envelope) -> Result<Self, String> {
        let payload = Value::Object(envelope.payload.clone());
        let OperationNames { run_id, task_id, node_id, operation } =
            serde_path_to_error::deserialize(payload).map_err(|error| error.to_string())?;
        Ok(Self {
            run_id,
            task_id,
            node_id,
            node_type: operation,
            package_name: OWN_PACKAGE.to_owned(),
            package_version: env!("CARGO_PKG_VERSION").to_owned(),
            parameters: envelope.payload.clone(),
            constraints: Payload::new(),
            priority: None,
            host_node_id: None,
            middleware_chain: None,
            chain_index: None,
            concurrency_key: None,
            resource_refs: None,
            affinity: None,
        })
    }

    fn of_package(envelope: &Envelope) -> Result<Self, String> {
        let dispatch: Self =
            serde_path_to_error::deserialize(Value::Object(envelope.payload.clone())).map_err(|error| error.to_string())?;
        if dispatch.package_name == OWN_PACKAGE {
            return Err(format!("package_name is {OWN_PACKAGE:?}, which no package can have"));
        }
        Ok(dispatch)
    }

    fn check(&self) -> Result<(), String> {
        let dispatch = self;
        let names = [
            ("run_id", &dispatch.run_id),
            ("task_id", &dispatch.task_id),
            ("node_id", &dispatch.node_id),
            ("node_type", &dispatch.node_type),
            ("package_name", &dispatch.package_name),
            ("package_version", &dispatch.package_version),
        ];
        if let Some((field, _)) = names.into_iter().find(|(_, text)| text.is_empty()) {
            return Err(format!("{field} is empty"));
        }
        if let Some((field, _)) = names.into_iter().find(|(_, text)| text.len() > longshore_session::codec::NAME_BYTES_MAX) {
            return Err(format!("{field} is longer than {} bytes", longshore_session::codec::NAME_BYTES_MAX));
        }
        dispatch.timeout_ms().map(|_| ())
    }

    /// How long it may run, if it says so.
    pub(crate) fn timeout_ms(&self) -> Result<Option<u64>, String> {
        match self.constraints.get("timeout_ms") {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64() {
                Some(ms) if ms > 0 => Ok(Some(ms)),
                Some(_) | None => Err("constraints.timeout_ms must be a whole number of at least 1".to_owned()),
            },
        }
    }

    /// The key under which no other may run; an empty one is none.
    pub(crate) fn exclusive_key(&self) -> Option<&str> {
        self.concurrency_key.as_deref().filter(|key| !key.is_empty())
    }

    /// What a handler sees as its metadata, and what a result begins with.
    pub(crate) fn metadata(&self) -> Payload {
        let mut metadata = Payload::new();
        metadata.insert("concurrency_key".to_owned(), self.concurrency_key.clone().map_or(Value::Null, Value::String));
        metadata.insert("constraints".to_owned(), Value::Object(self.constraints.clone()));
        if let Some(host) = &self.host_node_id {
            metadata.insert("host_node_id".to_owned(), Value::String(host.clone()));
        }
        if let Some(chain) = &self.middleware_chain {
            metadata.insert("middleware_chain".to_owned(), Value::Array(chain.clone()));
        }
        if let Some(index) = self.chain_index {
            metadata.insert("chain_index".to_owned(), index.into());
        }
        if let Some(refs) = &self.resource_refs {
            metadata.insert("resource_refs".to_owned(), Value::Array(refs.iter().cloned().map(Value::Object).collect()));
        }
        if let Some(affinity) = &self.affinity {
            metadata.insert("affinity".to_owned(), Value::Object(affinity.clone()));
        }
        metadata
    }
}

/// `biz.exec.next.request`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NextRequest {
    pub(crate) request_id: String,
    pub(crate) run_id: String,
    pub(crate) node_id: String,
    pub(crate) middleware_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) chain_index: Option<u64>,
    pub(crate) host_ctx: Payload,
    pub(crate) middleware_ctx: Payload,
    pub(crate) payload: Payload,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout_ms: Option<u64>,
}

/// `biz.exec.next.response`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct NextResponse {
    pub(crate) request_id: String,
    #[serde(rename = "runId")]
    pub(crate) _run_id: String,
    #[serde(rename = "nodeId")]
    pub(crate) _node_id: String,
    #[serde(rename = "middlewareId")]
    pub(crate) _middleware_id: String,
    #[serde(default)]
    pub(crate) result: Option<Payload>,
    #[serde(default)]
    pub(crate) error: Option<Payload>,
    #[serde(default)]
    pub(crate) trace: Option<Payload>,
}

/// `biz.pkg.install` and `biz.pkg.uninstall`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PackageCommand {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) version: Option<String>,
    #[serde(default)]
    pub(crate) url: Option<String>,
    #[serde(default)]
    pub(crate) sha256: Option<String>,
}

/// An object of a type that writes one.
pub(crate) fn object<T: Serialize>(frame: &T) -> Payload {
    match serde_json::to_value(frame) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) | Err(_) => Payload::new(),
    }
}
