use super::*;
use crate::model::message::Conversation;

fn queue(conversation: u8) -> Queue {
    Queue {
        destination: "desk".parse().unwrap(),
        conversation: Conversation([conversation; 8]),
    }
}

fn place(seq: u64) -> Place {
    Place { seq, ordinal: 1 }
}

/// Due at this time, and pending since then.
fn due(at: i64) -> Times {
    Times {
        due: Timestamp(at),
        pending_since: Timestamp(at),
    }
}

/// The scheduled heads, as due time and sequence number.
fn scheduled(queues: &Queues) -> Vec<(i64, u64)> {
    let line = &queues.0[&queue(0).destination];
    let ready = line.ready.keys().map(|&(place, conversation)| {
        let due = line.waiting[&(conversation, place)].due.0;
        (due, Place::unpacked(place).seq)
    });
    let later = line
        .later
        .keys()
        .map(|&(due, place, _)| (due, Place::unpacked(place).seq));
    let mut all: Vec<_> = ready.chain(later).collect();
    all.sort_unstable();
    all
}

#[test]
fn only_heads_are_scheduled_and_the_next_one_follows() {
    let mut queues = Queues::default();
    queues.enqueue(&queue(1), place(2), due(20));
    queues.enqueue(&queue(1), place(3), due(-3));
    queues.enqueue(&queue(2), place(4), due(i64::MIN));
    assert_eq!(scheduled(&queues), [(i64::MIN, 4), (20, 2)]);
    queues.enqueue(&queue(1), place(1), due(30));
    assert_eq!(
        scheduled(&queues),
        [(i64::MIN, 4), (30, 1)],
        "it was accepted first"
    );
    queues.reschedule(&queue(1), place(3), due(7));
    queues.reschedule(&queue(1), place(1), due(31));
    queues.reschedule(&queue(9), place(9), due(0));
    assert_eq!(scheduled(&queues), [(i64::MIN, 4), (31, 1)]);
    queues.dequeue(&queue(1), place(2));
    queues.dequeue(&queue(1), place(1));
    queues.dequeue(&queue(1), place(1));
    assert_eq!(scheduled(&queues), [(i64::MIN, 4), (7, 3)]);
    queues.dequeue(&queue(1), place(3));
    queues.dequeue(&queue(2), place(4));
    assert!(scheduled(&queues).is_empty());
}

#[test]
fn a_claimed_delivery_is_not_scheduled_until_its_queue_is_free() {
    let mut queues = Queues::default();
    let desk = queue(0).destination;
    for (conversation, seq) in [(1, 1), (1, 2), (2, 3), (3, 4)] {
        queues.enqueue(&queue(conversation), place(seq), due(0));
    }
    let seqs = |slots: Vec<Slot>| slots.into_iter().map(|slot| slot.place.seq).collect::<Vec<_>>();
    let not_third = |slot: &Slot| slot.place.seq != 3;
    assert!(queues.take_due(&desk, Timestamp(-1), 9, |_| true).is_empty());
    assert_eq!(seqs(queues.take_due(&desk, Timestamp(0), 9, not_third)), [1, 4]);
    assert_eq!(scheduled(&queues), [(0, 3)]);
    queues.reschedule(&queue(3), place(4), due(5));
    queues.dequeue(&queue(1), place(1));
    assert_eq!(scheduled(&queues), [(0, 3)], "still claimed");
    for conversation in [1, 3] {
        queues.free(&queue(conversation));
    }
    assert_eq!(scheduled(&queues), [(0, 2), (0, 3), (5, 4)]);
    assert_eq!(seqs(queues.take_due(&desk, Timestamp(0), 1, |_| true)), [2]);
    queues.dequeue(&queue(1), place(2));
    queues.free(&queue(1));
    assert_eq!(scheduled(&queues), [(0, 3), (5, 4)], "its queue is empty");
}

#[test]
fn due_deliveries_are_claimed_in_the_order_of_acceptance() {
    let mut queues = Queues::default();
    let desk = queue(0).destination;
    for (conversation, seq, at) in [(1, 1, 30), (2, 2, 10), (3, 3, 20), (4, 4, 5)] {
        queues.enqueue(&queue(conversation), place(seq), due(at));
    }
    let mut take = |now, limit| {
        let slots = queues.take_due(&desk, now, limit, |_| true);
        let seqs: Vec<u64> = slots.iter().map(|slot| slot.place.seq).collect();
        slots.iter().for_each(|slot| queues.free(&slot.queue));
        (seqs, queues.next_due(&desk, now, |_| true))
    };
    let next = |due| Some(Timestamp(due));
    assert_eq!(take(Timestamp(4), 9), (vec![], next(5)));
    assert_eq!(take(Timestamp(20), 9), (vec![2, 3, 4], next(20)));
    assert_eq!(take(Timestamp(20), 1), (vec![2], next(20)));
    assert_eq!(take(Timestamp(9), 9), (vec![4], next(9)), "the clock went back");
    assert_eq!(take(Timestamp(4), 9), (vec![], next(5)));
    assert_eq!(take(ANY_TIME, 9).0, [1, 2, 3, 4]);
    assert_eq!(
        take(Timestamp(29), 9).0,
        [2, 3, 4],
        "a claim at any time makes nothing due"
    );
    assert_eq!(take(Timestamp(30), 2).0, [1, 2]);
}

