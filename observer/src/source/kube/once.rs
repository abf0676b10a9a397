//! What the API server is asked once, for an incident.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::follow::{chain, jitter};

/// How long it has for an answer.
const ANSWER: Duration = Duration::from_secs(20);
/// All peers of a node that falls ask about it: within this time, and not at once.
const SPREAD: Duration = Duration::from_secs(3);

/// Waits for this agent's turn.
pub(super) async fn turn() {
    sleep(jitter(SPREAD)).await;
}

/// The answer, or why there is none.
pub(super) async fn answer<T>(asked: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    let told = timeout(ANSWER, asked).await;
    told.map_err(|_| "the API server did not answer in time".to_owned())?
        .map_err(|error| chain(&error))
}
