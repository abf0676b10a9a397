//! The agent's log on standard error.

use std::io::{self, IsTerminal};

use anyhow::Result;
use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::LevelFilter, fmt, layer::SubscriberExt, reload,
    util::SubscriberInitExt,
};

use crate::{cli::BadUsage, config::LogFormat};

/// Changes the filter of the running log.
#[derive(Clone, Debug)]
pub struct LogFilter {
    handle: reload::Handle<EnvFilter, Registry>,
}

impl LogFilter {
    /// Logs by `filter` from now on.
    pub fn set(&self, filter: &str) -> Result<()> {
        self.handle.reload(parse(filter)?)?;
        Ok(())
    }
}

/// Starts the log. The journal stamps lines itself, so they carry no time there; colours are for
/// terminals only.
pub fn start(format: LogFormat, filter: &str) -> Result<LogFilter> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let lines = fmt::layer()
        .with_writer(io::stderr)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal() && format == LogFormat::Text && !journal);
    let lines: Box<dyn Layer<_> + Send + Sync> = match (format, journal) {
        (LogFormat::Json, _) => lines.json().flatten_event(true).boxed(),
        (LogFormat::Text, true) => lines.without_time().boxed(),
        (LogFormat::Text, false) => lines.boxed(),
    };
    // A second start within one process (tests) keeps the first log.
    let _ = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init();
    Ok(LogFilter { handle })
}

fn parse(filter: &str) -> Result<EnvFilter> {
    // A bare word that is no level would be taken for a module's name and silence all others.
    let bare = !filter.contains(['=', ',', '[']);
    if bare && filter.parse::<LevelFilter>().is_err() {
        return Err(BadUsage(format!(
            "--log '{filter}': no such level; try error, warn, info, debug or trace"
        ))
        .into());
    }
    EnvFilter::try_new(filter).map_err(|error| {
        BadUsage(format!(
            "--log '{filter}': {error}; try error, warn, info, debug, trace or info,observer=debug"
        ))
        .into()
    })
}
