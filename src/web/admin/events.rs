//! `GET /api/v1/events`: changes as server-sent events, for the page and other clients.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use http::{Method, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use warp::reply::{Reply as _, Response};
use warp::sse;

use super::Call;
use crate::engine::events::{Event, Events};
use crate::web::{error, method_not_allowed};

/// Upper bound of the streams. Each holds one of the listener's connections, and other requests need some, too.
const STREAMS_MAX: usize = 32;

/// Interval of keep-alive comments, so that proxies do not close an idle stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Maximum duration of a stream. Browsers then reconnect, which fails if they were logged out in the meantime.
const LIFE: Duration = Duration::from_secs(15 * 60);

/// The delay before a browser reconnects.
const RETRY: Duration = Duration::from_secs(2);

/// Creates the streams of one listener.
pub struct Watching {
    events: Events,
    stop: CancellationToken,
    places: Arc<Semaphore>,
}

impl Watching {
    /// Streams of these events that end at `stop`, because the listener waits for its connections.
    #[must_use]
    pub fn new(events: Events, stop: CancellationToken) -> Self {
        Self {
            events,
            stop,
            places: Arc::new(Semaphore::new(STREAMS_MAX)),
        }
    }

    pub(super) fn answer(&self, call: &Call) -> Response {
        if call.is_change() {
            return method_not_allowed("GET, HEAD");
        }
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let what = "too many event streams are open: close some pages";
            return error(StatusCode::SERVICE_UNAVAILABLE, what);
        };
        if call.method == Method::HEAD {
            return sse::reply(stream::empty::<Result<sse::Event, Infallible>>()).into_response();
        }
        let watch = Watch {
            news: self.events.subscribe(),
            stop: self.stop.clone(),
            ends: Instant::now() + LIFE,
            greeted: false,
            _place: place,
        };
        sse::reply(sse::keep_alive().interval(KEEP_ALIVE).stream(watch.stream())).into_response()
    }
}

/// One stream.
struct Watch {
    news: broadcast::Receiver<Event>,
    stop: CancellationToken,
    ends: Instant,
    greeted: bool,
    _place: OwnedSemaphorePermit,
}

impl Watch {
    fn stream(self) -> impl Stream<Item = Result<sse::Event, Infallible>> + Send + Sync + 'static {
        stream::unfold(self, |mut watch| async move {
            let event = watch.next().await?;
            Some((Ok(event), watch))
        })
    }

    /// The first event is sent immediately: it shows the browser that the stream works, so that it loads what it
    /// missed.
    async fn next(&mut self) -> Option<sse::Event> {
        if !std::mem::replace(&mut self.greeted, true) {
            return Some(sse::Event::default().comment("listening").retry(RETRY));
        }
        let heard = tokio::select! {
            biased;
            () = self.stop.cancelled() => return None,
            () = tokio::time::sleep_until(self.ends) => return None,
            heard = self.news.recv() => heard,
        };
        match heard {
            Ok(event) => sse::Event::default().event(event.kind()).json_data(event).ok(),
            // The number of missed events does not matter: the client has to reload everything.
            Err(broadcast::error::RecvError::Lagged(_)) => {
                Some(sse::Event::default().event("lagged").data("{}"))
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    fn watch(events: &Events, stop: &CancellationToken) -> Watch {
        Watch {
            news: events.subscribe(),
            stop: stop.clone(),
            ends: Instant::now() + LIFE,
            greeted: false,
            _place: Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap(),
        }
    }

    #[tokio::test]
    async fn a_slow_reader_gets_a_lagged_event_and_the_stream_ends_with_the_daemon() {
        let (events, stop) = (Events::default(), CancellationToken::new());
        let mut stream = Box::pin(watch(&events, &stop).stream());
        let greeting = stream.next().await.unwrap().unwrap().to_string();
        assert!(greeting.contains("retry:2000"), "{greeting}");
        (0..1000).for_each(|_| events.publish(|| Event::Reload {}));
        let lagged = stream.next().await.unwrap().unwrap().to_string();
        assert!(lagged.starts_with("event:lagged"), "{lagged}");
        let next = stream.next().await.unwrap().unwrap().to_string();
        assert!(next.starts_with("event:reload"), "{next}");
        stop.cancel();
        assert!(stream.next().await.is_none(), "the remaining events are dropped");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_does_not_outlive_its_login_for_long() {
        let (events, stop) = (Events::default(), CancellationToken::new());
        let mut stream = Box::pin(watch(&events, &stop).stream());
        stream.next().await;
        let began = Instant::now();
        assert!(stream.next().await.is_none());
        assert_eq!(began.elapsed(), LIFE);
    }
}
