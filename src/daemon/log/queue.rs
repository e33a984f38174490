//! The queue between the logging threads and the thread that writes. It is bounded; when it is full, lines
//! are dropped and counted, because a log that is not read must never delay a message.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use crate::metrics::log::Log;

/// Maximum number of queued lines, and of their bytes.
const LINES_MAX: usize = 10_000;
const BYTES_MAX: usize = 2 * 1024 * 1024;

/// The fraction of these limits that is reserved for errors and warnings.
const RESERVED: usize = 4;

/// Interval of reports about dropped lines while the queue never becomes empty.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

const LEVELS: [&str; 5] = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];

/// After a batch of so many lines more will follow. The thread lets them gather for this long, because each write, and
/// each wake-up of the thread, costs more than a line. While few lines come, each is written at once.
const CROWD: u64 = 8;
const GATHERING: Duration = Duration::from_millis(2);

/// Writes complete lines. It may block.
pub(super) type Sink = Box<dyn FnMut(&[u8]) -> io::Result<()> + Send>;

/// How many bytes of lines a sink accepts at each call.
#[derive(Clone, Copy)]
pub(super) enum Batch {
    /// One line, whatever its length.
    Line,
    /// Lines, until they have this length.
    Bytes(usize),
}

/// Accepts lines without ever blocking. Clones share one thread.
#[derive(Clone)]
pub(super) struct Queue(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Signals that there is a line for the thread.
    filled: Condvar,
    /// Signals that all lines are written.
    emptied: Condvar,
    log: Log,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Line>,
    bytes: usize,
    /// The thread waits for `filled`.
    idle: bool,
    /// The last write failed.
    broken: bool,
    /// Dropped lines by level, since the last report.
    dropped: [u64; LEVELS.len()],
    reported_at: Option<Instant>,
}

struct Line {
    level: usize,
    bytes: Box<[u8]>,
}

enum Task {
    Write(Lines),
    Report([u64; LEVELS.len()]),
}

/// Lines that are written at once, with their number by level.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    levels: [u64; LEVELS.len()],
}

impl Queue {
    /// Starts the thread, which lives as long as the process: it may hang in a write forever.
    pub(super) fn start(log: Log, place: &'static str, batch: Batch, sink: Sink) -> io::Result<Self> {
        log.goes_to(place, &LEVELS);
        let queue = Self(Arc::new(Shared {
            state: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            log,
        }));
        let shared = queue.0.clone();
        thread::Builder::new()
            .name("log".into())
            .spawn(move || shared.write_all(sink, batch))?;
        Ok(queue)
    }

    /// Queues a line, or drops it if the queue is full.
    pub(super) fn push(&self, level: Level, line: &[u8]) {
        let level = index(level);
        if !self.0.has_queued(level, line) {
            self.0.drop_lines(level, 1);
        }
    }

    /// Waits until everything is written, at most this long.
    pub(super) fn flush(&self, limit: Duration) {
        let is_busy = |state: &mut State| !state.is_done();
        // After the time limit, the remaining lines are lost with the process.
        let _ = self.0.emptied.wait_timeout_while(self.0.state(), limit, is_busy);
    }
}

impl State {
    fn is_done(&self) -> bool {
        self.lines.is_empty() && self.idle
    }

    fn has_room(&self, level: usize, bytes: usize) -> bool {
        let share = |most: usize| match level {
            0 | 1 => most,
            _ => most - most / RESERVED,
        };
        self.lines.len() < share(LINES_MAX) && self.bytes + bytes <= share(BYTES_MAX)
    }

    fn must_report(&self) -> bool {
        let is_time =
            self.lines.is_empty() || self.reported_at.is_none_or(|at| at.elapsed() >= REPORT_INTERVAL);
        !self.broken && is_time && self.dropped.iter().any(|&lines| lines > 0)
    }
}

