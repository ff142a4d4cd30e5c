//! Who may call what: read from the API's own description, so that what is described is what holds.
//!
//! Every operation names what it needs in its `security`, as scopes of the bearer token: permissions that the token must grant, and two
//! words for what only the request can tell, which the use case checks then. An operation that names nothing is served to nobody.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, Method, Response, header};
use axum::middleware::Next;
use axum::response::IntoResponse as _;
use longshore_model::wire::problem::ErrorCode;
use serde_json::Value;
use utoipa::openapi::{OpenApi, security::SecurityRequirement};

use super::audit::Known;
use super::auth;
use super::extract::{Fields, bad_query};
use super::problem::Failed;
use super::v1::nodes::DOORS;
use crate::app::App;

/// The permission of the operation that a request asks for.
pub(super) const OF_OPERATION: &str = "operation";
/// The token must be for everybody who is told to do something.
pub(super) const OF_TARGET: &str = "target";

/// The operation that a typed door does.
const OPERATION: &str = "x-longshore-operation";

/// What the description says of the scheme.
pub(super) const SCHEME: &str = "A JSON Web Token, signed with HS256 by the controller's own key or with EdDSA by a key the controller \
    knows. The scopes of an operation are the permissions it needs. Two are for the request to say: `operation` is the permission of the \
    operation that the job does, and with `target` a token that is limited to targets must be for everybody who is told to do something.";

/// Says in the description which operation a typed door does, and what that needs.
pub(super) fn declare_doors(description: &mut OpenApi) {
    for (method, path, operation) in DOORS {
        let Some(item) = description.paths.paths.get_mut(*path) else { continue };
        let door = match *method {
            "get" => &mut item.get,
            "put" => &mut item.put,
            "post" => &mut item.post,
            // Another method stays undeclared, and so closed, until it has a row here.
            _ => continue,
        };
        if let Some(door) = door {
            let spec = operation.spec();
            door.security = Some(vec![SecurityRequirement::new("bearer", [spec.permission, OF_TARGET])]);
            door.extensions.get_or_insert_default().insert(OPERATION.to_owned(), spec.name.into());
        }
    }
}

/// What every operation needs, by the routes' paths.
#[derive(Debug, Default)]
struct Table(HashMap<String, Vec<Door>>);

