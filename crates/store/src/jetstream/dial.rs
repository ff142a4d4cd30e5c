//! The connection itself: who we are to the broker, what its refusals mean, and how we come back when it was away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::{ConnectErrorKind, ConnectOptions, Event};
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::config::{Auth, Config};
use super::connect::ConnectError;
use super::{reconnect, tls};

/// How long a broker that is still starting is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects, waiting a few seconds for a broker that is still starting. `reconnects` is told of every connection from now on.
pub(super) async fn dial(config: &Config, reconnects: &broadcast::Sender<()>) -> Result<async_nats::Client, ConnectError> {
    let shown = without_credentials(&config.url);
    let servers: Vec<_> = config
        .url
        .split(',')
        .map(|url| url.trim().parse::<async_nats::ServerAddr>())
        .collect::<Result<_, _>>()
        .map_err(|fault| ConnectError::Connect { url: shown.clone(), reason: fault.to_string() })?;
    let deadline = Instant::now() + PATIENCE;
    let was_connected = Arc::new(AtomicBool::new(false));
    loop {
        let options = config.tls.apply(login(&config.auth)?).map_err(|fault| ConnectError::Tls { url: shown.clone(), fault })?;
        let options = lasting(options, config, was_connected.clone(), reconnects.clone());
        let fault = match options.connect(&servers[..]).await {
            Ok(client) => {
                was_connected.store(true, Ordering::Relaxed);
                return Ok(client);
            }
            Err(fault) => fault,
        };
        if let Some(refused) = refusal(&fault, config, &shown) {
            return Err(refused);
        }
        if Instant::now() >= deadline {
            return Err(ConnectError::Connect { url: shown, reason: fault.to_string() });
        }
        tokio::time::sleep(reconnect::delay(1, reconnect::random())).await;
    }
}

/// What asking again would not change: a wrong password does not become right.
fn refusal(fault: &async_nats::ConnectError, config: &Config, shown: &str) -> Option<ConnectError> {
    if let Some(tls) = tls::fault_of(fault) {
        return Some(ConnectError::Tls { url: shown.to_owned(), fault: tls });
    }
    let reason = fault.to_string();
    match fault.kind() {
        // The client could not sign with it: the broker was not asked.
        ConnectErrorKind::Authentication => {
            Some(ConnectError::Credentials(format!("{} of `nats.auth` cannot sign: it is damaged, or something else", config.auth.kind())))
        }
        ConnectErrorKind::AuthorizationViolation => {
            Some(ConnectError::NotLetIn { url: shown.to_owned(), shown: config.auth.kind(), reason: "authorization violation".to_owned() })
        }
        ConnectErrorKind::Tls => Some(ConnectError::Tls { url: shown.to_owned(), fault: tls::TlsFault::Other(reason) }),
        // In the broker's own words, such as "user authentication expired".
        ConnectErrorKind::Io if reason.to_lowercase().contains("authentication") => {
            Some(ConnectError::NotLetIn { url: shown.to_owned(), shown: config.auth.kind(), reason })
        }
        ConnectErrorKind::Io
        | ConnectErrorKind::ServerParse
        | ConnectErrorKind::Dns
        | ConnectErrorKind::TimedOut
        | ConnectErrorKind::MaxReconnects => None,
    }
}

fn login(auth: &Auth) -> Result<ConnectOptions, ConnectError> {
    Ok(match auth {
        Auth::None => ConnectOptions::new(),
        Auth::UserPassword { user, password } => ConnectOptions::with_user_and_password(user.clone(), password.clone()),
        Auth::Token(token) => ConnectOptions::with_token(token.clone()),
        Auth::NKey(seed) => ConnectOptions::with_nkey(seed.clone()),
        Auth::Creds(path) => {
            let bad = |problem: String| ConnectError::Credentials(format!("{} {problem}", path.display()));
            let text = std::fs::read_to_string(path).map_err(|fault| bad(format!("cannot be read: {fault}")))?;
            // The client's own words could quote the file.
            ConnectOptions::with_credentials(&text).map_err(|_| {
                bad("is no credentials file: it should hold a user JWT and its nkey seed, as `nsc generate creds` writes them".to_owned())
            })?
        }
    })
}

fn lasting(options: ConnectOptions, config: &Config, was_connected: Arc<AtomicBool>, reconnects: broadcast::Sender<()>) -> ConnectOptions {
    // The client asks how long to wait before its very first try as well, where nothing was lost and nobody is to be spread.
    let wait =
        move |attempt| if was_connected.load(Ordering::Relaxed) { reconnect::delay(attempt, reconnect::random()) } else { Duration::ZERO };
    options
        .name(&config.client_name)
        .custom_inbox_prefix(&config.inbox_prefix)
        .connection_timeout(Duration::from_secs(3))
        .ping_interval(Duration::from_secs(10))
        .max_reconnects(None)
        .reconnect_delay_callback(wait)
        .event_callback(move |event| {
            let reconnects = reconnects.clone();
            async move {
                match event {
                    Event::Connected => {
                        // Nobody listening is fine: this is a hint.
                        let _ = reconnects.send(());
                        tracing::info!("connected to the broker");
                    }
                    Event::Disconnected => tracing::warn!("lost the connection to the broker; trying again"),
                    // Such as a subject that our user may not use: whoever waits for it would wait without a word.
                    Event::ServerError(error) => tracing::warn!(%error, "the broker refuses something"),
                    other @ (Event::LameDuckMode | Event::Draining | Event::Closed | Event::SlowConsumer(_) | Event::ClientError(_)) => {
                        tracing::debug!(event = %other, "broker connection");
                    }
                }
            }
        })
}

fn without_credentials(url: &str) -> String {
    url.split(',')
        .map(|one| match (one.find("://"), one.rfind('@')) {
            (Some(scheme), Some(at)) if at > scheme => format!("{}://{}", &one[..scheme], &one[at + 1..]),
            _ => one.to_owned(),
        })
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_never_show_in_addresses() {
        assert_eq!(without_credentials("nats://u:p@host:1,nats://host:2"), "nats://host:1,nats://host:2");
    }
}
