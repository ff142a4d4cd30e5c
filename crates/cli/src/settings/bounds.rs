//! What a value must lie between, where its type alone would let more through.

use std::time::Duration;

use longshore_model::limits::{BACKOFF_STEPS_MAX, LABELS_MAX};

use super::schema::Settings;

/// The shortest time that anything is kept or claimed for. The broker keeps no time in smaller steps.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest: the broker counts nanoseconds in 63 bits.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// The longest usual wait between two attempts, so that a job's records outlive its attempts.
const BACKOFF_LONGEST: Duration = Duration::from_secs(3600);
/// The rarest that a host is looked at.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// The most bytes of one stream, so that all of them together still have a number in the broker's own limit.
const LARGEST: u64 = 1 << 56;
/// The most executions of one agent at once.
const JOBS_MAX: usize = 10_000;
/// The most workers of one controller's gateway.
const WORKERS_MAX: usize = 100_000;
/// The smallest bound of a worker's frames: what may be read before one was let in.
const MESSAGE_SMALLEST: u64 = 64 << 10;
/// The largest: half of what is kept aside of one worker.
const MESSAGE_LARGEST: u64 = 32 << 20;
/// The most copies that NATS keeps of a stream.
const REPLICAS_MAX: usize = 5;

/// The first key whose value is out of its bounds, and what it takes.
pub(super) fn check(settings: &Settings) -> Result<(), (&'static str, String)> {
    let Settings { nats, controller, agent } = settings;
    for (key, span) in [
        ("nats.stream.max_age", nats.stream.max_age),
        ("nats.kv.ttl", nats.kv.ttl),
        ("nats.logs.max_age", nats.logs.max_age),
        ("nats.audit.max_age", nats.audit.max_age),
        ("nats.registry.ttl", nats.registry.ttl),
        ("nats.facts.ttl", nats.facts.ttl),
        ("nats.objects.max_age", nats.objects.max_age),
        ("controller.api.job_timeout", controller.api.job_timeout),
        ("agent.consumer.ack_wait", agent.consumer.ack_wait),
    ] {
        within(key, &span.0, SHORTEST..=LONGEST, "1s to 100 years")?;
    }
    for (key, size) in [
        ("nats.stream.max_bytes", nats.stream.max_bytes),
        ("nats.kv.max_bytes", nats.kv.max_bytes),
        ("nats.dlq.max_bytes", nats.dlq.max_bytes),
        ("nats.logs.max_bytes", nats.logs.max_bytes),
        ("nats.audit.max_bytes", nats.audit.max_bytes),
        ("nats.facts.max_bytes", nats.facts.max_bytes),
        ("nats.objects.max_bytes", nats.objects.max_bytes),
    ] {
        within(key, &size.0, 1..=LARGEST, "1 to 2^56 bytes")?;
    }
    if let Some(letters) = nats.dlq.max_age {
        let shortest = nats.kv.ttl.0;
        within("nats.dlq.max_age", &letters.0, shortest..=LONGEST, "no less than `nats.kv.ttl`: a letter must not go before its job does")?;
    }
    if nats.stream.subjects.strip_suffix(".>").is_none_or(str::is_empty) {
        return Err(("nats.stream.subjects", format!("{:?} is not of the form it takes: PREFIX.>, such as jobs.>", nats.stream.subjects)));
    }
    for (key, given, other, missing) in [
        ("nats.tls.cert", nats.tls.cert.is_some(), "nats.tls.key", nats.tls.key.is_none()),
        ("nats.tls.key", nats.tls.key.is_some(), "nats.tls.cert", nats.tls.cert.is_none()),
    ] {
        if given && missing {
            return Err((key, format!("it takes `{other}` beside it: a certificate and its key belong together")));
        }
    }
    let back_off = &agent.consumer.back_off;
    within("agent.consumer.back_off", &back_off.len(), 1..=BACKOFF_STEPS_MAX, "1 to 32 waits")?;
    for wait in back_off {
        within("agent.consumer.back_off", &wait.0, Duration::ZERO..=BACKOFF_LONGEST, "waits of up to 1h")?;
    }
    within("nats.stream.replicas", &nats.stream.replicas, 1..=REPLICAS_MAX, "1 to 5")?;
    let conditions = &agent.conditions;
    within("agent.facts.interval", &agent.facts.interval.0, SHORTEST..=DAY, "1s to 24h")?;
    within("agent.conditions.memory_pressure_threshold", &conditions.memory_pressure_threshold, 1..=100, "1 to 100")?;
    within("agent.conditions.disk_pressure_threshold", &conditions.disk_pressure_threshold, 1..=100, "1 to 100")?;
    within("agent.conditions.high_load_multiplier", &conditions.high_load_multiplier, 0.01..=1000.0, "0.01 to 1000")?;
    for (key, directory) in
        [("agent.workspace.jobs_dir", &agent.workspace.jobs_dir), ("agent.workspace.workspaces_dir", &agent.workspace.workspaces_dir)]
    {
        if let Some(relative) = directory.as_ref().filter(|directory| !directory.is_absolute()) {
            return Err((key, format!("{} is out of bounds: it takes an absolute path", relative.display())));
        }
    }
    within("agent.max_jobs", &agent.max_jobs, 1..=JOBS_MAX, "1 to 10000")?;
    let gateway = &controller.gateway;
    within("controller.gateway.tenant", &gateway.tenant.len(), 1..=255, "1 to 255 bytes")?;
    within("controller.gateway.max_workers", &gateway.max_workers, 1..=WORKERS_MAX, "1 to 100000")?;
    within("controller.gateway.max_message", &gateway.max_message.0, MESSAGE_SMALLEST..=MESSAGE_LARGEST, "64KiB to 32MiB")?;
    for (key, span, shortest) in [
        ("controller.gateway.greeting_within", gateway.greeting_within, SHORTEST),
        ("controller.gateway.session_lifetime", gateway.session_lifetime, SHORTEST),
        ("controller.gateway.silence_max", gateway.silence_max, SHORTEST),
        ("controller.gateway.detached_max", gateway.detached_max, SHORTEST),
        ("controller.gateway.doubt_within", gateway.doubt_within, Duration::ZERO),
        ("controller.gateway.cancel_within", gateway.cancel_within, Duration::ZERO),
        ("controller.gateway.grace", gateway.grace, Duration::ZERO),
    ] {
        within(key, &span.0, shortest..=DAY, if shortest.is_zero() { "up to 24h" } else { "1s to 24h" })?;
    }
    let tls = &gateway.tls;
    for (key, is_given, other, is_missing) in [
        ("controller.gateway.tls.listen", tls.listen.is_some(), "controller.gateway.tls.cert", tls.cert.is_none()),
        ("controller.gateway.tls.listen", tls.listen.is_some(), "controller.gateway.tls.key", tls.key.is_none()),
        ("controller.gateway.tls.cert", tls.cert.is_some(), "controller.gateway.tls.listen", tls.listen.is_none()),
        ("controller.gateway.tls.key", tls.key.is_some(), "controller.gateway.tls.listen", tls.listen.is_none()),
        ("controller.gateway.tls.client_ca", tls.client_ca.is_some(), "controller.gateway.tls.listen", tls.listen.is_none()),
    ] {
        if is_given && is_missing {
            return Err((key, format!("it takes `{other}` beside it: an address, a certificate and its key belong together")));
        }
    }
    let unfit = |key: &'static str| move |error: longshore_seal::KeyError| (key, error.to_string());
    if let Some(text) = &controller.jobs.sealing_key {
        longshore_seal::SealingKey::parse(text).map_err(unfit("controller.jobs.sealing_key"))?;
    }
    if let Some(text) = &agent.jobs.trusted_keys {
        longshore_seal::TrustedKeys::parse(&text.replace(',', "\n")).map_err(unfit("agent.jobs.trusted_keys"))?;
    }
    controller.api.security.roles().map_err(|error| ("controller.api.security.roles", error.to_string()))?;
    for origin in &controller.api.security.cors.allow_origins {
        longshore_controller::is_origin(origin).map_err(|message| ("controller.api.security.cors.allow_origins", message))?;
    }
    match agent.labels() {
        Err(error) => return Err(("agent.labels", error.to_string())),
        Ok(labels) if labels.len() > LABELS_MAX => {
            return Err(("agent.labels", format!("{} are too many: at most {LABELS_MAX}", labels.len())));
        }
        Ok(_) => {}
    }
    for (key, number) in
        [("agent.consumer.max_deliver", agent.consumer.max_deliver), ("agent.consumer.max_ack_pending", agent.consumer.max_ack_pending)]
    {
        // Nought would mean a default of the broker's own.
        if number < -1 || number == 0 {
            return Err((key, format!("{number} is out of bounds: it takes 1 or more, or -1 for no bound")));
        }
    }
    Ok(())
}

fn within<T: PartialOrd + std::fmt::Debug>(
    key: &'static str,
    value: &T,
    bounds: std::ops::RangeInclusive<T>,
    words: &str,
) -> Result<(), (&'static str, String)> {
    if bounds.contains(value) { Ok(()) } else { Err((key, format!("{value:?} is out of bounds: it takes {words}"))) }
}
