//! From the settings to each component's own configuration. Every setting ends here, in a client command, or in the broker's file.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use longshore_agent::{FactsPolicy, PackagesConfig, Thresholds};
use longshore_controller::SigningKey;
use longshore_exec::{Machine, SupervisorCommand};
use longshore_model::limits::KILL_GRACE;
use longshore_store::jetstream::{self, Auth};

use super::broker::Endpoint;
use super::{data, job_keys, keys};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::settings::{AuthKind, Nats, ReplayPolicy, Secret, Settings, Storage, without_credentials};

/// How to reach the stores on `endpoint`, or on the configured broker.
pub(crate) fn store(settings: &Settings, endpoint: Option<&Endpoint>, client_name: &str) -> Result<jetstream::Config, Failure> {
    let Nats { server, tls, inbox_prefix, stream, kv, dlq, logs, audit, registry, state, facts, objects, .. } = &settings.nats;
    let consumer = &settings.agent.consumer;
    let (url, auth) = match endpoint {
        Some(endpoint) => {
            ours_only(&settings.nats)?;
            (endpoint.url(), Auth::Token(endpoint.token.clone()))
        }
        None => external(&settings.nats)?,
    };
    Ok(jetstream::Config {
        url,
        client_name: client_name.to_owned(),
        auth,
        tls: jetstream::Tls {
            ca: tls.ca.as_ref().map(PathBuf::from),
            // Checked when the settings were loaded: both or none.
            client: tls
                .cert
                .as_ref()
                .zip(tls.key.as_ref())
                .map(|(cert, key)| jetstream::ClientCertificate { cert: cert.into(), key: key.into() }),
        },
        inbox_prefix: inbox_prefix.clone(),
        namespace: server.namespace.clone(),
        replicas: stream.replicas,
        storage: match stream.storage {
            Storage::File => jetstream::Storage::File,
            Storage::Memory => jetstream::Storage::Memory,
        },
        // Its form was checked when the settings were loaded.
        work_prefix: stream.subjects.trim_end_matches(".>").to_owned(),
        dead_letters: jetstream::DeadLetters {
            name: dlq.stream.clone(),
            max_age: dlq.max_age.map(|age| age.0),
            max_bytes: dlq.max_bytes.0,
        },
        state_bucket: state.bucket.clone(),
        stream: jetstream::Stream { name: stream.name.clone(), max_age: stream.max_age.0, max_bytes: stream.max_bytes.0 },
        kv: jetstream::KeyValue {
            bucket: kv.bucket.clone(),
            response_bucket: kv.response_bucket.clone(),
            ttl: kv.ttl.0,
            max_bytes: kv.max_bytes.0,
        },
        audit: jetstream::Stream { name: audit.stream.clone(), max_age: audit.max_age.0, max_bytes: audit.max_bytes.0 },
        logs: jetstream::Stream { name: logs.stream.clone(), max_age: logs.max_age.0, max_bytes: logs.max_bytes.0 },
        registry: jetstream::Registry { bucket: registry.bucket.clone(), ttl: registry.ttl.0 },
        facts: jetstream::Facts { bucket: facts.bucket.clone(), ttl: facts.ttl.0, max_bytes: facts.max_bytes.0 },
        objects: jetstream::Objects { bucket: objects.bucket.clone(), max_age: objects.max_age.0, max_bytes: objects.max_bytes.0 },
        consumer: jetstream::Consumer {
            queue_group: settings.agent.queue_group.clone(),
            max_deliver: consumer.max_deliver,
            ack_wait: consumer.ack_wait.0,
            max_ack_pending: consumer.max_ack_pending,
            replay_original: consumer.replay_policy == ReplayPolicy::Original,
        },
    })
}