impl Shared {
    fn has_queued(&self, level: usize, line: &[u8]) -> bool {
        let mut state = self.state();
        if !state.has_room(level, line.len()) {
            return false;
        }
        state.bytes += line.len();
        let bytes = line.into();
        state.lines.push_back(Line { level, bytes });
        // Waking a thread takes a system call, so it is done only if the thread sleeps.
        if state.idle {
            state.idle = false;
            self.filled.notify_one();
        }
        true
    }

    fn write_all(&self, mut sink: Sink, batch: Batch) {
        let mut lines = Lines::default();
        loop {
            match self.next(lines, batch) {
                Task::Report(dropped) => {
                    report(&dropped);
                    lines = Lines::default();
                }
                Task::Write(written) => {
                    lines = written;
                    self.write(&lines, &mut sink);
                    if lines.levels.iter().sum::<u64>() >= CROWD {
                        thread::sleep(GATHERING);
                    }
                }
            }
        }
    }

    fn write(&self, lines: &Lines, sink: &mut Sink) {
        self.log.writing(true);
        let written = sink(&lines.bytes);
        self.log.writing(false);
        self.state().broken = written.is_err();
        if written.is_err() {
            let counts = lines.levels.iter().enumerate().filter(|(_, count)| **count > 0);
            counts.for_each(|(level, count)| self.drop_lines(level, *count));
        }
    }

