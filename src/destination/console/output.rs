//! The thread that writes to standard output. A reader that has stopped blocks only this thread.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::sync::LazyLock;
use std::thread;

use tokio::sync::{mpsc, oneshot};

use crate::model::delivery::DeliveryId;

/// Standard output. There is one per process, so the consoles of all configurations share one thread. A reload while
/// the thread hangs does not start a second one.
pub(super) static STDOUT: LazyLock<io::Result<Output>> = LazyLock::new(|| {
    // A separate descriptor without the lock and the buffer of the standard library, so that a write that hangs
    // blocks nothing else.
    Output::to(File::from(io::stdout().as_fd().try_clone_to_owned()?))
});

/// Writes complete lines one after the other.
pub(super) struct Output(mpsc::Sender<Line>);

struct Line {
    id: DeliveryId,
    text: String,
    written: oneshot::Sender<io::Result<()>>,
}

impl Output {
    /// Starts the thread. It ends when the last `Output` is dropped.
    pub(super) fn to(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, queue) = mpsc::channel(1);
        thread::Builder::new()
            .name("console".into())
            .spawn(move || write_all(queue, out))?;
        Ok(Self(lines))
    }

    /// Writes a line and waits until it is written. If the caller stops waiting, the line is dropped unless its write
    /// has begun.
    pub(super) async fn write(&self, id: DeliveryId, text: String) -> io::Result<()> {
        let ended = || io::Error::other("its thread has ended");
        let (written, answer) = oneshot::channel();
        let line = Line { id, text, written };
        self.0.send(line).await.map_err(|_| ended())?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }
}

fn write_all(mut lines: mpsc::Receiver<Line>, mut out: impl Write) {
    // The line that was written after its attempt had timed out: the next attempt must not write it again.
    let mut written_late = None;
    while let Some(line) = lines.blocking_recv() {
        if line.written.is_closed() {
            continue;
        }
        let written = if written_late.take_if(|late| *late == line.id).is_some() {
            Ok(())
        } else {
            out.write_all(line.text.as_bytes()).and_then(|()| out.flush())
        };
        if let Err(Ok(())) = line.written.send(written) {
            written_late = Some(line.id);
        }
    }
}
