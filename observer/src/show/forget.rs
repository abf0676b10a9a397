//! `peers forget`.

use std::path::Path;

use anyhow::Result;
use serde::Deserialize;

use crate::{
    cli::{Answer, ForgetArgs},
    client::Client,
    keeper::Forgotten,
    terminal::{self, plain},
};

#[derive(Deserialize)]
struct Answered {
    forgotten: Vec<Forgotten>,
}

/// Has the agent behind `socket` forget a peer.
pub fn forget(socket: &Path, args: &ForgetArgs) -> Result<Answer> {
    let answered: Answered = Client::new(socket)?.post(
        "/api/v1/peers/forget",
        &serde_json::json!({ "peer": args.peer, "node": args.node }),
    )?;
    for peer in answered.forgotten {
        terminal::print(&format!(
            "forgotten: {} -> {}\n",
            plain(&peer.node),
            plain(&peer.peer)
        ))?;
    }
    Ok(Answer::Done)
}
