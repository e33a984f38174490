//! Limits the memory and the stack that a template can use, based on its source before it is parsed.
//!
//! The parser, the compiler and their results recurse as deeply as expressions nest, and a stack overflow
//! ends the whole process. A rendering is limited in its steps and its output, but one step may double a
//! value. Therefore a value must not be made of many others, and operators that only multiply are not allowed
//! at all.

use std::collections::HashMap;

use minijinja::machinery::{Span, Token, tokenize};

use super::{TemplateError, explain};

/// Maximum length of a template, in bytes.
const SOURCE_MAX: usize = 16 * 1024;

/// Maximum number of operators, filters, brackets and dots between one pair of braces. Each may nest one
/// level deeper.
const OPERATORS_MAX: usize = 200;

/// Maximum number of `elif`: each is nested in the previous one.
const ELIF_MAX: usize = 100;

/// Maximum number of values that one value may be made of.
const PARTS_MAX: usize = 50;

/// Maximum nesting depth of lists.
const NESTING_MAX: usize = 200;

/// Rejects a template that could exceed the limits for memory or the stack.
pub(super) fn check(source: &str) -> Result<(), TemplateError> {
    if source.len() > SOURCE_MAX {
        let (length, most) = (source.len(), SOURCE_MAX / 1024);
        return Err(refused(
            None,
            format!("{length} bytes long; a template may have {most} KiB"),
        ));
    }
    let mut tags = Vec::new();
    let mut tag: Option<Tag> = None;
    for token in tokenize(source, false, minijinja::syntax::SyntaxConfig::default()) {
        let (token, span) = token.map_err(|error| explain(&error))?;
        match (token, &mut tag) {
            (Token::VariableStart, _) => tag = Some(Tag::at(span, false)),
            (Token::BlockStart, _) => tag = Some(Tag::at(span, true)),
            (Token::VariableEnd | Token::BlockEnd, _) => tags.extend(tag.take()),
            (token, Some(tag)) => tag.take(&token)?,
            (_, None) => {}
        }
    }
    tags.extend(tag);
    if let Some(tag) = tags.iter().filter(|tag| tag.keyword == "elif").nth(ELIF_MAX) {
        return Err(tag.refused(format!(
            "more than {ELIF_MAX} `elif`; look the value up in a map instead"
        )));
    }
    sizes(&tags)
}

fn refused(line: Option<usize>, message: String) -> TemplateError {
    TemplateError { message, line }
}

/// The content of one pair of braces.
struct Tag<'s> {
    line: usize,
    /// True for a statement whose keyword has not been read yet.
    begins: bool,
    /// `if`, `for`, `set`; `None` between `{{ }}`.
    keyword: &'s str,
    operators: usize,
    /// The number of operators that can nest values.
    brackets: usize,
    /// One of them makes one value from several.
    joins: bool,
    open: usize,
    words: Vec<Word<'s>>,
    /// After a dot, the bar of a filter, or `is`: the next word does not name a value.
    names_no_value: bool,
}

/// A name, or a keyword.
#[derive(Clone, Copy)]
enum Word<'s> {
    Name(&'s str),
    Assign,
    In,
    If,
    Comma,
}

impl<'s> Tag<'s> {
    fn at(span: Span, is_statement: bool) -> Self {
        Self {
            line: usize::from(span.start_line),
            begins: is_statement,
            keyword: "",
            operators: 0,
            brackets: 0,
            joins: false,
            open: 0,
            words: Vec::new(),
            names_no_value: false,
        }
    }

    fn refused(&self, message: String) -> TemplateError {
        refused(Some(self.line), message)
    }

