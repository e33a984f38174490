//! The store in a PostgreSQL database, which several daemons share.

mod address;
mod migrate;
mod pool;
mod session;
mod tls;

pub use address::Address;
pub use migrate::{Migrated, SchemaError, VERSION, migrate, version};
pub use pool::{Connection, Dedicated, Pool};
pub use session::{ConnectError, SynchronousCommit};

#[cfg(test)]
#[path = "../../../tests/common/postgres.rs"]
mod cluster;
#[cfg(test)]
mod tests;
