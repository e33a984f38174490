//! Loads a configuration on a separate thread: a file system that does not respond, such as NFS, blocks only this
//! thread, and the error names the file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Loaded, Plan};
use crate::config::{Problems, Reading};

/// Time limit for reading one file.
const FILE_TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit for the complete configuration.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Reads and compiles a configuration; at a reload, with the running plan.
type Load = dyn Fn(&Reading, Option<&Plan>) -> Result<Loaded, Problems> + Send + Sync;

/// Starts loads of a configuration.
#[derive(Clone)]
pub struct Loader {
    path: PathBuf,
    load: Arc<Load>,
    file_timeout: Duration,
}

impl Loader {
    /// Creates a loader for the file at `path`. `load` reports in [`Reading`] which file it reads.
    #[must_use]
    pub fn new(
        path: &Path,
        load: impl Fn(&Reading, Option<&Plan>) -> Result<Loaded, Problems> + Send + Sync + 'static,
    ) -> Self {
        Self {
            path: path.to_owned(),
            load: Arc::new(load),
            file_timeout: FILE_TIMEOUT,
        }
    }

    /// Starts a thread that loads the configuration.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(&self, previous: Option<Arc<Plan>>) -> Result<Loading, Problems> {
        let reading = Reading::default();
        let (sender, done) = oneshot::channel();
        let (load, watched) = (self.load.clone(), reading.clone());
        std::thread::Builder::new()
            .name("configuration".to_owned())
            .spawn(move || {
                let loaded = load(&watched, previous.as_deref());
                drop(previous);
                // The receiver may be gone: the caller may have stopped waiting.
                let _ = sender.send(loaded);
            })
            .map_err(|error| Problems::unreadable(&self.path, format!("no thread to read it: {error}")))?;
        Ok(Loading {
            path: self.path.clone(),
            reading,
            file_timeout: self.file_timeout,
            started: Instant::now(),
            done,
            loaded: None,
        })
    }
}

/// A load in progress.
pub struct Loading {
    path: PathBuf,
    reading: Reading,
    file_timeout: Duration,
    started: Instant,
    done: oneshot::Receiver<Result<Loaded, Problems>>,
    loaded: Option<Result<Loaded, Problems>>,
}

impl Loading {
    /// Waits until the configuration is loaded. Cancel-safe: it can be called again.
    ///
    /// # Errors
    /// When a file does not respond in time; immediately if that happened in a previous call. The thread keeps
    /// waiting for the file.
    pub async fn ready(&mut self) -> Result<(), Problems> {
        while self.loaded.is_none() {
            let remaining = self.remaining();
            let limit = remaining.as_ref().copied().unwrap_or_default();
            match (tokio::time::timeout(limit, &mut self.done).await, remaining) {
                (Ok(Ok(loaded)), _) => self.loaded = Some(loaded),
                (Ok(Err(_)), _) => {
                    let bug = "the code that reads it panicked; please report it".to_owned();
                    self.loaded = Some(Err(self.problem(bug)));
                }
                (Err(_elapsed), Ok(_)) => {}
                (Err(_elapsed), Err(overdue)) => return Err(self.problem(overdue)),
            }
        }
        Ok(())
    }

    /// The result, once [`Loading::ready`] has returned.
    ///
    /// # Errors
    /// Every problem of the configuration.
    pub fn loaded(self) -> Result<Loaded, Problems> {
        let problem = self.problem("is not loaded yet".to_owned());
        self.loaded.unwrap_or(Err(problem))
    }

    /// The remaining time, or an error that names what has taken too long.
    fn remaining(&self) -> Result<Duration, String> {
        let left = |limit: Duration, taken| limit.checked_sub(taken).filter(|left| !left.is_zero());
        let file = match self.reading.current() {
            None => self.file_timeout,
            Some((file, taken)) => left(self.file_timeout, taken).ok_or_else(|| {
                let seconds = taken.as_secs();
                format!("the {file} has not answered for {seconds} s: check the file system it is on")
            })?,
        };
        let total = left(TIMEOUT, self.started.elapsed()).ok_or_else(|| {
            let seconds = TIMEOUT.as_secs();
            format!("could not be read and compiled within {seconds} s")
        })?;
        Ok(total.min(file))
    }

    fn problem(&self, message: String) -> Problems {
        Problems::unreadable(&self.path, message)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::channel;

    use super::*;

    #[tokio::test]
    async fn a_file_that_does_not_respond_is_named_immediately_the_second_time_and_may_respond_late() {
        let (answer, answers) = channel();
        let answers = Mutex::new(answers);
        let path = Path::new("/c.toml");
        let mut loader = Loader::new(path, move |reading, _| {
            reading.during("secret file /nfs/code".to_owned(), || {
                answers.lock().unwrap().recv().unwrap()
            });
            Err(Problems::unreadable(Path::new("/c.toml"), "read".to_owned()))
        });
        loader.file_timeout = Duration::from_millis(50);
        let mut loading = loader.start(None).unwrap();
        let words =
            "/c.toml: error: the secret file /nfs/code has not answered for 0 s: check the file system";
        for _ in 0..2 {
            let problems = loading.ready().await.unwrap_err().to_string();
            assert!(problems.starts_with(words), "{problems}");
            loading.file_timeout = Duration::ZERO;
        }
        answer.send(()).unwrap();
        while loading.ready().await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let problems = loading.loaded().err().unwrap().to_string();
        assert_eq!(problems, "/c.toml: error: read");
    }

    #[tokio::test]
    async fn a_panic_is_reported_as_a_problem() {
        let loader = Loader::new(Path::new("/c.toml"), |_, _| panic!("a bug"));
        let mut loading = loader.start(None).unwrap();
        loading.ready().await.unwrap();
        let problems = loading.loaded().err().unwrap().to_string();
        assert!(problems.contains("panicked; please report it"), "{problems}");
    }
}
