//! Large and expensive configurations: those within the limits are fast, others are rejected at small cost.

use super::*;

#[test]
fn ten_thousand_routes_are_read_and_decided() {
    use std::fmt::Write as _;
    let mut text = BASE.to_owned();
    for route in 0..10_000 {
        let _ = writeln!(text, "[[route]]\nto = ['+1303{route:07}']\ndeliver = ['spare']");
    }
    let config = Config::read(&text, Path::new("c.toml"), Purpose::Serve, &Outside::default());
    let (config, mut problems) = config.unwrap_or_else(|problems| panic!("{problems}"));
    let plan = Plan::compile(config, None, &mut problems).unwrap_or_else(|| panic!("{problems}"));
    let (from, to) = (
        Number::parse("1-1234").unwrap(),
        Number::parse("+13030009999").unwrap(),
    );
    let source = "carrier".parse().unwrap();
    let subject = Subject {
        source: &source,
        from: &from,
        to: &to,
        text: "it is down",
        keyword: None,
        at: Timestamp(0),
    };
    assert_eq!(plan.routes.decide(&subject).routes[0].as_str(), "route-10000");
}

/// Templates that would overflow the parser's stack.
#[test]
fn a_template_that_nests_too_deep_is_an_error_with_its_place() {
    let mut bridge = Bridge::start(&bridge_with("{{ text }}"));
    let lines = fs::read_to_string(bridge.folder().join("config.toml")).unwrap();
    let line = lines
        .lines()
        .position(|line| line.starts_with("template = "))
        .unwrap()
        + 1;
    for (what, template) in [
        ("filters", format!("{{{{ text{} }}}}", "|upper".repeat(2_700))),
        (
            "many filters",
            format!("{{{{ text{} }}}}", "|upper".repeat(16_000)),
        ),
        ("not", format!("{{{{ {}text }}}}", "not ".repeat(4_000))),
        ("minus", format!("{{{{ {}1 }}}}", "-".repeat(16_000))),
        ("attributes", format!("{{{{ text{} }}}}", ".a".repeat(8_000))),
        ("items", format!("{{{{ text{} }}}}", "[0]".repeat(5_000))),
        ("calls", format!("{{{{ text{} }}}}", "()".repeat(8_000))),
        ("or", format!("{{{{ 1{} }}}}", " or 1".repeat(3_000))),
        ("sums", format!("{{{{ 1{} }}}}", "+1".repeat(8_000))),
        ("tests", format!("{{{{ 1{} }}}}", " is odd".repeat(2_000))),
        ("else", format!("{{{{ 1{} }}}}", " if 1 else 1".repeat(1_300))),
        (
            "elif",
            format!("{{% if 1 %}}{}{{% endif %}}", "{% elif 1 %}".repeat(1_300)),
        ),
        (
            "itself",
            "{% set n = namespace() %}{% set n.x = n %}{{ n }}".to_owned(),
        ),
        ("indent", "{{ text|indent(1000000000) }}".to_owned()),
    ] {
        bridge.configure(&bridge_with(&template));
        let route = [
            "route",
            "--from",
            "+13035550100",
            "--to",
            "+13038675309",
            "--message",
            "x",
            "--render",
        ];
        for command in [&["check"][..], &["reload"], &route] {
            let (status, _, said) = bridge.command(command);
            let place = format!("config.toml:{line}:12: destination.screen.template: ");
            assert!(
                status == 2 && said.contains(&place),
                "{what}, {command:?}: {status} {said}"
            );
        }
    }
    assert_eq!(bridge.post_message("A", "+13035550100", "hello").0, 200);
    assert!(bridge.stop().0.success());
}

