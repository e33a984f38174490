use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn patterns(list: &[&str]) -> Option<Vec<Pattern>> {
    Some(list.iter().map(|text| Pattern::parse(text).unwrap()).collect())
}

fn route(text: &str, when: Conditions, deliver: &[&str]) -> Route {
    let deliver = deliver.iter().map(|text| name(text)).collect();
    Route {
        name: name(text),
        when,
        unless: None,
        active: Vec::new(),
        muted: Vec::new(),
        urgent: false,
        deliver,
        proceed: false,
        template: None,
    }
}

fn to(list: &[&str]) -> Conditions {
    Conditions {
        to: patterns(list),
        ..Conditions::default()
    }
}

fn expression(text: &str) -> Result<regex::Regex, ExpressionError> {
    Expressions::default().compile(text)
}

fn message(text: &str) -> Conditions {
    Conditions {
        message: Some(expression(text).unwrap()),
        ..Conditions::default()
    }
}

/// Asks with these numbers and this message body.
fn with_subject<T>(from: &str, to: &str, text: &str, ask: impl Fn(&Subject<'_>) -> T) -> T {
    let (from, to) = (Number::parse(from).unwrap(), Number::parse(to).unwrap());
    ask(&Subject {
        source: &name("carrier"),
        from: &from,
        to: &to,
        text,
        keyword: Keyword::of(text),
        at: Timestamp(0),
    })
}

fn decided(routes: &Routes, to: &str, text: &str) -> (Vec<String>, Vec<(String, Option<String>)>) {
    let decision = with_subject("+12125550100", to, text, |subject| routes.decide(subject));
    let deliveries = decision.deliveries.iter();
    (
        decision.routes.iter().map(Name::to_string).collect(),
        deliveries
            .map(|(name, route)| (name.to_string(), route.as_ref().map(Name::to_string)))
            .collect(),
    )
}

fn asked(list: &[(&str, Option<&str>)]) -> Vec<(String, Option<String>)> {
    list.iter()
        .map(|(name, route)| ((*name).to_owned(), route.map(str::to_owned)))
        .collect()
}

#[test]
fn the_first_match_ends_the_search() {
    let routes = Routes::new(
        vec![
            route("a", to(&["+1303*"]), &["ops"]),
            route("b", to(&["+13038675309"]), &["desk"]),
        ],
        vec![name("rest")],
    );
    assert_eq!(
        decided(&routes, "+13038675309", ""),
        (vec!["a".to_owned()], asked(&[("ops", Some("a"))]))
    );
    assert_eq!(
        decided(&routes, "+13048675309", ""),
        (vec![], asked(&[("rest", None)]))
    );
}

#[test]
fn a_destination_of_two_routes_gets_the_message_once_from_the_first() {
    let first = Route {
        proceed: true,
        ..route("a", Conditions::default(), &["ops", "desk", "ops"])
    };
    let routes = Routes::new(
        vec![first, route("b", Conditions::default(), &["desk", "crm"])],
        vec![name("rest")],
    );
    let (matched, deliveries) = decided(&routes, "+13038675309", "");
    assert_eq!(matched, ["a", "b"]);
    assert_eq!(
        deliveries,
        asked(&[("ops", Some("a")), ("desk", Some("a")), ("crm", Some("b"))])
    );
}

#[test]
fn a_route_without_destinations_keeps_a_message() {
    let routes = Routes::new(
        vec![route("spam", message("(?i)viagra"), &[])],
        vec![name("rest")],
    );
    assert_eq!(
        decided(&routes, "+13038675309", "Cheap VIAGRA"),
        (vec!["spam".to_owned()], vec![])
    );
}

#[test]
fn unless_excludes_a_message() {
    let unless = Some(message("test"));
    let routes = Routes::new(
        vec![Route {
            unless,
            ..route("a", to(&["*"]), &["ops"])
        }],
        vec![name("rest")],
    );
    assert_eq!(decided(&routes, "+13038675309", "alarm").0, ["a"]);
    assert_eq!(
        decided(&routes, "+13038675309", "a test").1,
        asked(&[("rest", None)])
    );
    let tried = with_subject("+12125550100", "+13038675309", "a test", |subject| {
        routes.explain(subject)
    });
    assert_eq!(
        tried[0].outcome,
        Outcome::Failed("excluded by `unless`: the body matches `test`".to_owned())
    );
}

#[test]
fn named_groups_are_given_to_templates() {
    let route = route("a", message(r"(?<what>\w+) at (?<where>\w+)(?<more>!)?"), &[]);
    let groups = route.groups("fire at home");
    assert_eq!(
        groups,
        BTreeMap::from([("what".into(), "fire".into()), ("where".into(), "home".into())])
    );
    assert!(route.groups("nothing").is_empty());
}

#[test]
fn an_explanation_names_the_condition_that_failed() {
    let numbers = Conditions {
        from: patterns(&["+1303*", "1-1234"]),
        ..Conditions::default()
    };
    let source = Conditions {
        source: Some(vec![name("other")]),
        ..Conditions::default()
    };
    let routes = Routes::new(
        vec![
            route("a", numbers, &[]),
            route("b", source, &[]),
            route("c", message("down"), &[]),
            route("d", to(&["+1303*"]), &[]),
            route("e", Conditions::default(), &[]),
        ],
        vec![],
    );
    let tried = with_subject("+12125550100", "+13038675309", "up", |subject| {
        routes.explain(subject)
    });
    let outcomes: Vec<Outcome> = tried.into_iter().map(|tried| tried.outcome).collect();
    assert_eq!(
        outcomes,
        [
            Outcome::Failed("from: +12125550100 is not any of `+1303*`, `1-1234`".to_owned()),
            Outcome::Failed("source: carrier is not `other`".to_owned()),
            Outcome::Failed("message: the body does not match `down`".to_owned()),
            Outcome::Matched,
            Outcome::NotReached,
        ]
    );
}

#[test]
fn a_keyword_is_the_whole_text() {
    let optout = Conditions {
        keyword: Some(vec![Keyword::Stop, Keyword::Help]),
        ..Conditions::default()
    };
    let but_start = Route {
        unless: Some(Conditions {
            keyword: Some(vec![Keyword::Start]),
            ..Conditions::default()
        }),
        ..route("rest", Conditions::default(), &["b"])
    };
    let routes = Routes::new(vec![route("optout", optout.clone(), &["a"]), but_start], vec![]);
    for (text, taken) in [
        (" Unsubscribe\n", Some("optout")),
        ("HELP", Some("optout")),
        ("please stop", Some("rest")),
        ("start", None),
    ] {
        let (found, _) = decided(&routes, "+13038675309", text);
        assert_eq!(found.first().map(String::as_str), taken, "{text}");
    }
    let tried = with_subject("+12125550100", "1-1234", "start", |subject| {
        routes.explain(subject)
    });
    let outcomes: Vec<Outcome> = tried.into_iter().map(|tried| tried.outcome).collect();
    assert_eq!(
        outcomes,
        [
            Outcome::Failed("keyword: start is not any of `stop`, `help`".to_owned()),
            Outcome::Failed("excluded by `unless`: keyword is `start`".to_owned()),
        ]
    );
    let one = Conditions {
        keyword: Some(vec![Keyword::Stop]),
        ..Conditions::default()
    };
    assert!(shadows(
        route("wide", optout.clone(), &[]),
        &route("narrow", one, &[])
    ));
    assert!(!shadows(
        route("optout", optout, &[]),
        &route("all", Conditions::default(), &[])
    ));
}

fn shadows(earlier: Route, later: &Route) -> bool {
    shadowed(&[earlier, later.clone()]) == [(1, 0)]
}

#[test]
fn a_wider_earlier_route_covers_a_narrower_one() {
    let wide = route("wide", to(&["+1303*", "*99"]), &[]);
    for (narrow, shadowed) in [
        (to(&["+13038675309"]), true),
        (to(&["+13038*", "+12125550199"]), true),
        (to(&["+13038*", "+12125550100"]), false),
        (to(&["+1*"]), false),
        (Conditions::default(), false),
        (
            Conditions {
                message: message("x").message,
                ..to(&["+1303*"])
            },
            true,
        ),
    ] {
        let narrow = route("narrow", narrow, &[]);
        assert_eq!(shadows(wide.clone(), &narrow), shadowed, "{narrow:?}");
        assert!(!shadows(
            Route {
                proceed: true,
                ..wide.clone()
            },
            &narrow
        ));
        assert!(!shadows(
            Route {
                unless: Some(message("x")),
                ..wide.clone()
            },
            &narrow
        ));
    }
    assert!(shadows(
        route("a", message("x"), &[]),
        &route("b", message("x"), &[])
    ));
    assert!(!shadows(
        route("a", message("x"), &[]),
        &route("b", message("xy"), &[])
    ));
    assert!(shadows(
        route("a", Conditions::default(), &[]),
        &route("b", message("xy"), &[])
    ));
    assert!(
        Route {
            unless: Some(to(&["*"])),
            ..route("a", to(&["+1*"]), &[])
        }
        .excludes_itself()
    );
}

#[test]
fn an_expression_that_would_exhaust_memory_is_refused() {
    assert!(expression(r"(\w{1,500}){1,500}").is_err());
    assert!(expression(r"\b\w{1,50}\b").is_ok());
}

fn any_pattern() -> impl Strategy<Value = Pattern> {
    let number = "\\+1[23][01]{1,3}0000";
    prop_oneof![
        Just(Pattern::Any),
        number.prop_map(|text| Pattern::parse(&text).unwrap()),
        "\\+1[23]?[01]{0,2}".prop_map(|text| Pattern::parse(&format!("{text}*")).unwrap()),
        "[01]{1,4}".prop_map(|text| Pattern::parse(&format!("*{text}")).unwrap()),
    ]
}

fn any_conditions() -> impl Strategy<Value = Conditions> {
    let numbers = || prop::option::of(prop::collection::vec(any_pattern(), 1..3));
    let source = prop::option::of(prop::collection::vec(
        prop::sample::select(vec!["carrier", "other"]),
        1..2,
    ));
    let keywords = vec![Keyword::Stop, Keyword::Start, Keyword::Help];
    let expressions = vec![
        "(?i)\\b(urgent|down)\\b",
        "up",
        "^a.*z$",
        "(?i)STRASSE|k",
        ".*",
        "[a-z]+ now",
        "é",
        "(down|)",
    ];
    (
        numbers(),
        numbers(),
        source,
        prop::option::weighted(0.4, prop::sample::select(expressions)),
        prop::option::weighted(0.2, prop::sample::subsequence(keywords, 1..3)),
    )
        .prop_map(|(from, to, source, message, keyword)| Conditions {
            keyword,
            from,
            to,
            source: source.map(|names| names.into_iter().map(name).collect()),
            message: message.map(|text| expression(text).unwrap()),
        })
}

fn any_route() -> impl Strategy<Value = Route> {
    let deliver = prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "d"]), 0..3);
    (
        any_conditions(),
        prop::option::weighted(0.2, any_conditions()),
        deliver,
        prop::bool::ANY,
    )
        .prop_map(|(when, unless, deliver, proceed)| Route {
            unless,
            proceed,
            ..route("r", when, &deliver)
        })
}