    fn take(&mut self, token: &Token<'s>) -> Result<(), TemplateError> {
        let names_no_value = std::mem::take(&mut self.names_no_value);
        if let (true, Token::Ident(keyword)) = (std::mem::take(&mut self.begins), token) {
            self.keyword = keyword;
            return Ok(());
        }
        self.joins |= matches!(
            token,
            Token::Tilde | Token::Plus | Token::Comma | Token::BraceOpen
        );
        match token {
            Token::Mul | Token::Pow => {
                return Err(self.refused(format!("{token} cannot be used in a template")));
            }
            Token::Ident("if") => {
                self.operators += 1;
                if self.open == 0 {
                    self.words.push(Word::If);
                }
            }
            Token::Ident("or" | "and" | "else") => self.operators += 1,
            Token::Ident("not") => {
                self.operators += 1;
                self.names_no_value = names_no_value;
            }
            Token::Ident("is") => {
                self.operators += 1;
                self.names_no_value = true;
            }
            Token::Ident("in") => {
                self.operators += 1;
                self.words.push(Word::In);
            }
            Token::Ident("true" | "True" | "false" | "False" | "none" | "None") => {}
            Token::Ident("recursive") => {
                return Err(self.refused("a loop cannot be recursive in a template".to_owned()));
            }
            Token::Ident(name) if !names_no_value => self.words.push(Word::Name(name)),
            Token::Ident(_) => {}
            Token::Assign if self.open == 0 => self.words.push(Word::Assign),
            Token::Comma if self.open == 0 => self.words.push(Word::Comma),
            Token::Dot | Token::Pipe => {
                self.operators += 1;
                self.brackets += usize::from(matches!(token, Token::Pipe));
                self.names_no_value = true;
            }
            Token::BracketOpen | Token::ParenOpen | Token::BraceOpen => {
                self.operators += 1;
                self.brackets += 1;
                self.open += 1;
            }
            Token::BracketClose | Token::ParenClose | Token::BraceClose => {
                self.open = self.open.saturating_sub(1)
            }
            Token::Plus
            | Token::Minus
            | Token::Div
            | Token::FloorDiv
            | Token::Mod
            | Token::Tilde
            | Token::Eq
            | Token::Ne
            | Token::Gt
            | Token::Gte
            | Token::Lt
            | Token::Lte => self.operators += 1,
            _ => {}
        }
        if self.operators > OPERATORS_MAX {
            return Err(self.refused(format!(
                "an expression with more than {OPERATORS_MAX} operators and filters"
            )));
        }
        Ok(())
    }

    /// The names that are assigned here, and the names that the values are made of.
    fn names(&self) -> (Vec<&'s str>, Vec<&'s str>) {
        let is_assign = |word: &Word<'_>| matches!(word, Word::Assign);
        let (mut given, mut made_of) = (Vec::new(), Vec::new());
        let end = match self.keyword {
            "for" => self.words.iter().position(|word| matches!(word, Word::In)),
            "set" => self.words.iter().position(is_assign).or(Some(self.words.len())),
            _ => None,
        };
        // Selecting the items of a loop makes none of them larger.
        let condition = self
            .words
            .iter()
            .position(|word| self.keyword == "for" && matches!(word, Word::If));
        let condition = condition.unwrap_or(self.words.len());
        for (at, word) in self.words.iter().enumerate() {
            let Word::Name(name) = word else { continue };
            let before_assign = self.keyword == "with" && self.words.get(at + 1).is_some_and(is_assign);
            if before_assign || end.is_some_and(|end| at < end) {
                given.push(*name);
            } else if at < condition {
                made_of.push(*name);
            }
        }
        (given, made_of)
    }
}

/// The maximum size of a value: the number of values it is made of, and their nesting depth.
#[derive(Clone, Copy)]
struct Size {
    parts: usize,
    nesting: usize,
}

/// Values of the message, and the results of `{% set %}` blocks, are already limited.
const GIVEN: Size = Size { parts: 1, nesting: 0 };

