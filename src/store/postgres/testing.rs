//! Stores in new databases of the cluster that the tests of a process share.

use std::sync::Arc;
use std::time::Duration;

use super::*;

/// A daemon's store in the database at a URL, whose schema is migrated first.
pub(crate) async fn open(url: &str, node: &str, lease: Duration) -> Arc<Postgres> {
    let pool = Pool::new(Address::parse(url, None).unwrap(), node, SynchronousCommit::On, 6);
    migrate(&mut pool.get().await.unwrap()).await.unwrap();
    let options = Options {
        pool,
        node: node.to_owned(),
        lease,
        fingerprint: String::new(),
        answer_within: Duration::from_secs(10),
        commits: None,
    };
    Arc::new(Postgres::open(options).await.unwrap())
}

/// The URL of a new database.
pub(crate) fn database() -> String {
    let cluster = cluster::shared();
    cluster.url(&cluster.create())
}

/// A store in a new database.
pub(crate) async fn fresh() -> Arc<Postgres> {
    open(&database(), "one", Duration::from_secs(10)).await
}
