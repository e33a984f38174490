-- Runs once, in a transaction, under the advisory lock of the migrations. Indexes only: version 1 works with them.

-- Pending deliveries by the time when they are due. Those that are due at once, which are most of them, are left out.
CREATE INDEX delivery_later ON delivery (destination, due_at, message, ordinal) WHERE stage < 3 AND due_at > 0;

-- Together with `delivery_ready`: pending deliveries in the order of acceptance.
CREATE INDEX delivery_waiting ON delivery (destination, seq, ordinal) WHERE stage IN (1, 2);
