//! What systemd is told: ready, reloading, stopping, alive. Without systemd nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;

/// Texts are taken.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The configuration is being read again; [`ready`] ends it.
pub fn reloading() {
    // Older systemd ignores the time; from 253 on, `Type=notify-reload` needs it.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

/// No more texts are taken.
pub fn stopping() {
    send(&[
        NotifyState::Stopping,
        NotifyState::Status("stopping: ending what is under way"),
    ]);
}

/// A long start or stop is going on: the store is large, or a delivery slow.
pub fn going_on(status: &str, extend_by: Duration) {
    let microseconds = u32::try_from(extend_by.as_micros()).unwrap_or(u32::MAX);
    send(&[
        NotifyState::ExtendTimeoutUsec(microseconds),
        NotifyState::Status(status),
    ]);
}

/// The daemon and its store are alive.
pub fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// How often [`alive`] must be said, if systemd asked for it: half of its patience.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|patience| patience / 2)
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("systemd could not be notified: {error}");
    }
}
