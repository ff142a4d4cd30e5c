//! The component: a configuration, a listener, and everything that runs while it serves.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use longshore_model::access::Roles;
use longshore_seal::{JobSigner, SealingKey};
use longshore_store::Store;
use tokio::net::TcpListener;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::Layer as _;

use crate::app::App;
use crate::gateway::GatewayConfig;
use crate::listener::{self, Bounds};
use crate::rest::Api;
use crate::token::VerifyKey;
use crate::{audit, fleet, index, letters, reconcile, rest, strangers};

/// How long requests may take to finish once the controller ends.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);

/// How long the audit trail's last records have at least, once requests have ended or were cut off.
const FLUSH_WITHIN: Duration = Duration::from_millis(500);

/// Between looks at whether everything is known.
const READY_LOOK: Duration = Duration::from_millis(5);

/// The secret that tokens are signed with. Hides itself from `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey(Vec<u8>);

impl SigningKey {
    /// Wraps the secret; 32 random bytes or more.
    #[must_use]
    pub fn new(secret: Vec<u8>) -> Self {
        Self(secret)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(***)")
    }
}

/// What a controller needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Signs and checks bearer tokens.
    pub signing_key: SigningKey,
    /// Seals the secrets of jobs; without it jobs with secrets are refused.
    pub sealing_key: Option<SealingKey>,
    /// Signs jobs, so that agents can tell what comes from a controller; without it they are not signed.
    pub job_signer: Option<JobSigner>,
    /// Check bearer tokens that others sign; each has an id of its own.
    pub verify_keys: Vec<VerifyKey>,
    /// The roles that tokens may carry.
    pub roles: Roles,
    /// The origins whose web pages a browser lets call the API; `*` for all.
    pub allow_origins: Vec<String>,
    /// How long `?wait` without a value waits.
    pub job_timeout: Duration,
    /// How long the ledger keeps records: submissions that could outlive it are refused.
    pub retention: Duration,
    /// How long the object store keeps bundles: a job must not outlive the one it names.
    pub objects_retention: Duration,
    /// What `status` says of the broker: `always`, `relaxed` or `unknown`.
    pub durability: String,
    /// How long an agent's unextended claim lasts.
    pub lease: Duration,
    /// How often each reconciler looks.
    pub reconcile_every: Duration,
    /// How workers attach.
    pub gateway: GatewayConfig,
}

impl Config {
    /// A configuration with this key that listens on a free port of the loopback; everything else as specified.
    #[must_use]
    pub fn new(signing_key: SigningKey) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            signing_key,
            sealing_key: None,
            job_signer: None,
            verify_keys: Vec::new(),
            roles: Roles::default(),
            allow_origins: Vec::new(),
            job_timeout: Duration::from_secs(30),
            retention: Duration::from_secs(7 * 24 * 3600),
            objects_retention: Duration::from_secs(7 * 24 * 3600),
            durability: "unknown".to_owned(),
            lease: Duration::from_secs(120),
            reconcile_every: Duration::from_secs(5),
            gateway: GatewayConfig::default(),
        }
    }
}

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address}")]
pub struct BindError {
    address: SocketAddr,
    #[source]
    source: std::io::Error,
}

/// The controller ended without having been asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A part that should run for ever ended.
    #[error("keep the controller running: one of its tasks ended")]
    Task(#[source] Option<JoinError>),
}

/// A controller that listens but does not serve yet.
pub struct Controller {
    app: App,
    listener: TcpListener,
    address: SocketAddr,
    /// The same over TLS, if that is wanted.
    secured: Option<(TcpListener, TlsAcceptor, SocketAddr)>,
}

impl Controller {
    /// Takes the address, and that for TLS if there is one. Connections wait until [`Controller::run`].
    ///
    /// # Errors
    /// An address is in use or not ours.
    pub async fn bind(config: Config, store: Store) -> Result<Self, BindError> {
        let (listener, address) = listen(config.listen).await?;
        let secured = match &config.gateway.tls {
            Some(tls) => {
                let (listener, address) = listen(tls.listen).await?;
                Some((listener, TlsAcceptor::from(Arc::clone(&tls.server)), address))
            }
            None => None,
        };
        Ok(Self { app: App::new(config, store), listener, address, secured })
    }

