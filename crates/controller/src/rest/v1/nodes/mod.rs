//! `/api/v1/nodes/{target}/…`: a door for each of the common reads and writes.
//!
//! All of them do the same: make a job as `POST /api/v1/jobs` does, wait for its end, and answer with a row for each host. So they are
//! the table below and one function.

mod asked;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use longshore_model::access::Caller;
use longshore_model::operation::Operation;
use longshore_model::wire::args::{DnsSetArgs, ExecArgs, HostnameSetArgs, PingArgs, ShellArgs};
use longshore_model::wire::rest::{JobRequest, NodeResults};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::results::Shown;
use crate::app::{App, submit as app};
use crate::rest::auth::Authorized;
use crate::rest::extract::Query;
use crate::rest::idempotency;
use crate::rest::problem::Failed;
use crate::rest::refusals::StateRefusals;
use crate::rest::shown;
use asked::{Asked, Times};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(get_node_hostname, set_node_hostname))
        .routes(routes!(get_node_status))
        .routes(routes!(get_node_disk))
        .routes(routes!(get_node_memory))
        .routes(routes!(get_node_load))
        .routes(routes!(get_node_uptime))
        .routes(routes!(get_node_os))
        .routes(routes!(get_node_dns, set_node_dns))
        .routes(routes!(ping_from_node))
        .routes(routes!(exec_on_node))
        .routes(routes!(shell_on_node))
}

/// A row for each door: the handler, its route, the operation, what it does; the interface if its path has one, and the operation's
/// arguments if it takes any.
macro_rules! doors {
    ($($name:ident: $method:ident $path:tt, $operation:ident, $summary:tt $(, interface: $interface:tt)? $(, body: $body:ident)?;)*) => {
        $(
        #[utoipa::path(
            $method, path = $path, tag = "nodes", summary = $summary,
            description = "Makes a job, waits for its end, and gives a row for each host.",
            params(
                ("target" = String, Path, example = "_any", description = "`_any`, `_all`, a host name, an agent id, `KEY:VALUE`, or `_any@KEY:VALUE`."),
                $(("interface" = String, Path, example = "lo", description = $interface),)?
                ("wait" = Option<String>, Query, example = "1s", description = "Wait up to this long for the end, such as `30s`; at most `5m`. As long as `controller.api.job_timeout` unless given."),
                ("timeout" = Option<String>, Query, example = "30s", description = "Of one attempt, such as `6h`; at most `168h`. The operation's own unless given."),
                ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, description = "The same key with the same request gives the first job again.")
            ),
            $(request_body = $body,)?
            responses(
                (status = 200, body = NodeResults, description = "Every host has answered, or never will. With `Idempotent-Replayed: true` it is the job of an earlier request with the same key."),
                (status = 202, body = NodeResults, description = "The time was up before every host had answered: what there is, and the job, which goes on.", headers(("Location" = String, description = "Where the job is."))),
                StateRefusals
            )
        )]
        async fn $name(
            State(app): State<App>,
            Authorized(caller): Authorized,
            Query(times): Query<Times>,
            headers: HeaderMap,
            asked: Asked,
        ) -> Result<Response, Failed> {
            ask(&app, &caller, Operation::$operation, times, &headers, asked).await
        }
    )*

        /// What each door does, by its method and its path in the description.
        pub(crate) const DOORS: &[(&str, &str, Operation)] = &[$((stringify!($method), $path, Operation::$operation)),*];
    };
}

doors! {
    get_node_hostname: get "/api/v1/nodes/{target}/hostname", NodeHostnameGet, "Read hosts' names.";
    set_node_hostname: put "/api/v1/nodes/{target}/hostname", NodeHostnameSet, "Set a host's name.", body: HostnameSetArgs;
    get_node_status: get "/api/v1/nodes/{target}/status", NodeStatusGet, "Read hosts' system, uptime, load, memory and disks.";
    get_node_disk: get "/api/v1/nodes/{target}/disk", NodeDiskGet, "Read the size and the free space of hosts' disks.";
    get_node_memory: get "/api/v1/nodes/{target}/memory", NodeMemoryGet, "Read hosts' memory.";
    get_node_load: get "/api/v1/nodes/{target}/load", NodeLoadGet, "Read hosts' load averages.";
    get_node_uptime: get "/api/v1/nodes/{target}/uptime", NodeUptimeGet, "Read how long ago hosts were started.";
    get_node_os: get "/api/v1/nodes/{target}/os", NodeOsGet, "Read hosts' operating system, kernel and architecture.";
    get_node_dns: get "/api/v1/nodes/{target}/network/dns/{interface}", NetworkDnsGet, "Read an interface's name servers and search domains.",
        interface: "Whose they are, such as `eth0`.";
    set_node_dns: put "/api/v1/nodes/{target}/network/dns/{interface}", NetworkDnsSet, "Set an interface's name servers and search domains.",
        interface: "Whose they are, such as `eth0`. The body need not name it again.", body: DnsSetArgs;
    ping_from_node: post "/api/v1/nodes/{target}/network/ping", NetworkPingRun, "Ping an address from hosts.", body: PingArgs;
    exec_on_node: post "/api/v1/nodes/{target}/command/exec", CommandExec, "Run a program on hosts.", body: ExecArgs;
    shell_on_node: post "/api/v1/nodes/{target}/command/shell", CommandShell, "Run a script on hosts with /bin/sh.", body: ShellArgs;
}

async fn ask(
    app: &App,
    caller: &Caller,
    operation: Operation,
    Times { wait, timeout }: Times,
    headers: &HeaderMap,
    asked: Asked,
) -> Result<Response, Failed> {
    let mut request = JobRequest { timeout, ..JobRequest::new(operation.name(), asked.args.into(), asked.target) };
    idempotency::take_key(headers, &mut request)?;
    let submitted =
        app::submit(app, caller, request).await.map_err(|error| Failed::from(error).at(|pointer| asked.origin.place(pointer)))?;
    let id = submitted.record.definition.id;
    let is_replayed = submitted.is_replayed();
    let Shown { job, room } = submitted.when_ended(app, wait.duration(app.config.job_timeout).unwrap_or(app.config.job_timeout)).await;
    let status = if job.status.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let body = shown::json(app, NodeResults::from(job), room).await?;
    let mut response = idempotency::answered(status, &format!("/api/v1/jobs/{id}"), is_replayed, body);
    // Each request asks anew, also a GET.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
