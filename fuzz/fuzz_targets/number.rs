//! Every number has one normal form, and a pattern made of it matches it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smsbridge::model::number::{Number, Pattern};

fuzz_target!(|text: &str| {
    if let Ok(number) = Number::parse(text) {
        assert_eq!(number.raw(), text);
        let again = Number::parse(number.normal()).expect("a normal form is a number");
        assert_eq!(again.normal(), number.normal());
        let exact = Pattern::parse(number.normal()).expect("a number is a pattern");
        assert!(exact.matches(&number));
        assert!(!number.masked().contains(number.normal()));
        assert_eq!(Number::received(text), number);
    }
    let received = Number::received(text);
    assert_eq!(Number::received(&received.shown()).normal(), received.normal());
    assert!(!received.shown().contains(char::is_control) && received.normal().chars().count() <= 64);
    if let Ok(pattern) = Pattern::search(text) {
        assert!(pattern.matches(&received) || text.contains('*'));
    }
    if let Ok(pattern) = Pattern::parse(text) {
        assert_eq!(Pattern::parse(&pattern.to_string()).as_ref(), Ok(&pattern));
    }
});
