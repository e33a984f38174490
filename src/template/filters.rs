//! The filters that a template can use. Each counts its input and output, so that a rendering has bounded
//! time and memory; filters that could create large output from small input have their own implementation.

use minijinja::value::{Kwargs, Rest, StringInput, Value, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, State, filters};

/// Limit for the bytes and items that all filters of one rendering may read and create.
const WORK_MAX: usize = 64 * 1024 * 1024;

/// Maximum width of `indent`.
const INDENT_MAX: usize = 100;

/// Limit for the output of one filter: this many bytes, and twice the length of its input.
const MADE_MAX: usize = 1024 * 1024;

/// Adds the filters.
pub(super) fn add(environment: &mut Environment<'_>) {
    let all = [
        ("abs", Value::from_function(filters::abs)),
        ("attr", Value::from_function(filters::attr)),
        ("bool", Value::from_function(filters::bool)),
        ("capitalize", Value::from_function(filters::capitalize)),
        ("count", Value::from_function(filters::length)),
        ("d", Value::from_function(filters::default)),
        ("default", Value::from_function(filters::default)),
        ("dictsort", Value::from_function(filters::dictsort)),
        // Everything is already escaped once: an `| e` written by habit must not escape it twice.
        ("e", Value::from_function(|value: Value| value)),
        ("escape", Value::from_function(|value: Value| value)),
        ("first", Value::from_function(filters::first)),
        ("float", Value::from_function(filters::float)),
        ("indent", Value::from_function(indent)),
        ("int", Value::from_function(filters::int)),
        ("items", Value::from_function(filters::items)),
        ("join", Value::from_function(join)),
        ("last", Value::from_function(filters::last)),
        ("length", Value::from_function(filters::length)),
        ("lines", Value::from_function(filters::lines)),
        ("list", Value::from_function(filters::list)),
        ("lower", Value::from_function(filters::lower)),
        ("map", Value::from_function(map)),
        ("max", Value::from_function(filters::max)),
        ("min", Value::from_function(filters::min)),
        ("reject", Value::from_function(filters::reject)),
        ("rejectattr", Value::from_function(filters::rejectattr)),
        ("replace", Value::from_function(replace)),
        ("reverse", Value::from_function(filters::reverse)),
        ("round", Value::from_function(filters::round)),
        ("select", Value::from_function(filters::select)),
        ("selectattr", Value::from_function(filters::selectattr)),
        ("sort", Value::from_function(filters::sort)),
        ("split", Value::from_function(filters::split)),
        ("string", Value::from_function(filters::string)),
        ("title", Value::from_function(filters::title)),
        ("trim", Value::from_function(filters::trim)),
        ("unique", Value::from_function(filters::unique)),
        ("upper", Value::from_function(filters::upper)),
    ];
    for (name, filter) in all {
        let each = EACH.contains(&name);
        environment.add_filter(name, move |state: &mut State, arguments: Rest<ValueOrKwargs>| {
            let arguments = arguments.into_values();
            let items = arguments.first().and_then(Value::len).filter(|_| each);
            let given: usize = arguments.iter().map(size).sum();
            work(state, given.saturating_mul(items.unwrap_or(1)))?;
            let made = filter.call(state, &arguments)?;
            work(state, size(&made))?;
            Ok(made)
        });
    }
}

/// The filters that process each item.
const EACH: [&str; 4] = ["reject", "rejectattr", "select", "selectattr"];

/// The work of all filters of a rendering.
#[derive(Default)]
struct Worked(usize);

fn work(state: &mut State, more: usize) -> Result<(), Error> {
    let worked = state.get_or_insert_extension(Worked::default());
    worked.0 = worked.0.saturating_add(more);
    if worked.0 > WORK_MAX {
        return Err(too_much("the filters have too much to do".to_owned()));
    }
    Ok(())
}

/// Its size in bytes or items, and one for the value itself.
fn size(value: &Value) -> usize {
    let length = value.as_str().map(str::len).or_else(|| value.len());
    length.unwrap_or_default().saturating_add(1)
}

/// An error that rejects the template if it occurs at compile time.
fn too_much(what: String) -> Error {
    Error::new(ErrorKind::OutOfFuel, what)
}

/// Checks that an output of this length may be created from an input of that length.
fn may_make(length: usize, of: usize) -> Result<(), Error> {
    if length > of.saturating_mul(2).saturating_add(MADE_MAX) {
        return Err(too_much("the result of a filter is too large".to_owned()));
    }
    Ok(())
}

fn replace(text: StringInput<'_>, from: StringInput<'_>, to: StringInput<'_>) -> Result<String, Error> {
    let (text, from, to) = (text.as_str(), from.as_str(), to.as_str());
    let found = text.matches(from).count();
    may_make(
        text.len().saturating_add(found.saturating_mul(to.len())),
        text.len(),
    )?;
    Ok(text.replace(from, to))
}

