//! Replacing what stands between two marks of a page.

use anyhow::{Context, Result};

/// Puts `body` between the marks `<!-- bench: NAME begin -->` and `<!-- bench: NAME end -->`.
pub(crate) fn replace(page: &str, name: &str, body: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- bench: {name} begin -->"), format!("<!-- bench: {name} end -->"));
    let (before, rest) = page.split_once(&begin).with_context(|| format!("the page has no mark {begin:?}"))?;
    let (_, after) = rest.split_once(&end).with_context(|| format!("the page has no mark {end:?}"))?;
    Ok(format!("{before}{begin}\n\n{}\n\n{end}{after}", body.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_changes_and_doing_it_again_changes_nothing() {
        let page =
            "a\n<!-- bench: x begin -->\nold\n<!-- bench: x end -->\nb\n<!-- bench: y begin --><!-- bench: y end -->";
        let once = replace(page, "x", "new\n").expect("the marks are there");
        assert!(once.starts_with("a\n<!-- bench: x begin -->\n\nnew\n\n<!-- bench: x end -->\nb\n"), "{once}");
        assert!(!once.contains("old") && once.ends_with("<!-- bench: y begin --><!-- bench: y end -->"));
        assert_eq!(replace(&once, "x", "new").expect("again"), once);
        assert!(replace(page, "z", "").is_err());
    }
}
