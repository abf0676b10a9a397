//! A thread of its own for a task that computes: reading and the core keep a processor for milliseconds at a
//! time under load. Among the other tasks of one runtime they would keep it from looking at its descriptors,
//! also while another of its threads is idle, so that rings fill up and news come late.

use std::{future::Future, io, thread};

use anyhow::{Context, Result};
use tokio::{
    runtime::{Builder, EnterGuard, Runtime},
    sync::oneshot,
};

/// A thread that is to be.
#[derive(Debug)]
pub struct OwnThread {
    name: &'static str,
    runtime: Runtime,
}

/// A task that runs on its thread.
#[derive(Debug)]
pub struct Running<T> {
    name: &'static str,
    result: oneshot::Receiver<T>,
}

impl OwnThread {
    /// `name` is what the kernel shows (15 octets at most).
    pub fn new(name: &'static str) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.with_context(|| format!("cannot start the {name} thread"))?;
        Ok(Self { name, runtime })
    }

    /// What is registered with a runtime while the guard lives will be woken on this thread.
    pub fn enter(&self) -> EnterGuard<'_> {
        self.runtime.enter()
    }

    /// Starts it, for this one task.
    ///
    /// # Errors
    /// As pthread_create(3).
    pub fn run<T: Send + 'static>(
        self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> io::Result<Running<T>> {
        let Self { name, runtime } = self;
        let (answer, result) = oneshot::channel();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // Nobody may be waiting for the end.
                let _ = answer.send(runtime.block_on(task));
            })?;
        Ok(Running { name, result })
    }
}

impl<T> Running<T> {
    /// What the task came to; an error when it panicked.
    pub async fn end(self) -> Result<T> {
        let name = self.name;
        self.result
            .await
            .with_context(|| format!("the {name} thread failed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_runs_on_its_thread_and_says_how_it_ended() {
        let own = OwnThread::new("test-own").unwrap();
        let running = own.run(async { thread::current().name().map(str::to_owned) });
        let name = running.unwrap().end().await.unwrap();
        assert_eq!(name.as_deref(), Some("test-own"));
    }

    #[tokio::test]
    async fn a_panic_is_an_error_that_names_the_thread() {
        let own = OwnThread::new("test-own").unwrap();
        let running = own.run(async { panic!("as it happens") });
        let error: Result<()> = running.unwrap().end().await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("test-own"), "{error}");
    }
}
