//! Notifies systemd of the daemon's state: ready, reloading, stopping, alive. Without systemd it does
//! nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// The daemon accepts messages.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The daemon reads the configuration again; [`ready`] ends this state.
pub fn reloading() {
    // Older systemd ignores the time; from 253 on, `Type=notify-reload` needs it.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

/// The daemon accepts no more messages.
pub fn stopping() {
    send(&[
        NotifyState::Stopping,
        NotifyState::Status("stopping: finishing attempts in progress"),
    ]);
}

/// A start or stop takes long, because the store is large or a delivery is slow.
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

/// How often [`alive`] must be called, if systemd asked for it: half of its timeout.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|timeout| timeout / 2)
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("systemd could not be notified: {error}");
    }
}
