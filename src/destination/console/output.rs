//! The thread that writes to standard output. A reader that has stopped blocks this thread and nothing else.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::sync::LazyLock;
use std::thread;

use tokio::sync::{mpsc, oneshot};

use crate::delivery::DeliveryId;

/// Standard output. The process has one, so all consoles share its thread, in every configuration: one that was
/// reloaded while the thread hangs does not get a second one.
pub(super) static STDOUT: LazyLock<io::Result<Output>> = LazyLock::new(|| {
    // Past the library's lock and buffer, so that nothing else waits for a write that hangs.
    Output::to(File::from(io::stdout().as_fd().try_clone_to_owned()?))
});

/// Writes lines whole, one after the other.
pub(super) struct Output(mpsc::Sender<Line>);

struct Line {
    id: DeliveryId,
    text: String,
    written: oneshot::Sender<io::Result<()>>,
}

impl Output {
    /// Starts the thread, which ends after the last use.
    pub(super) fn to(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, queue) = mpsc::channel(1);
        thread::Builder::new()
            .name("console".into())
            .spawn(move || write_all(queue, out))?;
        Ok(Self(lines))
    }

    /// Returns when the line is written. A caller that waits no longer takes it back, unless its write has begun.
    pub(super) async fn write(&self, id: DeliveryId, text: String) -> io::Result<()> {
        let ended = || io::Error::other("its thread has ended");
        let (written, answer) = oneshot::channel();
        let line = Line { id, text, written };
        self.0.send(line).await.map_err(|_| ended())?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }
}

fn write_all(mut lines: mpsc::Receiver<Line>, mut out: impl Write) {
    // The line that was written after its attempt had ended: its next attempt need not write it again.
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
