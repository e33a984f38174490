-- Runs once, in a transaction, under the advisory lock of the migrations.

-- A daemon. `instance` changes at every start.
CREATE TABLE node (
    name        text PRIMARY KEY,
    instance    uuid NOT NULL,
    started_at  timestamptz NOT NULL,
    seen_at     timestamptz NOT NULL,
    version     text NOT NULL,
    fingerprint text NOT NULL,
    -- What it serves: daemons with different configurations rank only among those that serve a destination.
    destinations text[] NOT NULL DEFAULT '{}'
);

-- The right of one daemon to serve a destination, and what operators and daemons store about the destination. `epoch`
-- is the fencing token: it grows with every change of the owner.
CREATE TABLE lane (
    destination text PRIMARY KEY,
    owner       text,
    instance    uuid,
    epoch       bigint NOT NULL DEFAULT 0,
    lease_until timestamptz NOT NULL DEFAULT clock_timestamp(),
    since       timestamptz,
    paused      boolean NOT NULL DEFAULT false,
    standing    bytea
) WITH (fillfactor = 50);

CREATE SEQUENCE message_seq;

-- `disposition`: 0 routed, with deliveries; 1 routed, without; 2 matched no route, without deliveries; 3 matched no
-- route, with deliveries that were added later. `sender` and `receiver` are the first bytes of the normal forms,
-- because an index entry has a limit; `folded` is the content in lower case, for searching.
CREATE TABLE message (
    id          uuid PRIMARY KEY,
    seq         bigint NOT NULL UNIQUE DEFAULT nextval('message_seq'),
    source      text NOT NULL,
    sender      text NOT NULL,
    receiver    text NOT NULL,
    folded      text NOT NULL,
    received_at bigint NOT NULL,
    disposition smallint NOT NULL,
    redacted    boolean NOT NULL DEFAULT false,
    record      bytea NOT NULL
);
CREATE INDEX message_sender ON message (sender text_pattern_ops, seq);
CREATE INDEX message_receiver ON message (receiver text_pattern_ops, seq);
CREATE INDEX message_received ON message (redacted, received_at);
CREATE INDEX message_disposition ON message (disposition, seq) WHERE disposition > 0;

-- Digests of (source, provider id). They outlive their messages until the deduplication window ends.
CREATE TABLE seen (
    digest      bytea PRIMARY KEY,
    message     uuid NOT NULL,
    seq         bigint NOT NULL,
    received_at bigint NOT NULL
);
CREATE INDEX seen_received ON seen (received_at);

-- `stage`: 0 ready or claimed, 1 delayed until `due_at`, 2 behind an earlier pending one of its queue, 3 delivered,
-- 4 dead and needing attention, 5 dead and acknowledged. `ended`: in which results its message was counted, bit 1
-- delivered, bit 2 dead.
CREATE TABLE delivery (
    message       uuid NOT NULL,
    ordinal       smallint NOT NULL,
    seq           bigint NOT NULL,
    destination   text NOT NULL,
    conversation  bytea NOT NULL,
    queue         bytea NOT NULL,
    stage         smallint NOT NULL,
    ended         smallint NOT NULL DEFAULT 0,
    due_at        bigint NOT NULL,
    pending_since bigint NOT NULL,
    record        bytea NOT NULL,
    PRIMARY KEY (message, ordinal)
) WITH (fillfactor = 80);
CREATE INDEX delivery_ready ON delivery (destination, seq, ordinal) WHERE stage = 0;
CREATE INDEX delivery_due ON delivery (destination, due_at) WHERE stage = 1;
CREATE INDEX delivery_queue ON delivery (destination, queue, seq, ordinal) WHERE stage < 3;
CREATE INDEX delivery_since ON delivery (destination, pending_since) WHERE stage < 3;
CREATE INDEX delivery_dead ON delivery (destination, seq, ordinal) WHERE stage >= 4;

-- Counters of each daemon and of each of its writers (`slot`), so that no row is written by all; the sum of all rows
-- counts. The rows of no destination ('') count messages.
CREATE TABLE counter (
    node            text NOT NULL,
    slot            smallint NOT NULL,
    destination     text NOT NULL,
    accepted        bigint NOT NULL DEFAULT 0,
    messages_purged bigint NOT NULL DEFAULT 0,
    created         bigint NOT NULL DEFAULT 0,
    delivered       bigint NOT NULL DEFAULT 0,
    dead            bigint NOT NULL DEFAULT 0,
    acknowledged    bigint NOT NULL DEFAULT 0,
    pending         bigint NOT NULL DEFAULT 0,
    purged          bigint NOT NULL DEFAULT 0,
    kept            bigint NOT NULL DEFAULT 0,
    unrouted        bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (node, slot, destination)
) WITH (fillfactor = 50);

-- The roots of threads, by destination and conversation.
CREATE TABLE thread (
    destination  text NOT NULL,
    conversation bytea NOT NULL,
    root         bytea NOT NULL,
    at           bigint NOT NULL,
    PRIMARY KEY (destination, conversation)
);
CREATE INDEX thread_at ON thread (at);

-- What a daemon stores for its next run, by name.
CREATE TABLE state (
    name  text PRIMARY KEY,
    value bytea NOT NULL
);
