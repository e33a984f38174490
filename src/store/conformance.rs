//! The conformance suite, which runs against every store.

use std::time::Duration;

use super::*;
use crate::model::delivery::{Attempt, Verdict};
use crate::model::message::Message;
use crate::model::number::{Number, Pattern};

mod cases;

/// Later than any due time.
pub(super) const FAR: Timestamp = Timestamp(i64::MAX);

pub(super) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Message `n` from sender `from`, with deliveries to these destinations, received and due at `n`.
pub(super) fn arrival(n: u64, from: u64, destinations: &[&str]) -> Arrival {
    let id = MessageId(uuid::Uuid::from_u128(n.into()));
    let now = Timestamp(n.cast_signed());
    let message = Message {
        id,
        source: name("carrier"),
        provider_id: format!("ref-{n}"),
        from: Number::parse(&format!("+1303867{from:04}")).unwrap(),
        to: Number::parse("+13038670000").unwrap(),
        text: format!("text {n}"),
        media: Vec::new(),
        extra: [("carrier_field".to_owned(), "1".to_owned())].into(),
        received_at: now,
        routes: vec![name("all")],
        redacted_at: None,
    };
    let delivery = |(index, destination): (usize, &&str)| {
        let id = DeliveryId {
            message: id,
            ordinal: u16::try_from(index + 1).unwrap(),
        };
        Delivery::new(id, name(destination), Some(name("all")), now)
    };
    let deliveries = destinations.iter().enumerate().map(delivery).collect();
    Arrival {
        message,
        deliveries,
        dedup_since: Timestamp(i64::MIN),
    }
}

pub(super) async fn accept(store: &dyn Store, n: u64, from: u64, destinations: &[&str]) -> MessageId {
    let arrival = arrival(n, from, destinations);
    let id = arrival.message.id;
    assert_eq!(store.accept(arrival).await, Ok(Acceptance::New));
    id
}

pub(super) fn requeued(touched: u64) -> Requeued {
    Requeued {
        touched,
        ..Requeued::default()
    }
}

pub(super) fn discarded(touched: u64, claimed: u64) -> Discarded {
    Discarded { touched, claimed }
}

pub(super) async fn claim(store: &dyn Store, destination: &str, now: Timestamp) -> Vec<Claim> {
    store.claim(&name(destination), now, 100).await.unwrap()
}

pub(super) async fn claim_one(store: &dyn Store, destination: &str, now: Timestamp) -> Claim {
    let mut claims = store.claim(&name(destination), now, 1).await.unwrap();
    assert_eq!(claims.len(), 1, "one delivery is due at {destination}");
    claims.remove(0)
}

/// The numbers of the claimed messages.
pub(super) fn numbers(claims: &[Claim]) -> Vec<u128> {
    claims.iter().map(|claim| claim.message.id.0.as_u128()).collect()
}

pub(super) fn attempt(verdict: Verdict) -> Attempt {
    Attempt::new(Timestamp(1_000), Duration::from_millis(3), verdict, "answer")
}

pub(super) fn delivered(claim: &Claim) -> Settlement {
    let delivery = claim.delivery.clone().delivered(attempt(Verdict::Delivered));
    Settlement {
        token: claim.token,
        delivery,
        follow_ups: Vec::new(),
        thread: None,
    }
}

pub(super) fn again(claim: &Claim, due: Timestamp) -> Settlement {
    let delivery = claim.delivery.clone().retry(attempt(Verdict::Transient), due);
    Settlement {
        token: claim.token,
        delivery,
        follow_ups: Vec::new(),
        thread: None,
    }
}

pub(super) fn died(claim: &Claim) -> Settlement {
    let delivery = claim.delivery.clone().dead(
        Some(attempt(Verdict::Permanent)),
        Timestamp(1_000),
        "no such room",
    );
    Settlement {
        token: claim.token,
        delivery,
        follow_ups: Vec::new(),
        thread: None,
    }
}

async fn prune(store: &dyn Store, cutoffs: RetentionCutoffs) {
    for _ in 0..1_000 {
        if !store.prune(&cutoffs, Timestamp(9_999)).await.unwrap() {
            return;
        }
    }
    panic!("pruning does not end");
}

fn cutoffs() -> RetentionCutoffs {
    RetentionCutoffs {
        purge_before: None,
        redact_before: None,
        dedup_before: Timestamp(i64::MIN),
    }
}

pub(super) async fn assert_adds_up(store: &dyn Store) -> Counts {
    let counts = store.counts().await.unwrap();
    let Counts {
        created,
        delivered,
        dead,
        pending,
        purged,
        ..
    } = counts;
    assert_eq!(created, delivered + dead + pending + purged, "{counts:?}");
    counts
}