fn interval(text: &str, toml: &str) -> TimeInterval {
    TimeInterval {
        name: name(text),
        when: std::sync::Arc::new(crate::model::setting::from_toml(toml).unwrap()),
    }
}

#[test]
fn a_route_outside_of_its_times_is_skipped() {
    let day = interval("day", "times = ['08:00-18:00']");
    let holiday = interval("holiday", "dates = ['1970-01-02']");
    let office = Route {
        active: vec![day],
        muted: vec![holiday],
        ..route("office", Conditions::default(), &["desk"])
    };
    let routes = Routes::new(
        vec![office, route("rest", Conditions::default(), &["pager"])],
        vec![],
    );
    let hours = |hours: i64| Timestamp(hours * 3_600_000);
    for (at, expected, outcome) in [
        (hours(9), "office", "Matched"),
        (
            hours(7),
            "rest",
            "Failed(\"active: 1970-01-01T07:00:00.000Z is not in `day`\")",
        ),
        (
            hours(33),
            "rest",
            "Failed(\"muted: 1970-01-02T09:00:00.000Z is in `holiday`\")",
        ),
    ] {
        with_subject("+12125550100", "+13035550100", "x", |subject| {
            let subject = Subject { at, ..*subject };
            assert_eq!(routes.decide(&subject).routes, [name(expected)]);
            assert_eq!(format!("{:?}", routes.explain(&subject)[0].outcome), outcome);
        });
    }
}