    /// The next lines. Before them, a report of dropped lines: once the queued lines are written, and not while
    /// writes fail, because each report would cause the next.
    fn next(&self, mut lines: Lines, batch: Batch) -> Task {
        lines.bytes.clear();
        lines.levels = Default::default();
        let mut state = self.state();
        loop {
            if state.must_report() {
                state.reported_at = Some(Instant::now());
                return Task::Report(std::mem::take(&mut state.dropped));
            }
            while let Some(line) = state.lines.front()
                && (lines.bytes.is_empty()
                    || matches!(batch, Batch::Bytes(most) if lines.bytes.len() + line.bytes.len() <= most))
            {
                lines.bytes.extend_from_slice(&line.bytes);
                lines.levels[line.level] += 1;
                state.bytes -= line.bytes.len();
                state.lines.pop_front();
            }
            if !lines.bytes.is_empty() {
                return Task::Write(lines);
            }
            state.idle = true;
            self.emptied.notify_all();
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn drop_lines(&self, level: usize, count: u64) {
        self.state().dropped[level] += count;
        self.log.dropped(LEVELS[level], count);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs how many lines were dropped. It is an error if an error was among them, so that `level` cannot hide
/// it.
fn report(dropped: &[u64; LEVELS.len()]) {
    let total: u64 = dropped.iter().sum();
    let by_level = LEVELS.iter().zip(dropped).filter(|(_, lines)| **lines > 0);
    let by_level: Vec<String> = by_level
        .map(|(level, lines)| format!("{lines} {level}"))
        .collect();
    let by_level = by_level.join(", ");
    if dropped[0] > 0 {
        tracing::error!("{total} log lines were dropped because they could not be written: {by_level}");
    } else {
        tracing::warn!("{total} log lines were dropped because they could not be written: {by_level}");
    }
}

fn index(level: Level) -> usize {
    match level {
        Level::ERROR => 0,
        Level::WARN => 1,
        Level::INFO => 2,
        Level::DEBUG => 3,
        Level::TRACE => 4,
    }
}

/// Queues each event that a formatter writes, as one line of its level.
impl<'q> MakeWriter<'q> for Queue {
    type Writer = OneLine<'q>;

    fn make_writer(&'q self) -> Self::Writer {
        OneLine(self, Level::INFO)
    }

    fn make_writer_for(&'q self, metadata: &Metadata<'_>) -> Self::Writer {
        OneLine(self, *metadata.level())
    }
}

/// A formatter writes a whole event at once.
pub(super) struct OneLine<'q>(&'q Queue, Level);

impl io::Write for OneLine<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(self.1, line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A queue whose sink accepts one line for each permit, and the channel where these lines arrive.
    fn held() -> (Queue, mpsc::Sender<io::Result<()>>, mpsc::Receiver<Vec<u8>>, Log) {
        let (permits, permit) = mpsc::channel();
        let (written, lines) = mpsc::channel();
        let log = Log::default();
        let sink = move |line: &[u8]| {
            permit.recv().unwrap_or(Ok(()))?;
            written.send(line.to_vec()).map_err(io::Error::other)
        };
        let queue = Queue::start(log.clone(), "a test", Batch::Line, Box::new(sink)).unwrap();
        (queue, permits, lines, log)
    }

    fn waits(queue: &Queue) -> (usize, usize) {
        let state = queue.0.state();
        (state.lines.len(), state.bytes)
    }

    #[test]
    fn a_sink_that_hangs_blocks_no_caller_and_queued_lines_are_bounded() {
        let (queue, permits, lines, log) = held();
        let started = Instant::now();
        for _ in 0..2 * LINES_MAX {
            queue.push(Level::INFO, b"info");
        }
        assert!(
            started.elapsed() < Duration::from_secs(2),
            "{:?}",
            started.elapsed()
        );
        let (waiting, _) = waits(&queue);
        assert_eq!(waiting, LINES_MAX - LINES_MAX / RESERVED);
        queue.push(Level::ERROR, b"error");
        assert_eq!(waits(&queue).0, waiting + 1, "errors have a share of their own");
        assert!(log.problem().unwrap().contains("lines were dropped"));
        queue.flush(Duration::from_millis(50));
        drop(permits);
        queue.flush(Duration::from_secs(10));
        let written: Vec<Vec<u8>> = lines.try_iter().collect();
        assert!(
            written.len() > waiting && written.last().unwrap() == b"error",
            "{}",
            written.len()
        );
        assert_eq!(waits(&queue), (0, 0));
    }

    #[test]
    fn long_lines_are_bounded_by_their_bytes() {
        let (queue, permits, _lines, _) = held();
        let line = vec![b'x'; 64 * 1024];
        for _ in 0..100 {
            queue.push(Level::ERROR, &line);
        }
        let (_, bytes) = waits(&queue);
        assert!(bytes <= BYTES_MAX && bytes + line.len() > BYTES_MAX, "{bytes}");
        drop(permits);
    }

    #[test]
    fn a_failed_write_is_counted_and_the_next_line_is_written() {
        let (queue, permits, lines, log) = held();
        queue.push(Level::INFO, b"lost");
        queue.push(Level::INFO, b"kept");
        permits.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
        permits.send(Ok(())).unwrap();
        queue.flush(Duration::from_secs(10));
        assert_eq!(lines.try_iter().collect::<Vec<_>>(), [b"kept"]);
        assert!(log.problem().unwrap().contains("1 line was dropped"));
    }

    #[test]
    fn lines_that_come_fast_are_written_together_and_in_order() {
        let (permits, permit) = mpsc::channel::<()>();
        let (written, batches) = mpsc::channel();
        let sink = move |lines: &[u8]| {
            let _ = permit.recv();
            written.send(lines.to_vec()).map_err(io::Error::other)
        };
        let queue = Queue::start(Log::default(), "a test", Batch::Bytes(64), Box::new(sink)).unwrap();
        let lines: Vec<String> = (100..140).map(|number| format!("line {number}\n")).collect();
        for line in &lines {
            queue.push(Level::INFO, line.as_bytes());
        }
        drop(permits);
        queue.flush(Duration::from_secs(10));
        let batches: Vec<Vec<u8>> = batches.try_iter().collect();
        assert_eq!(batches.concat(), lines.concat().as_bytes());
        assert!(batches.len() < 12, "{}", batches.len());
        let is_whole = |batch: &Vec<u8>| batch.len() <= 64 && batch.ends_with(b"\n");
        assert!(batches.iter().all(is_whole));
    }
}