    /// Ends when it can answer everything: once it runs, its index is complete and it knows who is in the fleet and which jobs are dead.
    pub fn ready(&self) -> impl Future<Output = ()> + Send + use<> {
        let app = self.app.clone();
        async move {
            while !(app.index().is_caught_up() && app.fleet().is_current() && app.letters().is_current()) {
                tokio::time::sleep(READY_LOOK).await;
            }
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens with TLS, if it does.
    #[must_use]
    pub fn secured_addr(&self) -> Option<SocketAddr> {
        self.secured.as_ref().map(|(_, _, address)| *address)
    }

    /// Serves until `drain` is set, then ends event streams and waits, and gives requests 5 s to finish.
    ///
    /// # Errors
    /// A part that should run for ever ended.
    pub async fn run(self, drain: CancellationToken) -> Result<(), RunError> {
        let Self { app, listener, address, secured } = self;
        let mut tasks = JoinSet::new();
        spawn(&app, &mut tasks);
        let _attached = app.gateway.guard();
        let (mut writer, calls_ended) = (JoinSet::new(), CancellationToken::new());
        writer.spawn(audit::write(app.clone(), calls_ended.clone()));
        let secured_address = secured.as_ref().map(|(_, _, address)| address.to_string());
        tracing::info!(%address, secured_address, "the controller serves");

        let (api, drained) = (Api::new(app.clone()), app.drain.clone());
        let listeners = [Some((listener, None)), secured.map(|(listener, tls, _)| (listener, Some(tls)))].into_iter().flatten();
        let serving = listeners.map(|(listener, tls)| match rest::cors(&app.config.allow_origins) {
            None => listener::serve(listener, tls, api.clone(), Bounds::default(), drained.clone()).boxed(),
            Some(cors) => listener::serve(listener, tls, cors.layer(api.clone()), Bounds::default(), drained.clone()).boxed(),
        });
        // They end when they are told to, and not before.
        let mut serve = futures::future::join_all(serving).boxed();
        let ended = tokio::select! {
            () = drain.cancelled() => Ok(()),
            _ = serve.as_mut() => Err(RunError::Task(None)),
            task = tasks.join_next() => Err(RunError::Task(task.and_then(Result::err))),
            task = writer.join_next() => Err(RunError::Task(task.and_then(Result::err))),
        };
        app.drain.cancel();
        let deadline = Instant::now() + DRAIN_WITHIN;
        app.streams.close();
        let (was_asked, last) = (ended.is_ok(), app.clone());
        let finish = async move {
            app.gateway.end().await;
            app.streams.wait().await;
            while tasks.join_next().await.is_some() {}
            if was_asked {
                let _all_of_them = serve.await;
            }
        };
        if tokio::time::timeout_at(deadline, finish).await.is_err() {
            tracing::warn!("some requests did not finish in time and were cut off");
            // They are dropped when they are next looked at, and leave their records then.
            tokio::time::sleep(READY_LOOK).await;
        }
        last.strangers.rest().into_iter().for_each(|record| last.audit.record(record));
        calls_ended.cancel();
        if tokio::time::timeout_at(deadline.max(Instant::now() + FLUSH_WITHIN), writer.join_next()).await.is_err() {
            tracing::error!("the broker did not take the last audit records in time, and they are lost");
        }
        ended
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), BindError> {
    let refused = |source| BindError { address, source };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    Ok((listener, address))
}

/// Starts everything that follows the stores and repairs them.
pub(crate) fn spawn(app: &App, tasks: &mut JoinSet<()>) {
    tasks.spawn(index::follow(app.clone()));
    tasks.spawn(fleet::follow(app.clone()));
    tasks.spawn(letters::follow(app.clone()));
    tasks.spawn(strangers::follow(app.clone()));
    reconcile::spawn(app, tasks);
}