#[derive(Debug)]
struct Door {
    method: Method,
    needs: Needs,
    /// Whether its query has fields.
    has_query: bool,
    /// The operation that it does, where that is said by its path.
    operation: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Needs {
    /// No token.
    Nothing,
    /// A token with these.
    Permissions { permissions: Vec<String>, addresses_hosts: bool },
    /// It is not said: nobody is let in.
    Undeclared,
}

/// What the middleware has at hand. Cheap to clone.
#[derive(Clone)]
pub(super) struct Gate {
    app: App,
    table: Arc<Table>,
}

impl Gate {
    /// For the routes of this description.
    pub(super) fn new(app: App, description: &OpenApi) -> Self {
        let description = serde_json::to_value(description).expect("the description is JSON");
        Self { app, table: Arc::new(Table::of(&description)) }
    }
}

impl Table {
    fn of(description: &Value) -> Self {
        let methods = |item: &Value| item.as_object().map(|methods| methods.iter().filter_map(door).collect());
        let paths = description["paths"].as_object().into_iter().flatten();
        Self(paths.filter_map(|(path, item)| Some((path.clone(), methods(item)?))).collect())
    }
}

fn door((method, operation): (&String, &Value)) -> Option<Door> {
    let has_query = operation["parameters"].as_array().is_some_and(|all| all.iter().any(|one| one["in"] == "query"));
    let does = operation[OPERATION].as_str().map(str::to_owned);
    Some(Door { method: method.to_uppercase().parse().ok()?, needs: needs(operation), has_query, operation: does })
}

fn needs(operation: &Value) -> Needs {
    let Some([requirement]) = operation["security"].as_array().map(Vec::as_slice) else { return Needs::Undeclared };
    let Some(requirement) = requirement.as_object() else { return Needs::Undeclared };
    if requirement.is_empty() {
        return Needs::Nothing;
    }
    let scopes: Vec<&str> = requirement.get("bearer").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    if scopes.is_empty() {
        return Needs::Undeclared;
    }
    let permissions = scopes.iter().filter(|scope| ![OF_OPERATION, OF_TARGET].contains(scope)).map(|scope| (*scope).to_owned()).collect();
    Needs::Permissions { permissions, addresses_hosts: scopes.contains(&OF_TARGET) }
}

/// Lets in who may come in, and tells the handler who it is.
pub(super) async fn check(State(gate): State<Gate>, matched: Option<MatchedPath>, mut request: Request, next: Next) -> Response<Body> {
    let doors = matched.as_ref().and_then(|path| gate.table.0.get(path.as_str())).map_or(&[][..], Vec::as_slice);
    // Who asks for the head alone asks at the door that a GET goes to.
    let door = |method: &Method| doors.iter().find(|door| door.method == method);
    let declared = door(request.method()).or_else(|| if request.method() == Method::HEAD { door(&Method::GET) } else { None });
    // Without one there is no handler either, and the router says so.
    let Some(declared) = declared else { return next.run(request).await };
    match &declared.needs {
        Needs::Nothing => {}
        Needs::Undeclared => {
            tracing::error!(path = matched.as_ref().map(MatchedPath::as_str), "the description does not say what this operation needs");
            return Failed::new(ErrorCode::Internal, "the controller does not know who may do this").into_response();
        }
        Needs::Permissions { addresses_hosts: true, .. } if declared.method != request.method() => return only(doors),
        Needs::Permissions { permissions, .. } => match let_in(&gate.app, declared, permissions, &mut request) {
            Ok(()) => {}
            Err(failed) => return failed.into_response(),
        },
    }
    next.run(request).await
}

fn let_in(app: &App, door: &Door, permissions: &[String], request: &mut Request) -> Result<(), Failed> {
    let known = request.extensions().get::<Known>().cloned().unwrap_or_default();
    if let Some(operation) = &door.operation {
        known.asks(operation, None);
    }
    let caller = auth::caller(app, request.headers())?;
    known.is(&caller.name);
    if let Some(missing) = permissions.iter().find(|permission| !caller.may(permission)) {
        return Err(Failed::new(ErrorCode::Forbidden, format!("the token does not grant {missing}")));
    }
    if !door.has_query
        && let Some(name) = Fields::of(request.uri())?.first()
    {
        return Err(bad_query(name, "is not known: there are none here"));
    }
    request.extensions_mut().insert(caller);
    Ok(())
}

/// A GET that has somebody do something is no GET to ask the head of: whoever does so means no harm, and would make a job.
fn only(doors: &[Door]) -> Response<Body> {
    let mut response = Failed::new(ErrorCode::MethodNotAllowed, "this makes a job, so its head alone cannot be asked for").into_response();
    let methods = doors.iter().map(|door| door.method.as_str()).collect::<Vec<_>>().join(",");
    if let Ok(methods) = HeaderValue::from_str(&methods) {
        response.headers_mut().insert(header::ALLOW, methods);
    }
    response
}

/// Nobody was let in, and yet a handler runs.
pub(super) fn nobody() -> Failed {
    tracing::error!("a handler that needs a caller has none: its path is not in the description");
    Failed::new(ErrorCode::Internal, "the controller does not know who may do this")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_declared_is_not_open() {
        let permissions = |list: &[&str], addresses_hosts| Needs::Permissions {
            permissions: list.iter().map(|text| (*text).to_owned()).collect(),
            addresses_hosts,
        };
        let rows = [
            (json!({"security": [{}]}), Needs::Nothing),
            (json!({"security": [{"bearer": ["job:read"]}]}), permissions(&["job:read"], false)),
            (json!({"security": [{"bearer": ["job:write", "operation", "target"]}]}), permissions(&["job:write"], true)),
            (json!({"security": [{"bearer": ["operation"]}]}), permissions(&[], false)),
            (json!({}), Needs::Undeclared),
            (json!({"security": []}), Needs::Undeclared),
            (json!({"security": [{"bearer": []}]}), Needs::Undeclared),
            (json!({"security": [{}, {"bearer": ["job:read"]}]}), Needs::Undeclared),
            (json!({"security": [{"cookie": ["job:read"]}]}), Needs::Undeclared),
        ];
        for (operation, expected) in rows {
            assert_eq!(needs(&operation), expected, "{operation}");
        }
    }
}
