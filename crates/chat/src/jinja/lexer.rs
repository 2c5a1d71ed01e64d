//! A template's source to tokens, with the whitespace rules that Hugging Face renders with:
//! `trim_blocks` and `lstrip_blocks` on, one newline at the end of the source dropped.
//!
//! After Jinja 3.1's `lexer.py`, whose rules real templates were written against.

use super::SyntaxError;

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    /// Text outside of tags.
    Data(String),
    /// `{%`
    BlockBegin,
    /// `%}`
    BlockEnd,
    /// `{{`
    PrintBegin,
    /// `}}`
    PrintEnd,
    /// A name or a keyword.
    Name(String),
    /// A string.
    Text(String),
    /// An integer.
    Int(i64),
    /// A number with a fraction or an exponent.
    Float(f64),
    /// An operator or a bracket.
    Operator(&'static str),
    /// Nothing follows.
    End,
}

/// Operators, longer ones before those they begin with.
const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".",
    ":", "|", ",", ";",
];

/// The tokens of a source, each with its line.
pub(crate) fn tokens(source: &str) -> Result<Vec<(Token, u32)>, SyntaxError> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut lexer = Lexer { source, at: 0, line: 1, counted: 0, tokens: Vec::new() };
    while lexer.at < source.len() {
        lexer.root()?;
    }
    lexer.push(Token::End);
    Ok(lexer.tokens)
}