#[test]
fn a_route_with_times_shadows_only_routes_with_the_same_times() {
    let day = || vec![interval("day", "times = ['08:00-18:00']")];
    let all = |active, muted| Route {
        active,
        muted,
        ..route("a", Conditions::default(), &[])
    };
    let shadows = |earlier: Route, later: Route| !shadowed(&[earlier, later]).is_empty();
    assert!(shadows(all(day(), vec![]), all(day(), vec![])));
    assert!(shadows(all(vec![], vec![]), all(day(), vec![])));
    assert!(!shadows(all(day(), vec![]), all(vec![], vec![])));
    assert!(!shadows(all(vec![], day()), all(vec![], vec![])));
}

proptest! {
    #[test]
    fn the_index_never_changes_a_decision(
        mut routes in prop::collection::vec(any_route(), 0..40),
        from in "\\+1[23][01]{1,3}0000",
        to in "\\+1[23][01]{1,3}0000",
        text in prop_oneof![
            "(it is )?(URGENT|dOWn|down|up|all now|az|abz|stra\u{17f}\u{17f}e|STRASSE|\u{212a}|\u{c9}|\u{e9}|x)( z)?",
            ".{0,20}",
            "(stop|START|help)",
        ],
    ) {
        for (at, route) in routes.iter_mut().enumerate() {
            route.name = name(&format!("r{at}"));
        }
        let routes = Routes::new(routes, vec![name("rest")]);
        let everything = 0..routes.all().len();
        with_subject(&from, &to, &text, |subject| {
            let decision = routes.decide(subject);
            assert_eq!(decision, routes.decide_among(everything.clone(), subject));
            for (at, _) in shadowed(routes.all()) {
                assert!(!decision.routes.contains(&routes.all()[at].name), "a shadowed route matched");
            }
            let matched = routes.explain(subject).into_iter().filter(|tried| tried.outcome == Outcome::Matched);
            assert_eq!(routes.decide(subject).routes, matched.map(|tried| tried.route).collect::<Vec<_>>());
        });
    }
}
