//! P1: power cuts, and the checks afterwards.

use super::disk::{Disk, yard};
use super::ledger::{Acknowledged, Carrier, audit, nowhere, unmatched};
use super::rng::Rng;
use super::{report, rounds};
use crate::bridge::Bridge;

const MIB: u64 = 1 << 20;

/// The number of power cuts of one store, from its first start on.
const CUTS_PER_STORE: usize = 4;

/// The daemon's disk is an ext4 image on an XFS that copies by reference: the copy has the data that reached the
/// device, and none that was only in the file system's memory. All messages acknowledged before the copy must be in it.
#[test]
#[ignore = "needs root, for file systems: tests/run"]
fn p1_a_power_cut_loses_nothing_acknowledged() {
    let (cuts, mut rng, yard) = (rounds(4, 200), Rng::new(), yard());
    let ground = Disk::xfs(yard.path(), "ground", 3_000 * MIB);
    let (mut checked, mut done) = (0, 0);
    while done < cuts {
        let disk = Disk::ext4(ground.path(), "disk", 192 * MIB);
        let store = disk.path().join("store");
        let mut bridge = Bridge::placed(&store, "min_free = \"8MiB\"", &two_nowhere());
        // The first start: a store that is half created must not prevent the next start.
        bridge.run_and_kill(rng.moment(0, 150));
        after_the_cut(&disk, &Acknowledged::new());
        bridge.run();
        let carrier = Carrier::start(&bridge, 4, 0);
        for _ in 0..CUTS_PER_STORE.min(cuts - done) {
            std::thread::sleep(rng.moment(10, 500));
            let acknowledged = carrier.acknowledged();
            checked += acknowledged.len();
            after_the_cut(&disk, &acknowledged);
            done += 1;
        }
        // The original disk must pass the same audit.
        bridge.kill();
        bridge.run();
        carrier.follow(&bridge);
        audit(&bridge, &carrier.acknowledged(), &["crm", "ops"]);
        bridge.kill();
        carrier.end();
        std::fs::remove_file(ground.path().join("disk")).unwrap();
    }
    assert!(
        checked > cuts * 5,
        "only {checked} messages were acknowledged before {cuts} cuts"
    );
    report(
        "P1",
        &format!("{done} power cuts, {checked} acknowledged messages looked for, 0 lost"),
    );
}

fn after_the_cut(disk: &Disk, acknowledged: &Acknowledged) {
    let copy = Disk::mounted(disk.cut("cut"));
    let mut bridge = Bridge::placed(&copy.path().join("store"), "min_free = \"8MiB\"", &two_nowhere());
    bridge.run();
    audit(&bridge, acknowledged, &["crm", "ops"]);
    bridge.kill();
    drop(copy);
    std::fs::remove_file(disk.path().with_file_name("cut")).unwrap();
}

fn two_nowhere() -> String {
    nowhere("crm") + &nowhere("ops") + &unmatched(&["crm", "ops"])
}