/// What is said of a broker elsewhere has no effect on the one that Longshore runs itself.
fn ours_only(nats: &Nats) -> Result<(), Failure> {
    let key = match (nats.auth.kind, &nats.tls) {
        (AuthKind::UserPass | AuthKind::Token | AuthKind::Nkey | AuthKind::Creds, _) => "nats.auth",
        (AuthKind::None, tls) if *tls != Default::default() => "nats.tls",
        (AuthKind::None, _) => return Ok(()),
    };
    Err(Failure::new(Exit::Usage, format!("`{key}` is for a broker that runs elsewhere, and none is named"))
        .because("without `nats.url` Longshore runs a broker of its own, which has its own token")
        .hint("give --nats-url nats://HOST:4222, or take the setting away")
        .code("broker"))
}

fn external(nats: &Nats) -> Result<(String, Auth), Failure> {
    let Some(url) = &nats.url else {
        return Err(Failure::new(Exit::Usage, "no broker is named")
            .hint("give --nats-url nats://HOST:4222, or set nats.url")
            .code("broker"));
    };
    let (url, in_url) = without_credentials(url);
    let auth = match auth(nats)? {
        Auth::None => in_url.or_else(|| Endpoint::token_of_known(&url).map(Auth::Token)).unwrap_or_default(),
        said @ (Auth::UserPassword { .. } | Auth::Token(_) | Auth::Creds(_) | Auth::NKey(_)) => said,
    };
    Ok((url, auth))
}

fn auth(nats: &Nats) -> Result<Auth, Failure> {
    let auth = &nats.auth;
    let missing =
        |key: &str| Failure::new(Exit::Invalid, format!("nats.auth.{key} is not set, but nats.auth.type wants it")).code("configuration");
    let secret = |key: &str, secret: &Option<Secret>| match secret {
        Some(secret) => {
            secret.read().map_err(|error| Failure::new(Exit::Invalid, format!("nats.auth.{key} cannot be read")).caused_by(&error))
        }
        None => Err(missing(key)),
    };
    Ok(match auth.kind {
        AuthKind::None => Auth::None,
        AuthKind::UserPass => {
            Auth::UserPassword { user: auth.user.clone().ok_or_else(|| missing("user"))?, password: secret("password", &auth.password)? }
        }
        AuthKind::Token => Auth::Token(secret("token", &auth.token)?),
        AuthKind::Nkey => Auth::NKey(secret("nkey", &auth.nkey)?),
        AuthKind::Creds => Auth::Creds(PathBuf::from(auth.creds.as_ref().ok_or_else(|| missing("creds"))?)),
    })
}

/// The controller's. `durability` is what is known of the broker.
pub(crate) fn controller(
    settings: &Settings,
    dir: &Path,
    key: SigningKey,
    durability: &str,
) -> Result<longshore_controller::Config, Failure> {
    let api = &settings.controller.api;
    let (sealing_key, job_signer) = job_keys::of_controller(settings, dir)?;
    let verify_keys = keys::verify_keys(settings)?;
    keys::keyring(Some(&key), &verify_keys)?;
    Ok(longshore_controller::Config {
        listen: address(&api.listen)?,
        job_timeout: api.job_timeout.0,
        retention: settings.nats.kv.ttl.0,
        durability: match settings.nats.stream.storage {
            Storage::File => durability.to_owned(),
            Storage::Memory => "relaxed".to_owned(),
        },
        sealing_key,
        job_signer,
        lease: settings.agent.consumer.ack_wait.0,
        // Checked when the settings were loaded.
        roles: api.security.roles().unwrap_or_default(),
        objects_retention: settings.nats.objects.max_age.0,
        verify_keys,
        allow_origins: api.security.cors.allow_origins.clone(),
        gateway: gateway(settings)?,
        ..longshore_controller::Config::new(key)
    })
}