#[test]
fn overdue_heads_are_taken_whether_or_not_they_are_due() {
    let mut queues = Queues::default();
    let desk = queue(0).destination;
    for (conversation, seq, due, since) in [
        (1, 1, 90, 30),
        (1, 2, 0, 10),
        (2, 3, 0, 10),
        (3, 4, 80, 20),
        (4, 5, 70, 10),
    ] {
        let times = Times {
            due: Timestamp(due),
            pending_since: Timestamp(since),
        };
        queues.enqueue(&queue(conversation), place(seq), times);
    }
    queues.take_due(&desk, Timestamp(0), 0, |_| true);
    let take = |queues: &mut Queues, since: RangeInclusive<i64>, limit| {
        let since = Timestamp(*since.start())..=Timestamp(*since.end());
        let taken = queues.take_overdue(&desk, &since, limit, |slot| slot.place.seq != 4);
        taken.iter().map(|slot| slot.place.seq).collect::<Vec<_>>()
    };
    assert_eq!(
        take(&mut queues, 11..=29, 9),
        [0; 0],
        "4 is not free, and 2 is not a head"
    );
    assert_eq!(take(&mut queues, 10..=20, 1), [3]);
    assert_eq!(take(&mut queues, 10..=30, 9), [1, 5]);
    assert_eq!(scheduled(&queues), [(80, 4)]);
    queues.dequeue(&queue(1), place(1));
    queues.free(&queue(1));
    assert_eq!(take(&mut queues, 10..=10, 9), [2]);
}

#[test]
fn once_a_destination_has_answered_the_next_of_the_conversation_is_the_head() {
    let mut queues = Queues::default();
    let desk = queue(0).destination;
    for seq in 1..=3 {
        queues.enqueue(&queue(1), place(seq), due(0));
    }
    let take = |queues: &mut Queues| {
        let slots = queues.take_due(&desk, Timestamp(0), 9, |_| true);
        slots.iter().map(|slot| slot.place.seq).collect::<Vec<_>>()
    };
    assert_eq!(take(&mut queues), [1]);
    assert!(queues.answer(&queue(1), place(1)));
    queues.free(&queue(1));
    assert_eq!(take(&mut queues), [2]);
    queues.dequeue(&queue(1), place(1));
    assert!(take(&mut queues).is_empty(), "the second is claimed");
    assert!(queues.answer(&queue(1), place(2)));
    queues.free(&queue(1));
    assert_eq!(take(&mut queues), [3]);
    assert!(!queues.answer(&queue(1), place(3)), "nothing follows");
    queues.dequeue(&queue(1), place(3));
    queues.dequeue(&queue(1), place(2));
    assert!(!queues.waits(&queue(1)));
}

#[test]
fn pending_and_dead_deliveries_are_listed_in_steps() {
    let mut queues = Queues::default();
    let desk = queue(0).destination;
    for seq in 1..=7 {
        queues.enqueue(&queue((seq % 3) as u8), place(seq), due(0));
        queues.add_dead(&desk, place(10 + seq));
    }
    queues.remove_dead(&desk, place(12));
    let all = |step: &dyn Fn(Option<Cursor>) -> Listed| {
        let (mut seqs, mut after) = (Vec::new(), None);
        loop {
            let (places, next) = step(after);
            seqs.extend(places.into_iter().map(|place| place.seq));
            after = next;
            if after.is_none() {
                seqs.sort_unstable();
                return seqs;
            }
        }
    };
    assert_eq!(
        all(&|after| queues.waiting_after(&desk, after, 2)),
        [1, 2, 3, 4, 5, 6, 7]
    );
    assert_eq!(
        all(&|after| queues.dead_after(&desk, after, 2)),
        [11, 13, 14, 15, 16, 17]
    );
    let seqs = |places: Vec<Place>| places.into_iter().map(|place| place.seq).collect::<Vec<_>>();
    assert_eq!(seqs(queues.waiting_before(&desk, place(6).packed(), 2)), [5, 4]);
    assert_eq!(seqs(queues.dead_before(&desk, place(14).packed(), 2)), [13, 11]);
    assert!(
        queues
            .dead_before(&"room".parse().unwrap(), u64::MAX, 2)
            .is_empty()
    );
}
