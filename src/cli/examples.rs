//! The examples at the end of `--help` and in the manual pages.

/// For `smsbridge` itself.
pub(super) const ALL: &str = "\
Examples:
  smsbridge check                   report every problem of the configuration
  smsbridge serve                   run the daemon
  smsbridge status                  show the daemon's state, problems first
  smsbridge message show latest     show the newest message and its deliveries";

pub(super) const CHECK: &str = "\
Examples:
  smsbridge check --config new.toml
  smsbridge check --strict          fail on warnings, too
  smsbridge check --schema > smsbridge.schema.json";

pub(super) const ROUTE: &str = "\
Examples:
  smsbridge route
  smsbridge route --from +13035550100 --to +13038675309 --message 'hall 2 is down'
  smsbridge route --from 1-1234 --to +13038675309 --message 'Code 1234' --render";

pub(super) const SIMULATE: &str = "\
Example:
  smsbridge simulate --from +13035550100 --to +13038675309 --message 'Hello World!'";

pub(super) const MESSAGE_LIST: &str = "\
Examples:
  smsbridge message list --state dead --since 3d
  smsbridge message list --from '+1303*' --text alarm
  smsbridge message list --json --limit 500 | jq -r '.items[].id'";

pub(super) const MESSAGE_SHOW: &str = "\
Examples:
  smsbridge message show latest
  smsbridge message show 01a2015b850c";

pub(super) const MESSAGE_RESEND: &str = "\
Examples:
  smsbridge message resend 01a2015b850c
  smsbridge message resend 01a2015b850c --destination desk";

pub(super) const DELIVERY_LIST: &str = "\
Examples:
  smsbridge delivery list --state dead
  smsbridge delivery list --destination desk --state pending";

pub(super) const DELIVERY_SHOW: &str = "\
Examples:
  smsbridge delivery show latest
  smsbridge delivery show 01a2015b850c-1";

pub(super) const DELIVERY_RETRY: &str = "\
Examples:
  smsbridge delivery retry 01a2015b850c-1
  smsbridge delivery retry --destination desk --yes";

pub(super) const DELIVERY_DISCARD: &str = "\
Examples:
  smsbridge delivery discard 01a2015b850c-1
  smsbridge delivery discard --destination desk";

pub(super) const BACKUP: &str = "\
Example:
  smsbridge backup /var/backups/smsbridge-$(date +%F)";
