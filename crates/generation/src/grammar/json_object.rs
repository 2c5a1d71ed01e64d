//! The grammar of JSON mode.

use std::fmt::Write;

/// How deep objects and arrays may lie in each other. Parsers have limits too: `serde_json`'s is 128.
pub(super) const DEPTH: usize = 64;

/// Digits are limited so that every number fits 64-bit floating point: some parsers refuse 1e999. Of
/// escapes, `\u` is for whole characters only: pairs of surrogates, none alone.
const TERMINALS: &str = r#"
NUMBER: /-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,32})?([eE][+-]?[0-9]{1,2})?/
STRING: /"([^"\\\x00-\x1f\x7f]|\\["\\\/bfnrt]|\\u([0-9a-cA-CefEF][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}|[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))*"/
"#;

/// An object in Lark's syntax, with `white_space` (a regular expression) once between any two parts.
/// Nesting is written out level by level, since a recursive rule could not count.
pub(super) fn lark(white_space: &str) -> String {
    let mut lark = format!(
        "%llguidance {{\"ignore_once\": true}}\n%ignore /{white_space}/\n{TERMINALS}\nstart: object_1\nscalar: \"null\" | \"true\" | \"false\" | NUMBER | STRING\n"
    );
    for level in 1..=DEPTH {
        let inner = level + 1;
        let nested = if level < DEPTH { format!(" | object_{inner} | array_{inner}") } else { String::new() };
        // Writing to a `String` cannot fail.
        let _ = writeln!(lark, "value_{level}: scalar{nested}");
        let _ = writeln!(lark, "member_{level}: STRING \":\" value_{level}");
        let _ = writeln!(lark, "object_{level}: \"{{\" (member_{level} (\",\" member_{level})*)? \"}}\"");
        if level > 1 {
            let _ = writeln!(lark, "array_{level}: \"[\" (value_{level} (\",\" value_{level})*)? \"]\"");
        }
    }
    lark
}
