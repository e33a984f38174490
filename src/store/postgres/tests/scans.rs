//! The cost of statements in a database with many rows.

use super::super::claim::{NEXT, NEXT_DUE};
use super::super::testing::{database, open};
use super::super::*;
use super::nodes::base;
use crate::store::conformance::{accept, name};

/// 200 000 deliveries: most of them delivered, 40 000 pending behind the first ones of their queues, 9 000 delayed, 500
/// dead.
const FILL: &str = "
    INSERT INTO message (id, seq, source, sender, receiver, folded, received_at, disposition, record)
    SELECT md5(n::text)::uuid, n, 'carrier', '+1303867' || n % 5000, '+13038670000', '', n, 0, repeat('x', 300)::bytea
    FROM generate_series(10, 200009) n;
    INSERT INTO delivery (message, ordinal, seq, destination, conversation, queue, stage, due_at, pending_since, record)
    SELECT md5(n::text)::uuid, 1, n, 'desk', decode(lpad(to_hex(n % 5000), 16, '0'), 'hex'),
        decode(lpad(to_hex(n % 5000), 16, '0'), 'hex'),
        CASE WHEN n % 400 = 0 THEN 4 WHEN n % 5 = 1 AND n > 190000 THEN 0 WHEN n % 5 = 1 THEN 2
            WHEN n % 20 = 2 THEN 1 ELSE 3 END,
        CASE WHEN n % 20 = 2 THEN 1000000 + n ELSE 0 END, n, repeat('x', 200)::bytea
    FROM generate_series(10, 200009) n;
    INSERT INTO counter (node, slot, destination, created) VALUES ('one', 99, 'desk', 200000);
    ANALYZE";

/// Pages of 8 KiB. The tables and indexes have more than 20 000.
const PAGES_MAX: u64 = 3_000;

async fn explained(
    connection: &Connection,
    sql: &str,
    parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
) -> String {
    let sql = format!("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, COSTS OFF) {sql}");
    let rows = connection.query(&sql, parameters).await.unwrap();
    let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    lines.join("\n")
}

/// The pages that a statement read.
fn pages(plan: &str) -> u64 {
    let buffers = plan.lines().find(|line| line.contains("Buffers: shared"));
    let numbers = buffers.unwrap_or_default().split(' ').filter_map(|word| {
        let (kind, count) = word.split_once('=')?;
        ["hit", "read"]
            .contains(&kind)
            .then(|| count.parse::<u64>().unwrap())
    });
    numbers.sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: tests/run"]
async fn no_statement_reads_all_deliveries() {
    let url = database();
    let store = open(&url, "one", Duration::from_secs(60)).await;
    accept(&*store, 1, 1, &["desk"]).await;
    cluster::shared().sql(base(&url), FILL);
    let connection = store.shared.pool.get().await.unwrap();
    let (nil, start, later) = (Uuid::nil(), i64::MIN, 1_000_000_i64);
    let (names, none) = (vec!["desk"], (Vec::<Uuid>::new(), Vec::<i16>::new()));
    let no_queues = Vec::<Vec<u8>>::new();
    let statements: [(&str, &str, &[&(dyn tokio_postgres::types::ToSql + Sync)]); 12] = [
        (
            "retry_now",
            commands::LATER,
            &[&"desk", &start, &nil, &0_i16, &500_i64, &later],
        ),
        (
            "advance",
            commands::TOO_LATE,
            &[&"desk", &start, &nil, &0_i16, &500_i64, &later],
        ),
        (
            "requeue",
            commands::DEAD,
            &[&"desk", &start, &nil, &0_i16, &500_i64],
        ),
        (
            "discard",
            commands::PENDING,
            &[&"desk", &start, &nil, &0_i16, &500_i64],
        ),
        (
            "pending messages",
            by_state::PENDING_MESSAGES,
            &[&names, &i64::MAX, &256_i64],
        ),
        (
            "dead messages",
            by_state::DEAD_MESSAGES,
            &[&names, &i64::MAX, &256_i64],
        ),
        (
            "pending deliveries",
            by_state::PENDING,
            &[&names, &i64::MAX, &0_i32, &101_i64],
        ),
        (
            "dead deliveries",
            by_state::DEAD,
            &[&names, &i64::MAX, &0_i32, &101_i64],
        ),
        (
            "retention",
            retention::NEXT,
            &[&false, &start, &nil, &i64::MAX, &500_i64],
        ),
        (
            "claim",
            NEXT,
            &[
                &"desk",
                &5_i64,
                &-1_i64,
                &-1_i16,
                &none.0,
                &none.1,
                &none.0,
                &none.1,
                &129_i64,
                &no_queues,
                &true,
                &1_000_000_i64,
            ],
        ),
        ("next due", NEXT_DUE, &[&"desk", &none.0, &none.1]),
        ("oldest", positions::OLDEST, &[&"desk"]),
    ];
    for (what, sql, parameters) in statements {
        let plan = explained(&connection, sql, parameters).await;
        let is_scan = ["Seq Scan on delivery", "Seq Scan on message"]
            .iter()
            .any(|scan| plan.contains(scan));
        assert!(!is_scan && pages(&plan) < PAGES_MAX, "{what}\n{plan}");
        println!("REPORT pages {what}: {}", pages(&plan));
    }
    // The same for all steps together.
    let began = std::time::Instant::now();
    let query = Query {
        state: Some(crate::store::MessageState::Pending),
        text: Some("found nowhere".to_owned()),
        limit: 10,
        ..Query::default()
    };
    let page = store.messages(&query).await.unwrap();
    assert!(page.items.is_empty() && began.elapsed() < Duration::from_secs(3));
    assert_eq!(store.retry_now(&name("room"), Timestamp(5)).await, Ok(0));
}