/// Rejecting a small file must take neither gigabytes of memory nor a minute.
#[test]
fn a_small_configuration_that_asks_for_much_is_rejected() {
    let routes = |line: &dyn Fn(usize) -> String| {
        let routes = (0..200).map(|number| format!("[[route]]\ndeliver = ['screen']\n{}\n", line(number)));
        format!("{BASE}\n{}", routes.collect::<String>())
    };
    let many = |table: &str, count: usize| {
        (0..count)
            .map(|number| table.replace("NUMBER", &number.to_string()))
            .collect::<String>()
    };
    for (what, text, words) in [
        (
            "expressions",
            routes(&|number| format!("message = 'x{{100000}}{number}'")),
            "route.route-9.message: the regular expressions of all routes are too large together",
        ),
        (
            "templates",
            routes(&|number| format!("template = '{number}{}'", "x".repeat(12_000))),
            "template: all templates together are longer than 2 MiB",
        ),
        (
            "routes",
            many("[[route]]\ndeliver = []\n", 20_001) + BASE,
            "route: more than 20000 routes",
        ),
        (
            "destinations",
            many("[destination.dNUMBER]\nkind = 'console'\n", 5_001) + BASE,
            "destination: more than 5000 tables [destination.NAME]",
        ),
        ("a long file", "#".repeat(4 << 20) + BASE, "is larger than 4MiB"),
        ("deep lists", format!("a = {}", "[".repeat(100_000)), "recurs"),
        ("deep tables", format!("[{}a]", "a.".repeat(100_000)), "recurs"),
        ("deep keys", format!("{}a = 1", "a.".repeat(100_000)), "recurs"),
        (
            "a long name",
            format!("{} = 1\n{BASE}", "a".repeat(1_000_000)),
            "unknown table (known here",
        ),
        (
            "a long value",
            BASE.replace("console", &"c".repeat(1_000_000)),
            "unknown kind `ccc",
        ),
    ] {
        let problems = read(&text, Purpose::Check, &Outside::default(), None)
            .err()
            .expect(what);
        assert!(problems.to_string().contains(words), "{what}: {problems}");
        assert!(problems.to_string().len() < 200_000, "{what}");
    }
}

fn bridge_with(template: &str) -> String {
    format!(
        "[destination.screen]\nkind = \"console\"\ntemplate = '{template}'\n[routing]\nunmatched = [\"screen\"]\n"
    )
}

/// Kinds of lines that are wrong, fifty thousand of each: the head, then the line with its number.
#[test]
fn fifty_thousand_invalid_lines_give_a_hundred_errors_and_a_count() {
    let head = |table: &str| format!("{BASE}\n{table}\n");
    let many = |line: &dyn Fn(usize) -> String| (0..50_000).map(line).collect::<String>();
    for (what, text) in [
        (
            "unknown tables",
            many(&|number| format!("[sourc{number}]\n")) + BASE,
        ),
        (
            "unknown keys",
            head("[server]") + &many(&|number| format!("listn{number} = 1\n")),
        ),
        (
            "contacts",
            head("[contacts]") + &many(&|number| format!("x{number} = 1\n")),
        ),
        (
            "routes",
            head("") + &many(&|number| format!("[[route]]\nname = 'r{number}'\nto = [{number}]\n")),
        ),
        (
            "destinations",
            head("") + &many(&|number| format!("[destination.d{number}]\nkind = 'emial'\n")),
        ),
        (
            "names",
            format!(
                "{BASE}\n[[route]]\ndeliver = [{}]\n",
                many(&|number| format!("'scren{number}',"))
            ),
        ),
        (
            "items",
            format!(
                "{BASE}\n[[route]]\ndeliver = []\nto = [{}]\n",
                many(&|number| format!("{number},"))
            ),
        ),
    ] {
        let started = std::time::Instant::now();
        let problems = read(&text, Purpose::Check, &Outside::default(), None)
            .err()
            .unwrap();
        let took = started.elapsed();
        println!("{what}: {took:?}: {}", problems.unlisted().unwrap_or_default());
        assert!(problems.all().len() <= 200, "{what}: {}", problems.all().len());
        assert!(problems.unlisted().is_some(), "{what}");
        assert!(took.as_secs() < 60, "{what}: {took:?}");
    }
}
