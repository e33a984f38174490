//! Every number has one normal form, and a pattern made of it matches it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smsbridge::number::{Number, Pattern};

fuzz_target!(|text: &str| {
    if let Ok(number) = Number::parse(text) {
        assert_eq!(number.raw(), text);
        let again = Number::parse(number.normal()).expect("a normal form is a number");
        assert_eq!(again.normal(), number.normal());
        let exact = Pattern::parse(number.normal()).expect("a number is a pattern");
        assert!(exact.matches(&number));
        assert!(!number.masked().contains(number.normal()));
    }
    if let Ok(pattern) = Pattern::parse(text) {
        assert_eq!(Pattern::parse(&pattern.to_string()).as_ref(), Ok(&pattern));
    }
});