struct Lexer<'s> {
    source: &'s str,
    at: usize,
    line: u32,
    /// Up to where newlines were counted.
    counted: usize,
    tokens: Vec<(Token, u32)>,
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn line(&mut self) -> u32 {
        let passed = &self.source.as_bytes()[self.counted..self.at];
        self.line += passed.iter().filter(|byte| **byte == b'\n').count() as u32;
        self.counted = self.at;
        self.line
    }

    fn push(&mut self, token: Token) {
        let line = self.line();
        self.tokens.push((token, line));
    }

    fn fail<T>(&mut self, what: impl Into<String>) -> Result<T, SyntaxError> {
        Err(SyntaxError { line: self.line(), what: what.into() })
    }

    fn skip_space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    /// Text up to the next tag, and the tag.
    fn root(&mut self) -> Result<(), SyntaxError> {
        let begin = self.at;
        let rest = self.rest();
        let Some(tag) = rest
            .match_indices('{')
            .find(|(at, _)| rest.as_bytes().get(at + 1).is_some_and(|next| matches!(next, b'{' | b'%' | b'#')))
        else {
            self.at = self.source.len();
            self.data(rest);
            return Ok(());
        };
        let (text, tag) = rest.split_at(tag.0);
        let kind = tag.as_bytes()[1];
        let sign = tag.as_bytes().get(2).copied().filter(|sign| matches!(sign, b'-' | b'+'));
        let line_begins = begin == 0 || self.source.as_bytes()[begin - 1] == b'\n';
        self.data(stripped(text, sign, kind != b'{', line_begins));
        self.at = begin + text.len();
        if kind == b'%' && self.raw()? {
            return Ok(());
        }
        let length = 2 + usize::from(sign.is_some());
        match kind {
            b'#' => {
                self.at += length;
                self.comment()
            }
            b'%' => {
                self.push(Token::BlockBegin);
                self.at += length;
                self.tag("%}")
            }
            _ => {
                self.push(Token::PrintBegin);
                self.at += length;
                self.tag("}}")
            }
        }
    }

    fn data(&mut self, text: &str) {
        if !text.is_empty() {
            self.push(Token::Data(text.to_owned()));
        }
    }

    fn comment(&mut self) -> Result<(), SyntaxError> {
        let rest = self.rest();
        let Some(end) = rest.find("#}") else { return self.fail("a comment is not closed") };
        let sign = end.checked_sub(1).map(|before| rest.as_bytes()[before]);
        self.at += end + 2;
        self.after_close(sign, true);
        Ok(())
    }

    /// What follows a tag and is dropped with it.
    fn after_close(&mut self, sign: Option<u8>, block: bool) {
        if sign == Some(b'-') {
            self.skip_space();
        } else if block && sign != Some(b'+') && self.rest().starts_with('\n') {
            self.at += 1;
        }
    }

    /// `{% raw %}` up to `{% endraw %}`, where it stands here.
    fn raw(&mut self) -> Result<bool, SyntaxError> {
        let Some((length, sign, _)) = keyword_tag(self.rest(), "raw") else { return Ok(false) };
        self.at += length;
        if sign == Some(b'-') {
            self.skip_space();
        }
        let rest = self.rest();
        let line_begins = self.source.as_bytes()[self.at - 1] == b'\n';
        let end = rest.match_indices("{%").find_map(|(at, _)| Some((at, keyword_tag(&rest[at..], "endraw")?)));
        let Some((text, (length, close, open))) = end else { return self.fail("a raw block is not closed") };
        self.data(stripped(&rest[..text], open, true, line_begins));
        self.at += text + length;
        self.after_close(close, true);
        Ok(true)
    }

    /// The tokens of a tag, up to and with its `close`.
    fn tag(&mut self, close: &str) -> Result<(), SyntaxError> {
        let mut open: Vec<&str> = Vec::new();
        loop {
            self.skip_space();
            let rest = self.rest();
            if rest.is_empty() {
                return self.fail("a tag is not closed");
            }
            if open.is_empty() {
                let sign = rest.as_bytes()[0];
                let signed = sign == b'-' || (sign == b'+' && close == "%}");
                if rest[usize::from(signed)..].starts_with(close) {
                    self.push(if close == "%}" { Token::BlockEnd } else { Token::PrintEnd });
                    self.at += usize::from(signed) + close.len();
                    self.after_close(signed.then_some(sign), close == "%}");
                    return Ok(());
                }
            }
            self.token(&mut open)?;
        }
    }

    fn token(&mut self, open: &mut Vec<&'static str>) -> Result<(), SyntaxError> {
        let rest = self.rest();
        match rest.chars().next() {
            Some(digit) if digit.is_ascii_digit() => self.number(),
            Some(quote @ ('"' | '\'')) => self.string(quote),
            Some(letter) if letter.is_alphanumeric() || letter == '_' => {
                let length = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
                self.push(Token::Name(rest[..length].to_owned()));
                self.at += length;
                Ok(())
            }
            _ => {
                let Some(operator) = OPERATORS.into_iter().find(|operator| rest.starts_with(operator)) else {
                    let found = rest.chars().next().unwrap_or(' ');
                    return self.fail(format!("unexpected character {found:?}"));
                };
                match operator {
                    "(" => open.push(")"),
                    "[" => open.push("]"),
                    "{" => open.push("}"),
                    ")" | "]" | "}" if open.pop() != Some(operator) => {
                        return self.fail(format!("unexpected `{operator}`"));
                    }
                    _ => {}
                }
                self.push(Token::Operator(operator));
                self.at += operator.len();
                Ok(())
            }
        }
    }

    fn number(&mut self) -> Result<(), SyntaxError> {
        let rest = self.rest();
        let digits = |from: usize| {
            let text = &rest[from..];
            from + text.find(|c: char| !(c.is_ascii_digit() || c == '_')).unwrap_or(text.len())
        };
        let is_digit = |at: usize| rest.as_bytes().get(at).is_some_and(u8::is_ascii_digit);
        let radix = match rest.get(..2) {
            Some("0x" | "0X") => 16,
            Some("0o" | "0O") => 8,
            Some("0b" | "0B") => 2,
            _ => 10,
        };
        if radix != 10 {
            let length = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
            let number = i64::from_str_radix(&rest[2..length].replace('_', ""), radix);
            let Ok(number) = number else { return self.fail("a number cannot be read") };
            self.push(Token::Int(number));
            self.at += length;
            return Ok(());
        }
        let mut length = digits(0);
        let after_dot = self.source[..self.at].ends_with('.');
        let mut float = false;
        if !after_dot {
            if rest[length..].starts_with('.') && is_digit(length + 1) {
                length = digits(length + 1);
                float = true;
            }
            if rest[length..].starts_with(['e', 'E']) {
                let sign = usize::from(rest[length + 1..].starts_with(['+', '-']));
                if is_digit(length + 1 + sign) {
                    length = digits(length + 1 + sign);
                    float = true;
                }
            }
        }
        let text = rest[..length].replace('_', "");
        let token = if float { text.parse().map(Token::Float).ok() } else { text.parse().map(Token::Int).ok() };
        let Some(token) = token else { return self.fail("a number is too large") };
        self.push(token);
        self.at += length;
        Ok(())
    }

    fn string(&mut self, quote: char) -> Result<(), SyntaxError> {
        let rest = self.rest();
        let mut escaped = false;
        let end = rest[1..].find(|c| {
            let ends = c == quote && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let Some(end) = end else { return self.fail("a string is not closed") };
        let Some(text) = unescaped(&rest[1..=end]) else { return self.fail("a string has an escape that ends early") };
        self.push(Token::Text(text));
        self.at += end + 2;
        Ok(())
    }
}

/// The text before a tag as it is kept.
fn stripped(text: &str, sign: Option<u8>, block: bool, line_begins: bool) -> &str {
    if sign == Some(b'-') {
        return text.trim_end();
    }
    if block && sign.is_none() {
        let line = text.rfind('\n').map_or(0, |newline| newline + 1);
        if (line > 0 || line_begins) && text[line..].chars().all(char::is_whitespace) {
            return &text[..line];
        }
    }
    text
}

/// Where `text` begins with `{% keyword %}`: its length, the sign before `%}`, the sign after `{%`.
fn keyword_tag(text: &str, keyword: &str) -> Option<(usize, Option<u8>, Option<u8>)> {
    let signed = |text: &str| text.bytes().next().filter(|sign| matches!(sign, b'-' | b'+'));
    let inner = text.strip_prefix("{%")?;
    let open = signed(inner);
    let inner = inner[usize::from(open.is_some())..].trim_start().strip_prefix(keyword)?.trim_start();
    let close = signed(inner);
    let inner = inner[usize::from(close.is_some())..].strip_prefix("%}")?;
    Some((text.len() - inner.len(), close, open))
}

/// A string with Python's escapes resolved; unknown ones stay as they are. `None` when one ends early
/// or names no character.
fn unescaped(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = rest[at + 1..].chars().next()?;
        rest = &rest[at + 1 + escape.len_utf8()..];
        let digits = match escape {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => 0,
        };
        match escape {
            '\n' => {}
            'a' => out.push('\x07'),
            'b' => out.push('\x08'),
            'f' => out.push('\x0c'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'v' => out.push('\x0b'),
            '\\' | '\'' | '"' => out.push(escape),
            'x' | 'u' | 'U' => {
                out.push(char::from_u32(u32::from_str_radix(rest.get(..digits)?, 16).ok()?)?);
                rest = &rest[digits..];
            }
            '0'..='7' => {
                let more = rest.bytes().take(2).take_while(|digit| matches!(digit, b'0'..=b'7')).count();
                let code = u32::from_str_radix(&format!("{escape}{}", &rest[..more]), 8).ok()?;
                out.push(char::from_u32(code)?);
                rest = &rest[more..];
            }
            other => {
                out.push('\\');
                out.push(other);
            }
        }
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(source: &str) -> Vec<String> {
        let tokens = tokens(source).unwrap();
        tokens
            .into_iter()
            .filter_map(|(token, _)| if let Token::Data(text) = token { Some(text) } else { None })
            .collect()
    }

    #[test]
    fn whitespace_around_tags_goes_where_jinja_drops_it() {
        assert_eq!(data("  {% x %}\n a"), [" a"], "the line of a block leaves nothing");
        assert_eq!(data("a\n\t {% x %}\nb\n"), ["a\n", "b"]);
        assert_eq!(data("a  {% x %}b"), ["a  ", "b"]);
        assert_eq!(data("a\n  {%+ x +%}\nb"), ["a\n  ", "\nb"]);
        assert_eq!(data("a \n {%- x -%} \n b"), ["a", "b"]);
        assert_eq!(data("a\n  {{ x }}\nb"), ["a\n  ", "\nb"], "a print keeps both");
        assert_eq!(data("a \n {{- x -}} \n b"), ["a", "b"]);
        assert_eq!(data("a\n  {# x #}\nb"), ["a\n", "b"]);
        assert_eq!(data("a {#- {{ x -#} b"), ["a", "b"]);
        assert_eq!(data("a {#-#} b"), ["a", " b"]);
        assert_eq!(data("a\r\nb\n\n"), ["a\nb\n"], "one newline at the end goes");
        assert_eq!(data("{% a %}\n  {% b %}\n  c"), ["  c"]);
        assert_eq!(data("{% raw %}{{ a }} {% b %}{% endraw %}\nc"), ["{{ a }} {% b %}", "c"]);
        assert_eq!(data("{%- raw -%} {{ {%- endraw %}c"), ["{{", "c"]);
    }

    #[test]
    fn braces_inside_a_tag_do_not_close_it() {
        let names =
            |source| tokens(source).unwrap().into_iter().filter(|(token, _)| matches!(token, Token::Name(_))).count();
        assert_eq!(names("{{ {'a': {'b': c}} }}"), 1);
        assert_eq!(names("{% set a = {'b': {}} %}"), 2);
    }

    #[test]
    fn escapes_are_those_of_python() {
        assert_eq!(unescaped(r#"a\n\t\\\'\"\x41\u00e9\U0001f600\101\d"#).unwrap(), "a\n\t\\'\"A\u{e9}\u{1f600}A\\d");
        assert_eq!(unescaped(r"\x4"), None);
        assert_eq!(unescaped(r"\ud83d"), None);
    }

    #[test]
    fn numbers_are_read_and_lines_counted() {
        let found = tokens("a\n{{ 1_000 1.5 2e3 0x1F\n a.0.1 }}").unwrap();
        let numbers: Vec<_> =
            found.iter().filter(|(t, _)| matches!(t, Token::Int(_) | Token::Float(_))).cloned().collect();
        assert_eq!(
            numbers,
            [
                (Token::Int(1000), 2),
                (Token::Float(1.5), 2),
                (Token::Float(2000.0), 2),
                (Token::Int(31), 2),
                (Token::Int(0), 3),
                (Token::Int(1), 3)
            ]
        );
        for broken in
            ["{{ a", "{% a", "{# a", "{{ 'a }}", "{% raw %}", "{{ a) }}", "{{ ? }}", "{{ 99999999999999999999 }}"]
        {
            assert!(tokens(broken).is_err(), "{broken}");
        }
    }
}