/// Indents by four spaces or the given number; not the first line, unless requested.
fn indent(
    text: StringInput<'_>,
    width: Option<usize>,
    first: Option<bool>,
    blank: Option<bool>,
    named: Kwargs,
) -> Result<String, Error> {
    let width = width
        .map_or_else(|| named.get("width"), |width| Ok(Some(width)))?
        .unwrap_or(4);
    let first = first
        .map_or_else(|| named.get("first"), |first| Ok(Some(first)))?
        .unwrap_or(false);
    let blank = blank
        .map_or_else(|| named.get("blank"), |blank| Ok(Some(blank)))?
        .unwrap_or(false);
    named.assert_all_used()?;
    if width > INDENT_MAX {
        return Err(too_much(format!("`indent` by more than {INDENT_MAX}")));
    }
    let text = text.as_str();
    let text = text.strip_suffix('\n').unwrap_or(text);
    let lines = text.matches('\n').count() + 1;
    may_make(text.len().saturating_add(lines * width), text.len())?;
    let spaces = " ".repeat(width);
    let lines = text.split('\n').enumerate().map(|(at, line)| {
        let is_blank = line.trim_end_matches('\r').is_empty();
        let indented = (at > 0 || first) && (blank || !is_blank);
        format!("{}{line}", if indented { spaces.as_str() } else { "" })
    });
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// Joins strings, with a separator if given.
fn join(
    state: &State,
    list: Value,
    between: Option<StringInput<'_>>,
    named: Kwargs,
) -> Result<String, Error> {
    let attribute: Option<&str> = named.get("attribute")?;
    named.assert_all_used()?;
    let between = between.as_ref().map_or("", StringInput::as_str);
    let of = list.as_str().map_or(0, str::len);
    let mut joined = String::new();
    for (at, item) in list.try_iter()?.enumerate() {
        let item = match attribute {
            Some(attribute) => item.get_attr(attribute)?,
            None => item,
        };
        let item = StringInput::new(state, &item)?.as_str().to_owned();
        may_make(
            joined
                .len()
                .saturating_add(between.len())
                .saturating_add(item.len()),
            of,
        )?;
        if at > 0 {
            joined.push_str(between);
        }
        joined.push_str(&item);
    }
    Ok(joined)
}

/// One attribute of each item, or each item filtered.
fn map(state: &mut State, list: Value, arguments: Rest<ValueOrKwargs>) -> Result<Vec<Value>, Error> {
    let values: Vec<Value> = arguments.iter().map(|value| Value::clone(value)).collect();
    let (_, named): (&[Value], Kwargs) = from_args(&values)?;
    // It would create as many copies of one value as there are items.
    if named.has("default") {
        return Err(too_much("`map` with `default`".to_owned()));
    }
    filters::map(state, list, arguments)
}

#[cfg(test)]
mod tests {
    use minijinja::context;

    use super::*;

    fn eval(expression: &str) -> Result<Value, Error> {
        let mut environment = Environment::empty();
        add(&mut environment);
        let expression = environment.compile_expression(expression).unwrap();
        expression.eval(context! { text => "x".repeat(100_000), words => ["a", "b"], media => [context! { link => "l" }] })
    }

    #[test]
    fn our_own_filters_behave_like_those_of_jinja() {
        for (expression, made) in [
            ("'a\nb\n\nc\n'|indent(2)", "a\n  b\n\n  c"),
            ("'a\nb'|indent(2, true)", "  a\n  b"),
            ("'a\n\nb'|indent(width=1, first=true, blank=true)", " a\n \n b"),
            ("'a\nb'|indent", "a\n    b"),
            ("words|join(', ')", "a, b"),
            ("words|join", "ab"),
            ("media|join('-', attribute='link')", "l"),
            ("media|map(attribute='link')|join", "l"),
            ("words|map('upper')|join(1)", "A1B"),
            ("'abab'|replace('a', 'c')", "cbcb"),
        ] {
            assert_eq!(eval(expression).unwrap().to_string(), made, "{expression}");
        }
    }

    #[test]
    fn no_filter_creates_large_output_from_small_input() {
        for expression in [
            "text|replace('x', text)",
            "text|replace('', text)",
            "text|list|join(text)",
            "text|list|map('replace', '', text)|list",
            "text|indent(101)",
            "('\n'|list + text|list)|join('\n')|indent(100)|indent(100)",
            "text|list|select('in', text)|list",
            "words|map(attribute='none', default=text)",
        ] {
            let error = eval(expression).expect_err(expression);
            assert_eq!(error.kind(), ErrorKind::OutOfFuel, "{expression}: {error}");
        }
    }
}