/// Determines the sizes of assigned names, in the order of the template. A name set in one round of a loop is
/// gone in the next. A name may have any of the values assigned before, so the largest counts.
fn sizes(tags: &[Tag<'_>]) -> Result<(), TemplateError> {
    let mut sizes: HashMap<&str, Size> = HashMap::new();
    for tag in tags {
        let (given, made_of) = tag.names();
        let mut size = Size {
            parts: 0,
            nesting: tag.brackets,
        };
        for name in made_of {
            let part = sizes.get(name).unwrap_or(&GIVEN);
            size.parts = if tag.joins {
                size.parts + part.parts
            } else {
                size.parts.max(part.parts)
            };
            size.nesting = size.nesting.max(tag.brackets + part.nesting);
        }
        if size.parts > PARTS_MAX {
            return Err(tag.refused(too_many(&given)));
        }
        if size.nesting > NESTING_MAX {
            return Err(tag.refused(format!("lists in lists more than {NESTING_MAX} deep")));
        }
        for name in given {
            let known = sizes.entry(name).or_insert(GIVEN);
            known.parts = known.parts.max(size.parts);
            known.nesting = known.nesting.max(size.nesting);
        }
    }
    Ok(())
}

fn too_many(given: &[&str]) -> String {
    let what = match given {
        [] => "this".to_owned(),
        names => format!("`{}`", names.join("`, `")),
    };
    format!(
        "{what} is made of more than {PARTS_MAX} values; to build a longer string, render it between {{% set name %}} and \
         {{% endset %}}"
    )
}

#[cfg(test)]
mod tests {
    use super::super::Template;
    use super::*;

    /// Constructs that nest: before, one level, in the middle, one level, after.
    const DEEP: [(&str, &str, &str, &str, &str, &str); 24] = [
        ("filters", "{{ text", "|upper", "", "", " }}"),
        (
            "filters of a block",
            "{% filter upper",
            "|upper",
            "",
            "",
            " %}{% endfilter %}",
        ),
        (
            "filters of a captured block",
            "{% set x",
            "|upper",
            "",
            "",
            " %}{% endset %}",
        ),
        ("not", "{{ ", "not ", "text", "", " }}"),
        ("minus", "{{ ", "-", "1", "", " }}"),
        ("attributes", "{{ text", ".a", "", "", " }}"),
        ("items", "{{ text", "[0]", "", "", " }}"),
        ("calls", "{{ text", "()", "", "", " }}"),
        ("methods", "{{ text", ".a()", "", "", " }}"),
        ("or", "{{ text", " or text", "", "", " }}"),
        ("and", "{{ text", " and 1", "", "", " }}"),
        ("plus", "{{ 1", "+1", "", "", " }}"),
        ("concatenations", "{{ 1", "~1", "", "", " }}"),
        ("powers", "{{ 1", "**1", "", "", " }}"),
        ("comparisons", "{{ 1", "==1", "", "", " }}"),
        ("tests", "{{ text", " is defined", "", "", " }}"),
        ("if", "{{ 1", " if 1", "", "", " }}"),
        ("else", "{{ 1", " if 1 else 1", "", "", " }}"),
        ("parentheses", "{{ ", "(", "1", ")", " }}"),
        ("lists", "{{ ", "[", "1", "]", " }}"),
        ("maps", "{{ ", "{1:", "1", "}", " }}"),
        ("assignments", "{% set ", "(", "x", ")", " = 1 %}"),
        ("statements", "", "{% if 1 %}", "", "{% endif %}", ""),
        ("elif", "{% if 1 %}", "{% elif 1 %}", "", "", "{% endif %}"),
    ];

    fn deep(
        (_, before, level, middle, back, after): (&str, &str, &str, &str, &str, &str),
        levels: usize,
    ) -> String {
        format!(
            "\n{before}{}{middle}{}{after}",
            level.repeat(levels),
            back.repeat(levels)
        )
    }

    /// Compiles on a stack no larger than those of the daemon's threads.
    fn compile(source: String) -> Result<(), TemplateError> {
        let thread = std::thread::Builder::new().stack_size(2 << 20);
        let compiled = thread
            .spawn(move || Template::compile(&source).map(drop))
            .unwrap();
        compiled.join().unwrap()
    }

    #[test]
    fn too_deep_nesting_is_an_error_with_its_line() {
        for kind in DEEP {
            for levels in [1_000, 2_000, 100_000] {
                let error = compile(deep(kind, levels)).expect_err(kind.0);
                let place = (kind.0, levels, error.line);
                assert!(
                    error.line.is_some_and(|line| line == 2) || deep(kind, levels).len() > SOURCE_MAX,
                    "{place:?}"
                );
            }
        }
    }

    #[test]
    fn the_deepest_allowed_nesting_fits_on_the_stack() {
        for kind in DEEP {
            let (mut least, mut most) = (1, 500);
            while least + 1 < most {
                let middle = usize::midpoint(least, most);
                // Not all of them are valid, but all of them are parsed.
                match check(&deep(kind, middle)) {
                    Ok(()) => least = middle,
                    Err(_) => most = middle,
                }
            }
            println!("{}: {least} levels", kind.0);
            let _ = compile(deep(kind, least));
        }
    }

    #[test]
    fn a_template_of_ordinary_size_is_accepted() {
        let list: Vec<String> = (0..300).map(|number| format!("'+1303555{number:04}'")).collect();
        let elif: String = (0..60)
            .map(|number| format!("{{% elif from == '{number}' %}}{number}"))
            .collect();
        for source in [
            format!("{{% if from in [{}] %}}known{{% endif %}}", list.join(", ")),
            format!("{{% if not text %}}{elif}{{% else %}}x{{% endif %}}"),
            format!("{{% if {} text == 'x' %}}x{{% endif %}}", "from == 'x' or ".repeat(90)),
            "{% set who = from_name or from %}{{ who }}: {{ text|replace('\n', ' ')|trim }} ({{ who|upper }})".to_owned(),
            "{% set lines %}{% for m in media %}{{ loop.index }}. {{ m.link }}\n{% endfor %}{% endset %}{{ lines|indent(2) }}"
                .to_owned(),
            "{% set text = text|trim %}{% set text = text ~ '!' %}{{ text }}".to_owned(),
            "{{ media|map(attribute='link')|join(', ') }}{{ text|lines|first|default('-') }}".to_owned(),
            "{% for m in media if m.content_type is startingwith 'image/' %}{{ m.link ~ '\n' }}{% endfor %}".to_owned(),
            "x".repeat(SOURCE_MAX),
        ] {
            assert_eq!(compile(source.clone()), Ok(()), "{source}");
        }
    }

    #[test]
    fn a_value_that_grows_with_every_line_is_refused() {
        let lines = |first: &str, line: &dyn Fn(usize) -> String, last: &str| {
            let lines: String = (0..40).map(line).collect();
            format!("{first}\n{lines}{last}")
        };
        for (what, source) in [
            (
                "doubled",
                lines(
                    "{% set a0 = text %}",
                    &|n| format!("{{% set a{} = a{n} ~ a{n} %}}", n + 1),
                    "{{ a40 }}",
                ),
            ),
            (
                "listed",
                lines(
                    "{% set a0 = text %}",
                    &|n| format!("{{% set a{} = [a{n}, a{n}] %}}", n + 1),
                    "{{ a40 }}",
                ),
            ),
            (
                "with",
                lines(
                    "",
                    &|n| format!("{{% with a{} = a{n} ~ a{n} %}}", n + 1),
                    &"{% endwith %}".repeat(40),
                ),
            ),
            (
                "for",
                lines(
                    "",
                    &|n| format!("{{% for a{} in [a{n} ~ a{n}] %}}", n + 1),
                    &"{% endfor %}".repeat(40),
                ),
            ),
            ("itself", format!("\n{}", "{% set x = [x] %}".repeat(300))),
            (
                "a namespace",
                "\n{% set n = namespace() %}{% set n.x = n %}{{ n }}".to_owned(),
            ),
            (
                "recursion",
                "\n{% for x in [text] recursive %}{{ loop([x ~ x]) }}{% endfor %}".to_owned(),
            ),
            ("times", "\n{{ text * 1000000000 }}".to_owned()),
            ("indent", "\n{{ text|indent(1000000000) }}".to_owned()),
            ("format", "\n{{ '%1000000000d'|format(1) }}".to_owned()),
            ("batch", "\n{{ [1]|batch(1000000000, 1) }}".to_owned()),
            (
                "nesting",
                format!("\n{}", "{% set a = [[[[[[[[[[a]]]]]]]]]] %}".repeat(50)),
            ),
        ] {
            let error = compile(source).expect_err(what);
            println!("{what}: {error} in line {:?}", error.line);
        }
    }
}
