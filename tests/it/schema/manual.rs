//! The manual page smsbridge.toml(5), converted from the Markdown documentation of the configuration.
//!
//! Supports only the Markdown that this page uses: headings, paragraphs, lists, tables, code, emphasis and links.

use std::fmt::Write as _;

use crate::reference::{PAGE, cells};

/// The page after its first line, which names the version.
pub fn configuration() -> String {
    let mut page = Page {
        out: ".SH NAME\nsmsbridge.toml \\- configuration of smsbridge\n.SH DESCRIPTION\n".to_owned(),
        ..Page::default()
    };
    for line in PAGE.lines().skip(1) {
        page.line(line);
    }
    page.end_paragraph();
    page.out.push_str(".SH SEE ALSO\n.BR smsbridge (1)\n");
    page.out
}

#[derive(Default)]
struct Page {
    out: String,
    /// The lines of the current paragraph, collected because a link may span lines.
    paragraph: String,
    /// The request to write before the next paragraph.
    begin: &'static str,
    in_code: bool,
}

impl Page {
    fn line(&mut self, line: &str) {
        if line.starts_with("```") {
            self.end_paragraph();
            self.out
                .push_str(if self.in_code { ".EE\n" } else { ".PP\n.EX\n" });
            self.in_code = !self.in_code;
        } else if self.in_code {
            self.write(&escaped(line));
        } else if let Some(heading) = line.strip_prefix("### ") {
            self.heading(".SS", heading);
        } else if let Some(heading) = line.strip_prefix("## ") {
            self.heading(".SH", &heading.to_uppercase());
        } else if let Some(cells) = cells(line) {
            self.end_paragraph();
            self.row(&cells);
        } else if let Some(item) = line.strip_prefix("* ") {
            self.end_paragraph();
            self.begin = ".IP \\(bu 2\n";
            self.paragraph.push_str(item);
        } else if line.is_empty() {
            self.end_paragraph();
            self.begin = ".PP\n";
        } else {
            self.paragraph.push(' ');
            self.paragraph.push_str(line.trim_start());
        }
    }

    fn end_paragraph(&mut self) {
        let paragraph = std::mem::take(&mut self.paragraph);
        if !paragraph.is_empty() {
            self.out.push_str(std::mem::take(&mut self.begin));
            self.write(&inline(paragraph.trim_start()));
        }
    }

    fn heading(&mut self, request: &str, heading: &str) {
        self.end_paragraph();
        let _ = writeln!(
            self.out,
            "{request} \"{}\"",
            inline(heading).replace('"', "\\(dq")
        );
        self.begin = "";
    }

    /// Writes a table row as an entry of its own, because the tables are wider than a terminal.
    fn row(&mut self, cells: &[&str]) {
        let (name, entry) = match cells {
            ["key" | "type", ..] => return,
            [rule, ..] if rule.starts_with("---") => return,
            [key, kind, default, meaning, effect] => (
                format!("{key} ({kind}; {})", by_default(default, effect)),
                (*meaning).to_owned(),
            ),
            [name, rest @ ..] => ((*name).to_owned(), rest.join("; ")),
            [] => return,
        };
        self.out.push_str(".TP\n");
        self.write(&inline(&name));
        self.write(&inline(entry.trim_end_matches("; ")));
    }

    /// Writes a line of text, escaped so that it is not taken for a request.
    fn write(&mut self, line: &str) {
        if line.starts_with(['.', '\'']) {
            self.out.push_str("\\&");
        }
        self.out.push_str(line);
        self.out.push('\n');
    }
}

fn by_default(default: &str, effect: &str) -> String {
    match default {
        "" => effect.to_owned(),
        "required" => format!("required; {effect}"),
        _ => format!("default: {default}; {effect}"),
    }
}

/// Converts code to bold, and converts emphasis and links.
fn inline(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['`', '*', '[']) {
        let (before, marked) = rest.split_at(at);
        out.push_str(&escaped(before));
        let (shown, after) = span(marked);
        out.push_str(&shown);
        rest = after;
    }
    out + &escaped(rest)
}

/// Splits off the text up to the closing mark. A mark without a closing mark is an ordinary character.
fn span(marked: &str) -> (String, &str) {
    for (open, close, font) in [("`", "`", "\\fB"), ("**", "**", "\\fB"), ("*", "*", "\\fI")] {
        if let Some((inside, after)) = marked.strip_prefix(open).and_then(|rest| rest.split_once(close)) {
            return (format!("{font}{}\\fR", escaped(inside)), after);
        }
    }
    if let Some((words, rest)) = marked.strip_prefix('[').and_then(|rest| rest.split_once("]("))
        && let Some((target, after)) = rest.split_once(')')
    {
        let elsewhere = target.starts_with("https://");
        let target = if elsewhere {
            format!(" <{}>", escaped(target))
        } else {
            String::new()
        };
        return (inline(words) + &target, after);
    }
    let (mark, after) = marked.split_at(1);
    (mark.to_owned(), after)
}

/// Escapes a text for any terminal and character set.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\e"),
            '-' => out.push_str("\\-"),
            '`' => out.push_str("\\(ga"),
            '\'' => out.push_str("\\(aq"),
            '^' => out.push_str("\\(ha"),
            '~' => out.push_str("\\(ti"),
            _ if c.is_ascii() => out.push(c),
            _ => {
                let _ = write!(out, "\\[u{:04X}]", u32::from(c));
            }
        }
    }
    out
}
