//! Tells the operator of problems, through the destinations of `[operator] notify`.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::control::Control;
use crate::store::Store;

/// Before the first look: problems that were reported in the last run and still exist must have appeared again.
const FIRST: Duration = Duration::from_secs(5);

/// Between two looks at the problems.
const LOOK: Duration = Duration::from_secs(5);

/// After a notice that could not be sent.
const AGAIN: Duration = Duration::from_secs(30);

/// Looks until stopped, and keeps the reported problems over a restart.
pub(super) async fn keep(control: Arc<Control>, store: Arc<dyn Store>, stop: CancellationToken) {
    let mut notices = store.notices().await.ok().flatten().unwrap_or_default();
    let mut pause = FIRST;
    while stop
        .run_until_cancelled(tokio::time::sleep(pause))
        .await
        .is_some()
    {
        let before = notices.clone();
        let looked = stop.run_until_cancelled(control.notify(&mut notices)).await;
        pause = match looked {
            Some(failed) if !failed.is_empty() => AGAIN,
            _ => LOOK,
        };
        if notices.is_worth_keeping_over(&before)
            && let Err(error) = store.set_notices(&notices).await
        {
            tracing::debug!("the reported problems were not recorded: {error}");
        }
    }
}
