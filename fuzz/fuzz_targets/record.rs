//! Bytes that a disk returns in place of a record or a backup are rejected, or are the record.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smsbridge::store::backup::Reader;
use smsbridge::store::sled::fuzzing;

fuzz_target!(|data: &[u8]| {
    let (key, value) = data.split_at(data.len().min(9));
    fuzzing::decode(key, value);
    if let Some(found) = fuzzing::with_checksum(key, value) {
        assert_eq!(fuzzing::with_checksum(key, &found).as_deref(), Some(&*found));
    }
    if let Ok(mut reader) = Reader::begin(data) {
        // Bounded by the data, because every record consumes some of it.
        while let Ok(Some(_)) = reader.next_record() {}
    }
});
