//! The pages of the documentation and the code in them.

use std::fs;
use std::path::{Path, PathBuf};

/// A piece of code between fences.
pub struct Block {
    pub file: String,
    pub language: String,
    pub text: String,
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub fn blocks_of(file: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, Block)> = None;
    for line in page(file).lines() {
        let indent = line.len() - line.trim_start().len();
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (None, Some(language)) => {
                let (file, language) = (file.to_owned(), language.to_owned());
                open = Some((
                    indent,
                    Block {
                        file,
                        language,
                        text: String::new(),
                    },
                ));
            }
            (Some(_), Some(_)) => blocks.extend(open.take().map(|(_, block)| block)),
            (Some((outer, block)), None) => {
                block.text.push_str(line.get(*outer..).unwrap_or_default());
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{file}: a fence is not closed");
    blocks
}

pub fn block(file: &str, language: &str, words: &str) -> String {
    let mut found = blocks_of(file)
        .into_iter()
        .filter(|block| block.language == language && block.text.contains(words));
    let first = found
        .next()
        .unwrap_or_else(|| panic!("{file}: no {language} with {words}"));
    assert!(found.next().is_none(), "{}: several with {words}", first.file);
    first.text
}

/// The blocks of one language in the section about proxies and TLS.
pub fn snippets(language: &str) -> Vec<String> {
    let document =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).unwrap();
    let section = document
        .split("## Behind a proxy, or TLS by itself\n")
        .nth(1)
        .unwrap();
    let section = section.split("\n## ").next().unwrap();
    let begin = format!("```{language}\n");
    let blocks = section.split(&begin).skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap().to_owned())
        .collect()
}
