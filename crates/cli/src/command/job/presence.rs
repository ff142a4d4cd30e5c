//! Tells people that the controller does not answer while something waits for it, and that it is back.
//!
//! Whoever waits goes on trying by itself and stays silent meanwhile; a job that says nothing looks the same as a controller that is gone.

use std::convert::Infallible;
use std::time::Duration;

use longshore_client::{Client, Error};

use crate::output::Output;

/// How often it is asked for.
const EVERY: Duration = Duration::from_secs(3);
/// An answer that takes longer counts as none.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// Does `work` and tells, while it goes on, when the controller is lost and when it is back.
pub(crate) async fn telling<T>(out: &Output, client: &Client, work: impl Future<Output = T>) -> T {
    tokio::select! {
        done = work => done,
        never = tell(out, client) => match never {},
    }
}

async fn tell(out: &Output, client: &Client) -> Infallible {
    let mut is_there = true;
    loop {
        tokio::time::sleep(EVERY).await;
        let was_there = std::mem::replace(&mut is_there, answers(client).await);
        match (was_there, is_there) {
            (true, false) => out.say(format!("the controller at {} does not answer; still trying", client.url())),
            (false, true) => out.say(format!("the controller at {} answers again", client.url())),
            (true, true) | (false, false) => {}
        }
    }
}

/// Any answer will do: one that is not ready, or not allowed, says so to whoever waits.
async fn answers(client: &Client) -> bool {
    match tokio::time::timeout(ANSWERS_WITHIN, client.ready()).await {
        Ok(Ok(_) | Err(Error::Problem(_) | Error::Protocol { .. } | Error::Config { .. })) => true,
        Ok(Err(Error::Unreachable { .. })) | Err(_) => false,
    }
}