/// Runs the suite against the store that `$open` creates, together with the values that must live as long. `$when` is an
/// attribute of each test.
macro_rules! suite {
    ($when:meta, $module:ident, $open:expr) => {
        suite!(
            $when, $module, $open,
            an_accepted_message_is_found_and_claimed_as_it_was_received,
            a_duplicate_provider_id_is_stored_once,
            fifty_concurrent_duplicates_are_stored_once,
            a_provider_id_counts_only_within_the_window,
            of_two_messages_with_one_provider_id_the_last_counts,
            messages_without_a_provider_id_are_never_duplicates,
            a_message_without_destinations_is_kept,
            a_text_of_64_kib_is_stored_and_removed_completely,
            messages_of_a_conversation_are_claimed_in_order_one_at_a_time,
            a_later_message_never_overtakes_one_that_is_retried,
            one_destination_does_not_delay_another,
            due_deliveries_are_claimed_in_the_order_of_acceptance,
            a_claimed_delivery_is_not_claimed_again_until_released,
            next_due_is_the_time_of_the_next_claim,
            overdue_deliveries_are_claimed_by_their_age_alone,
            late_deliveries_are_handed_over_once_claimed_or_not,
            a_late_delivery_that_ends_meanwhile_is_not_handed_over,
            the_messages_behind_a_claimed_one_can_be_claimed_with_it,
            an_answered_delivery_lets_the_next_of_its_conversation_be_claimed,
            what_is_due_later_can_be_brought_forward,
            a_pending_delivery_reports_what_precedes_it,
            a_fallback_is_created_with_the_next_ordinal,
            a_pending_recipient_does_not_delay_others,
            a_delivery_that_no_recipient_accepted_becomes_that_of_its_first_recipient,
            recipients_that_fail_one_by_one_cause_one_fallback,
            a_destination_that_has_a_message_does_not_get_it_as_a_fallback,
            a_requeued_dead_letter_gets_its_original_position,
            pending_deliveries_are_requeued_but_not_claimed_or_ended_ones,
            a_due_time_too_far_ahead_is_brought_forward_with_its_date,
            the_clock_state_is_stored,
            the_states_of_destinations_are_stored,
            the_oldest_pending_delivery_is_that_of_the_first_message,
            discarding_skips_claimed_deliveries,
            ended_messages_are_counted_by_result,
            messages_without_a_delivery_are_counted,
            a_message_that_is_sent_again_is_not_counted_again,
            the_messages_of_the_last_hour_are_stored,
            the_told_problems_are_stored,
            acknowledged_deliveries_stay_dead_and_need_no_attention,
            a_successful_fallback_acknowledges_the_dead_delivery,
            a_message_that_a_fallback_delivered_is_delivered,
            a_resend_that_is_delivered_makes_up_for_the_dead_delivery,
            a_discarded_resend_of_a_delivered_message_leaves_it_delivered,
            all_dead_deliveries_are_those_that_need_attention,
            commands_apply_to_a_long_backlog,
            a_stored_message_can_be_resent,
            an_older_message_resent_later_is_claimed_before_newer_ones,
            backlogs_and_destinations_report_pending_deliveries,
            a_pause_is_stored_until_it_ends,
            a_thread_belongs_to_a_conversation_at_a_destination,
            pruning_keeps_pending_messages,
            redaction_removes_text_and_numbers_and_keeps_the_rest,
            a_redacted_message_is_not_requeued,
            messages_are_searched_newest_first_and_page_by_page,
            deliveries_are_listed_newest_first_and_page_by_page,
            large_messages_limit_pages_and_claims,
            concurrent_writers_lose_nothing,
            a_backup_contains_everything_accepted_before_it,
        );
    };
    ($when:meta, $module:ident, $open:expr, $($case:ident,)+) => {
        mod $module {
            $(
                #[$when]
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let (store, _keep) = $open;
                    crate::store::conformance::cases::$case(store).await;
                }
            )+
        }
    };
}

suite!(
    cfg(test),
    memory,
    (std::sync::Arc::new(crate::store::memory::Memory::new()), ())
);

suite!(cfg(test), sled, {
    let folder = tempfile::tempdir().unwrap();
    let options = crate::store::sled::Options::new(folder.path().join("store"), 0);
    (
        std::sync::Arc::new(crate::store::sled::Sled::open(&options).unwrap()),
        folder,
    )
});

suite!(ignore = "needs PostgreSQL: tests/run", postgres, {
    (crate::store::postgres::testing::fresh().await, ())
});
