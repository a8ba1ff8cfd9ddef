//! The page: one file in the program, and what a browser is told that it may do.

use aws_lc_rs::digest;
use axum::http::HeaderValue;
use axum::http::header::{self, HeaderName};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// All of it: text, style and script.
pub(super) const PAGE: &str = include_str!("page/index.html");

/// Of every answer: nothing is kept, guessed at, framed, or read by another site.
pub(super) const HEADERS: [(HeaderName, HeaderValue); 6] = [
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
];

/// What answers that are no page may do in a browser: nothing.
pub(super) const NOTHING: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; sandbox");

/// What the page may do: run the one script and style that are in it, by their hashes, and ask its own server. A text that came from the network and
/// was put in as HTML by a defect could run nothing and ask nobody; and there is no way to put it in (Trusted Types).
pub(super) fn policy() -> HeaderValue {
    let hash = |tag: &str| {
        let text = content(tag).unwrap_or_default();
        format!("'sha256-{}'", STANDARD.encode(digest::digest(&digest::SHA256, text.as_bytes())))
    };
    let policy = format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors \
         'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        hash("script"),
        hash("style"),
    );
    HeaderValue::from_str(&policy).unwrap_or(NOTHING)
}

/// What stands in the page's only element of this name.
fn content(tag: &str) -> Option<&'static str> {
    let (_, rest) = PAGE.split_once(&format!("<{tag}>"))?;
    rest.split_once(&format!("</{tag}>")).map(|(text, _)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_one_small_file_that_asks_nobody_else() {
        assert!(PAGE.len() < 200_000, "{} bytes", PAGE.len());
        for tag in ["script", "style"] {
            assert_eq!(PAGE.matches(&format!("<{tag}")).count(), 1, "one {tag}, so that its hash is enough");
            assert!(content(tag).unwrap().len() > 1000);
        }
        let policy = policy();
        assert!(policy.to_str().unwrap().contains("script-src 'sha256-"), "{policy:?}");
        // The namespace of SVG is a name and no address.
        let addresses = PAGE.replace("http://www.w3.org/2000/svg", "");
        for part in ["http://", "https://", "//cdn", "@import", "url(", "src=\"", " style=\"", "onclick="] {
            assert!(!addresses.contains(part), "{part}");
        }
    }

    #[test]
    fn the_page_puts_nothing_in_as_html() {
        for way in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "DOMParser",
            "eval(",
            "Function(",
            "createContextualFragment",
        ] {
            assert!(!PAGE.contains(way), "{way}");
        }
    }

    #[test]
    fn the_page_knows_every_reason_for_a_drop() {
        let script = content("script").unwrap();
        for reason in tunnel::Reason::ALL {
            assert!(script.contains(&format!("\n    {}: ", reason.name())), "{reason}");
        }
    }
}