/// What the gateway of a controller is told.
fn gateway(settings: &Settings) -> Result<longshore_controller::GatewayConfig, Failure> {
    let own = &settings.controller.gateway;
    // Checked when the settings were loaded: all three or none.
    let tls = match (&own.tls.listen, &own.tls.cert, &own.tls.key) {
        (Some(listen), Some(cert), Some(key)) => {
            let client_ca = own.tls.client_ca.as_deref().map(Path::new);
            let read = longshore_controller::TlsListen::read(address(listen)?, Path::new(cert), Path::new(key), client_ca);
            Some(read.map_err(|error| {
                Failure::new(Exit::Invalid, "`controller.gateway.tls` cannot be used").caused_by(&error).code("configuration")
            })?)
        }
        (Some(_) | None, _, _) => None,
    };
    Ok(longshore_controller::GatewayConfig {
        is_on: own.enabled,
        workers_max: own.max_workers,
        // Within bounds that fit.
        frame_bytes_max: usize::try_from(own.max_message.0).unwrap_or(usize::MAX),
        beat_every: settings.nats.registry.ttl.0 / 3,
        tenant: own.tenant.clone(),
        greeting_within: own.greeting_within.0,
        session_lifetime: own.session_lifetime.0,
        silence_max: own.silence_max.0,
        detached_max: own.detached_max.0,
        doubt_within: own.doubt_within.0,
        cancel_within: own.cancel_within.0,
        grace: own.grace.0,
        tls,
        ..longshore_controller::GatewayConfig::default()
    })
}

fn address(listen: &str) -> Result<SocketAddr, Failure> {
    let refused = |cause: String| {
        Failure::new(Exit::Usage, format!("{listen:?} is not an address to listen on"))
            .because(cause)
            .hint("write it such as 127.0.0.1:8080")
    };
    let mut addresses = listen.to_socket_addrs().map_err(|error| refused(error.to_string()))?;
    addresses.next().ok_or_else(|| refused("it has no address".to_owned()))
}

/// What starts and ends the processes of jobs: this program itself.
pub(crate) fn supervisor() -> Result<SupervisorCommand, Failure> {
    let found = std::env::current_exe();
    let program = found.map_err(|error| Failure::new(Exit::Failed, "this program cannot find itself").caused_by(&error))?;
    Ok(SupervisorCommand { program, args: vec!["__supervise".into()] })
}

/// The agent's, with its state below `dir`.
pub(crate) fn agent(settings: &Settings, dir: &Path) -> Result<longshore_agent::Config, Failure> {
    let state_dir = dir.join("agent");
    crate::private::directory(&state_dir).map_err(|error| data::unusable(&state_dir, &error))?;
    let (opening_keys, trusted_keys) = job_keys::of_agent(settings, dir)?;
    Ok(longshore_agent::Config {
        opening_keys,
        trusted_keys,
        id: keys::agent_id(dir)?,
        hostname: Some(settings.agent.hostname.clone()).filter(|name| !name.is_empty()),
        max_jobs: settings.agent.max_jobs,
        backoff: settings.agent.consumer.back_off.iter().map(|wait| wait.0).collect(),
        // Checked when the settings were loaded.
        labels: settings.agent.labels().unwrap_or_default(),
        state_dir,
        workspaces_dir: settings.agent.workspace.workspaces_dir.clone(),
        jobs_dir: settings.agent.workspace.jobs_dir.clone(),
        supervisor: supervisor()?,
        heartbeat_every: settings.nats.registry.ttl.0 / 3,
        kill_grace: KILL_GRACE,
        machine: Machine::default(),
        packages: Some(PackagesConfig {
            dir: settings.agent.packages.dir.as_ref().map_or_else(|| dir.join(data::PACKAGES), PathBuf::from),
            python: PathBuf::from(&settings.agent.packages.python),
        }),
        facts: FactsPolicy { every: settings.agent.facts.interval.0, kept: settings.nats.facts.ttl.0 },
        thresholds: Thresholds {
            memory_percent: settings.agent.conditions.memory_pressure_threshold,
            load_percent: percent(settings.agent.conditions.high_load_multiplier),
            disk_percent: settings.agent.conditions.disk_pressure_threshold,
        },
    })
}

