//! The static files of the page, which loads all data from the API. They are embedded in the binary, have no build
//! step and contain no data, so they are public.

use http::{HeaderValue, Method, StatusCode, header};
use warp::reply::Response;

use crate::web::{error, method_not_allowed};

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const JSON: &str = "application/json";

/// Path, media type and content of each file.
const FILES: &[(&str, &str, &str)] = &[
    ("/", HTML, include_str!("assets/index.html")),
    ("/assets/style.css", CSS, include_str!("assets/style.css")),
    ("/assets/icon.svg", SVG, include_str!("assets/icon.svg")),
    ("/assets/app.js", SCRIPT, include_str!("assets/app.js")),
    ("/assets/api.js", SCRIPT, include_str!("assets/api.js")),
    ("/assets/dom.js", SCRIPT, include_str!("assets/dom.js")),
    ("/assets/time.js", SCRIPT, include_str!("assets/time.js")),
    ("/assets/text.js", SCRIPT, include_str!("assets/text.js")),
    (
        "/assets/components.js",
        SCRIPT,
        include_str!("assets/components.js"),
    ),
    ("/assets/link.js", SCRIPT, include_str!("assets/link.js")),
    ("/assets/chart.js", SCRIPT, include_str!("assets/chart.js")),
    ("/assets/problems.js", SCRIPT, include_str!("assets/problems.js")),
    ("/assets/overview.js", SCRIPT, include_str!("assets/overview.js")),
    ("/assets/messages.js", SCRIPT, include_str!("assets/messages.js")),
    ("/assets/message.js", SCRIPT, include_str!("assets/message.js")),
    ("/assets/pending.js", SCRIPT, include_str!("assets/pending.js")),
    (
        "/assets/deliveries.js",
        SCRIPT,
        include_str!("assets/deliveries.js"),
    ),
    (
        "/assets/destinations.js",
        SCRIPT,
        include_str!("assets/destinations.js"),
    ),
    ("/assets/routes.js", SCRIPT, include_str!("assets/routes.js")),
    ("/api/v1/openapi.json", JSON, include_str!("openapi.json")),
];

/// Responds with a file.
pub(super) fn answer(method: &Method, path: &str) -> Response {
    let Some((_, media_type, content)) = FILES.iter().find(|(known, ..)| *known == path) else {
        return error(StatusCode::NOT_FOUND, "no such path");
    };
    if method != Method::GET && method != Method::HEAD {
        return method_not_allowed("GET, HEAD");
    }
    let mut response = Response::new((*content).into());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::unseen::{acts_unseen, looks_empty};

    /// The content security policy would block it, and the page would not work.
    #[test]
    fn the_page_has_no_inline_code_no_foreign_origin_and_no_raw_markup() {
        for (path, media_type, content) in FILES {
            let wrong: &[&str] = match *media_type {
                HTML => &[
                    "<style",
                    " style=",
                    " onclick=",
                    "http://",
                    "https://",
                    "<script>",
                ],
                CSS => &["@import", "url(http", "//"],
                SCRIPT => &[
                    "innerHTML",
                    "outerHTML",
                    "insertAdjacentHTML",
                    "document.write",
                    "eval(",
                    "setAttribute('style'",
                ],
                _ => &[],
            };
            for words in wrong {
                assert!(!content.contains(words), "{path} has {words}");
            }
        }
    }

    /// A missing import would only be noticed when the view that needs it is opened.
    #[test]
    fn every_referenced_file_is_embedded() {
        let mut named = 0;
        for (path, _, content) in FILES {
            let quoted = content.split(['"', '\'']).filter_map(|part| {
                let part = part
                    .strip_prefix("./")
                    .map_or(part.to_owned(), |rest| format!("/assets/{rest}"));
                (part.starts_with("/assets/")).then_some(part)
            });
            for file in quoted {
                named += 1;
                assert!(
                    FILES.iter().any(|(known, ..)| *known == file),
                    "{path} names {file}"
                );
            }
        }
        assert!(named > 10, "only {named} names were found");
    }

    /// The commands and the page must agree on what a message can hide.
    #[test]
    fn every_character_that_acts_unseen_is_shown_by_name() {
        let script = include_str!("assets/text.js");
        let class = script
            .split("const INVISIBLE = /")
            .nth(1)
            .and_then(|rest| rest.split("/u;").next())
            .unwrap();
        let shown = regex::Regex::new(class).unwrap();
        let is_shown = |c: char| shown.is_match(c.encode_utf8(&mut [0; 4]));
        let hidden = |c: char| (acts_unseen(c) || looks_empty(c)) && !['\n', '\t'].contains(&c);
        let different: Vec<char> = ('\0'..=char::MAX)
            .filter(|c| hidden(*c) != is_shown(*c))
            .collect();
        assert!(different.is_empty(), "{different:?}");
    }

    #[test]
    fn the_api_description_is_json() {
        let (_, _, content) = FILES.last().unwrap();
        let api: serde_json::Value = serde_json::from_str(content).unwrap();
        assert_eq!(api["openapi"], "3.1.0");
        assert_eq!(api["info"]["version"], env!("CARGO_PKG_VERSION"));
    }
}
