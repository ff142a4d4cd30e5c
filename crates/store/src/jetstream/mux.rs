//! Many conversations over one subscription: for questions with more than one answer.
//!
//! A subscription of its own for every read would make the broker rebuild its routing twice each time. Not for pulls: what a stream
//! delivers comes under the subject it was stored with, which tells nothing of who asked.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_nats::{Client, Message};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

type Routes = Arc<Mutex<HashMap<u64, mpsc::UnboundedSender<Message>>>>;

/// The subscription.
pub(super) struct Mux {
    prefix: String,
    next: AtomicU64,
    routes: Routes,
    _reader: AbortOnDropHandle<()>,
}

/// One conversation. Its queue has no bound of its own: only what was asked for comes. Dropping it ends it.
pub(super) struct Route {
    token: u64,
    prefix: String,
    messages: mpsc::UnboundedReceiver<Message>,
    routes: Routes,
}

impl Mux {
    pub(super) async fn open(client: &Client) -> Result<Self, async_nats::SubscribeError> {
        let prefix = client.new_inbox();
        let mut subscription = client.subscribe(format!("{prefix}.*")).await?;
        let routes = Routes::default();
        let readers = Arc::clone(&routes);
        #[expect(clippy::disallowed_methods, reason = "the handle below owns the task")]
        let reader = tokio::spawn(async move {
            while let Some(message) = subscription.next().await {
                deliver(&readers, message);
            }
            lock(&readers).clear();
        });
        Ok(Self { prefix, next: AtomicU64::new(0), routes, _reader: AbortOnDropHandle::new(reader) })
    }

    /// Begins a conversation.
    pub(super) fn route(&self) -> Route {
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, messages) = mpsc::unbounded_channel();
        lock(&self.routes).insert(token, sender);
        Route { token, prefix: self.prefix.clone(), messages, routes: Arc::clone(&self.routes) }
    }
}

impl Route {
    /// Where answers are to go.
    pub(super) fn subject(&self) -> String {
        format!("{}.{}", self.prefix, self.token)
    }

    /// The next answer; `None` when the connection was closed for good. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Message> {
        self.messages.recv().await
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        lock(&self.routes).remove(&self.token);
    }
}

fn lock(routes: &Routes) -> std::sync::MutexGuard<'_, HashMap<u64, mpsc::UnboundedSender<Message>>> {
    routes.lock().expect("no holder of this lock panics")
}

/// Hands a message to its conversation; one that has ended wants no more.
fn deliver(routes: &Routes, message: Message) {
    let token = message.subject.rsplit('.').next().and_then(|token| token.parse().ok());
    if let Some(route) = token.and_then(|token: u64| lock(routes).get(&token).cloned()) {
        let _ = route.send(message);
    }
}