/// A factor within its bounds as a percentage: at least one.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the settings' bounds keep it between 0.01 and 1000")]
fn percent(factor: f64) -> u32 {
    (factor * 100.0).round().clamp(1.0, 100_000.0) as u32
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use longshore_model::unit::Span;

    use super::*;

    fn with(change: impl FnOnce(&mut Settings)) -> Settings {
        let mut settings = Settings::default();
        settings.nats.url = Some("nats://broker:4222".to_owned());
        change(&mut settings);
        settings
    }

    #[test]
    fn defaults_map_to_the_stores_own() {
        let mapped = store(&with(|_| {}), None, "x").unwrap();
        let own = jetstream::Config { url: "nats://broker:4222".to_owned(), client_name: "x".to_owned(), ..jetstream::Config::default() };
        assert_eq!(format!("{mapped:?}"), format!("{own:?}"));
    }

    #[test]
    fn the_settings_of_the_gateway_reach_it() {
        let dir = tempfile::tempdir().unwrap();
        let mapped = |settings: &Settings| {
            let key = SigningKey::new(vec![7; 32]);
            controller(settings, dir.path(), key, "unknown").unwrap().gateway
        };
        let usual = mapped(&with(|_| {}));
        let own = longshore_controller::GatewayConfig::default();
        assert_eq!(format!("{usual:?}"), format!("{:?}", longshore_controller::GatewayConfig { beat_every: usual.beat_every, ..own }));
        let changed = mapped(&with(|settings| {
            let seconds = |n| Span(Duration::from_secs(n));
            let gateway = &mut settings.controller.gateway;
            (gateway.enabled, gateway.tenant, gateway.max_workers, gateway.max_message.0) = (false, "other".to_owned(), 3, 1 << 20);
            (gateway.silence_max, gateway.doubt_within, gateway.cancel_within) = (seconds(1), seconds(2), seconds(3));
            (gateway.grace, gateway.greeting_within) = (seconds(4), seconds(5));
            (gateway.session_lifetime, gateway.detached_max) = (seconds(6), seconds(7));
        }));
        assert_eq!((changed.is_on, changed.tenant.as_str()), (false, "other"));
        assert_eq!((changed.workers_max, changed.frame_bytes_max), (3, 1 << 20));
        let spans = [changed.silence_max, changed.doubt_within, changed.cancel_within, changed.grace, changed.greeting_within];
        let spans = [spans.as_slice(), &[changed.session_lifetime, changed.detached_max]].concat();
        assert_eq!(spans.iter().map(Duration::as_secs).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn every_setting_of_the_broker_has_an_effect() {
        type Change = fn(&mut Settings);
        let changes: &[Change] = &[
            |s| s.nats.url = Some("nats://other:1".to_owned()),
            |s| s.nats.server.namespace = "x".to_owned(),
            |s| s.nats.stream.name = "x".to_owned(),
            |s| s.nats.stream.max_age = Span(Duration::from_secs(1)),
            |s| s.nats.stream.max_bytes.0 = 1,
            |s| s.nats.stream.replicas = 3,
            |s| s.nats.kv.bucket = "x".to_owned(),
            |s| s.nats.kv.response_bucket = "x".to_owned(),
            |s| s.nats.kv.ttl = Span(Duration::from_secs(1)),
            |s| s.nats.kv.max_bytes.0 = 1,
            |s| s.nats.audit.stream = "x".to_owned(),
            |s| s.nats.audit.max_age = Span(Duration::from_secs(1)),
            |s| s.nats.audit.max_bytes.0 = 1,
            |s| s.nats.logs.stream = "x".to_owned(),
            |s| s.nats.logs.max_age = Span(Duration::from_secs(1)),
            |s| s.nats.logs.max_bytes.0 = 1,
            |s| s.nats.registry.bucket = "x".to_owned(),
            |s| s.nats.registry.ttl = Span(Duration::from_secs(1)),
            |s| s.nats.facts.bucket = "x".to_owned(),
            |s| s.nats.facts.ttl = Span(Duration::from_secs(1)),
            |s| s.nats.facts.max_bytes.0 = 1,
            |s| s.nats.objects.bucket = "x".to_owned(),
            |s| s.nats.objects.max_age = Span(Duration::from_secs(1)),
            |s| s.nats.objects.max_bytes.0 = 1,
            |s| s.agent.queue_group = "x".to_owned(),
            |s| s.agent.consumer.max_deliver = 1,
            |s| s.agent.consumer.ack_wait = Span(Duration::from_secs(1)),
            |s| s.agent.consumer.max_ack_pending = 1,
            |s| s.agent.consumer.replay_policy = ReplayPolicy::Original,
        ];
        let printed = |settings: &Settings| format!("{:?}", store(settings, None, "x").unwrap());
        let before = printed(&with(|_| {}));
        for (idx, change) in changes.iter().enumerate() {
            assert_ne!(printed(&with(change)), before, "change {idx}");
        }
    }

    #[test]
    fn a_login_that_lacks_its_secret_is_refused_by_name() {
        let failure = store(&with(|s| s.nats.auth.kind = AuthKind::Token), None, "x").unwrap_err();
        assert!(failure.text().contains("nats.auth.token"), "{}", failure.text());
    }

    #[test]
    fn the_agent_and_the_controller_follow_their_settings() {
        let dir = tempfile::tempdir().unwrap();
        let change = |s: &mut Settings| {
            (s.agent.hostname, s.agent.max_jobs) = ("harbor".to_owned(), 3);
            s.agent.labels.insert("group".to_owned(), "web".to_owned());
            (s.agent.facts.interval, s.nats.facts.ttl) = (Span(Duration::from_secs(7)), Span(Duration::from_secs(8)));
            let conditions = &mut s.agent.conditions;
            (conditions.memory_pressure_threshold, conditions.disk_pressure_threshold) = (71, 72);
            conditions.high_load_multiplier = 0.73;
            (s.agent.workspace.jobs_dir, s.agent.workspace.workspaces_dir) = (Some("/srv/jobs".into()), Some("/srv/work".into()));
            s.agent.packages.dir = Some("/elsewhere".to_owned());
            s.agent.packages.python = "/usr/bin/python3.11".to_owned();
        };
        let config = agent(&with(change), dir.path()).unwrap();
        assert_eq!((config.hostname.as_deref(), config.max_jobs), (Some("harbor"), 3));
        assert_eq!(config.labels, vec!["group:web".parse().unwrap()]);
        assert_eq!(config.heartbeat_every, Duration::from_secs(10));
        assert_eq!((config.facts.every, config.facts.kept), (Duration::from_secs(7), Duration::from_secs(8)));
        assert_eq!(config.thresholds, Thresholds { memory_percent: 71, load_percent: 73, disk_percent: 72 });
        assert_eq!((config.jobs_dir, config.workspaces_dir), (Some("/srv/jobs".into()), Some("/srv/work".into())));
        let of = |dir: &Path, python: &str| Some(PackagesConfig { dir: dir.to_owned(), python: python.into() });
        assert_eq!(config.packages, of(Path::new("/elsewhere"), "/usr/bin/python3.11"));
        assert_eq!(agent(&with(|_| {}), dir.path()).unwrap().packages, of(&dir.path().join("packages"), "python3"));
        let key = || SigningKey::new(vec![7; 32]);
        let settings =
            with(|s| (s.controller.api.listen, s.controller.api.job_timeout) = ("127.0.0.1:1".to_owned(), Span(Duration::from_secs(9))));
        let config = controller(&settings, dir.path(), key(), "always").unwrap();
        assert_eq!((config.listen.port(), config.job_timeout, config.durability.as_str()), (1, Duration::from_secs(9), "always"));
        assert!(controller(&with(|s| s.controller.api.listen = "nowhere".to_owned()), dir.path(), key(), "always").is_err());
    }
}
