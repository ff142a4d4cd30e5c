//! Who may call what: read from the API's own description, so that what is described is what holds.
//!
//! Every operation names what it needs in its `security`, as scopes of the bearer token: permissions that the token must grant, and two
//! words for what only the request can tell, which the use case checks then. An operation that names nothing is served to nobody.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::http::{Extensions, HeaderValue, Method, Response, header};
use axum::response::IntoResponse as _;
use longshore_model::access::Caller;
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

/// The operations of a path.
#[derive(Debug)]
struct Doors {
    /// As the routes have it.
    path: Arc<str>,
    doors: Vec<Door>,
}

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

/// Who was let in, and where.
#[derive(Clone)]
struct LetIn {
    caller: Caller,
    path: Arc<str>,
}

/// Stands before all routes, and knows what each of them needs.
pub(super) struct Gate {
    app: App,
    /// Finds a path as the routes' own router does: it is the same.
    paths: matchit::Router<Doors>,
}

impl Gate {
    /// For the routes of this description.
    pub(super) fn new(app: App, description: &OpenApi) -> Self {
        let description = serde_json::to_value(description).expect("the description is JSON");
        let mut paths = matchit::Router::new();
        for (path, item) in description["paths"].as_object().into_iter().flatten() {
            let doors = item.as_object().into_iter().flatten().filter_map(door).collect();
            paths.insert(path.as_str(), Doors { path: path.as_str().into(), doors }).expect("the routes have taken it");
        }
        Self { app, paths }
    }

    /// Lets in who may come in, and tells the handler who it is.
    ///
    /// # Errors
    /// The answer to who may not.
    pub(super) fn check(&self, request: &mut Request) -> Result<(), Box<Response<Body>>> {
        let Ok(Doors { path, doors }) = self.paths.at(request.uri().path()).map(|found| found.value) else { return Ok(()) };
        // Who asks for the head alone asks at the door that a GET goes to.
        let door = |method: &Method| doors.iter().find(|door| door.method == method);
        let declared = door(request.method()).or_else(|| if request.method() == Method::HEAD { door(&Method::GET) } else { None });
        // Without one there is no handler either, and the router says so.
        let Some(declared) = declared else { return Ok(()) };
        match &declared.needs {
            Needs::Nothing => Ok(()),
            Needs::Undeclared => {
                tracing::error!(path = &**path, "the description does not say what this operation needs");
                let failed = Failed::new(ErrorCode::Internal, "the controller does not know who may do this");
                Err(Box::new(failed.into_response()))
            }
            Needs::Permissions { addresses_hosts: true, .. } if declared.method != request.method() => Err(Box::new(only(doors))),
            Needs::Permissions { permissions, .. } => match let_in(&self.app, declared, permissions, request) {
                Ok(caller) => {
                    request.extensions_mut().insert(LetIn { caller, path: path.clone() });
                    Ok(())
                }
                Err(failed) => Err(Box::new(failed.into_response())),
            },
        }
    }
}

/// Who was let in to the route at which the request has arrived.
pub(super) fn taken(extensions: &mut Extensions) -> Result<Caller, Failed> {
    let LetIn { caller, path } = extensions.remove().ok_or_else(nobody)?;
    let is_here = extensions.get::<MatchedPath>().is_some_and(|matched| matched.as_str() == &*path);
    if is_here { Ok(caller) } else { Err(nobody()) }
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

fn let_in(app: &App, door: &Door, permissions: &[String], request: &Request) -> Result<Caller, Failed> {
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
        && let Some(name) = Fields::of(request.uri(), app.store.clock.now())?.first()
    {
        return Err(bad_query(name, "is not known: there are none here"));
    }
    Ok(caller)
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

/// Nobody was let in here, and yet a handler runs.
fn nobody() -> Failed {
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
