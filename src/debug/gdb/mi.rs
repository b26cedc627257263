//! What do the lines of gdb's machine interface say?
//!
//! Nothing that gdb writes makes the parser panic or recurse without end; nonsense gives fewer fields.

/// One line of MI output.
#[derive(Debug, PartialEq)]
pub(super) enum Record {
    Console(String),
    Result {
        token: u64,
        class: String,
        fields: Value,
    },
    /// The attached process stands still.
    Stopped,
    Prompt,
    /// A log line, news of another kind, or no MI at all.
    Other(String),
}

impl Record {
    pub(super) fn parse(line: &str) -> Self {
        let digits = line.bytes().take_while(u8::is_ascii_digit).count();
        let (token, rest) = line.split_at(digits);
        let mut text = Text(rest.get(1..).unwrap_or_default());
        match rest.bytes().next() {
            Some(b'~') => Self::Console(text.string()),
            Some(b'^') => {
                let class = text.word().to_owned();
                Self::Result { token: token.parse().unwrap_or(0), class, fields: text.fields(0) }
            }
            Some(b'*') if text.word() == "stopped" => Self::Stopped,
            Some(b'(') if rest == "(gdb)" => Self::Prompt,
            _ => Self::Other(line.to_owned()),
        }
    }
}

/// A value of MI: `"text"`, or a `{tuple}` or `[list]`, whose items may have no name.
#[derive(Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Many(Vec<(String, Value)>),
}

impl Value {
    pub(super) fn items(&self) -> &[(String, Self)] {
        if let Self::Many(items) = self { items } else { &[] }
    }

    pub(super) fn field(&self, name: &str) -> Option<&Self> {
        self.items().iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        if let Some(Self::Text(text)) = self.field(name) { Some(text) } else { None }
    }

    pub(super) fn number(&self, name: &str) -> Option<usize> {
        let text = self.text(name)?;
        text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| usize::from_str_radix(hex, 16).ok())
    }
}

/// The part of a record that is not yet parsed. It only gets shorter.
struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    fn eat(&mut self, token: char) -> bool {
        let rest = self.0.strip_prefix(token);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    /// A name: of a class or of a field.
    fn word(&mut self) -> &'a str {
        let end = self.0.find(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_').unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest;
        word
    }

    /// `name=value,value,…`, with a comma before each or between two.
    fn fields(&mut self, depth: usize) -> Value {
        let mut fields = Vec::new();
        loop {
            self.eat(',');
            let name = self.word();
            self.eat('=');
            let Some(value) = self.value(depth) else { return Value::Many(fields) };
            fields.push((name.to_owned(), value));
        }
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if self.0.starts_with('"') {
            return Some(Value::Text(self.string()));
        }
        if depth == DEPTH || !(self.eat('{') || self.eat('[')) {
            return None;
        }
        let fields = self.fields(depth + 1);
        (self.eat('}') || self.eat(']')).then_some(fields)
    }

    /// A C string. Octal escapes are bytes of UTF-8.
    fn string(&mut self) -> String {
        let mut bytes = Vec::new();
        let mut rest = self.0.bytes().skip(1).peekable();
        let all = rest.len();
        while let Some(byte) = rest.next().filter(|byte| *byte != b'"') {
            let escaped = if byte == b'\\' { rest.next() } else { None };
            bytes.push(match escaped {
                None => byte,
                Some(b'n') => b'\n',
                Some(b't') => b'\t',
                Some(b'r') => b'\r',
                Some(b'e') => 0x1b,
                Some(digit @ b'0'..=b'7') => {
                    let mut value = digit - b'0';
                    for _ in 0..2 {
                        let Some(digit) = rest.next_if(|byte| matches!(byte, b'0'..=b'7')) else { break };
                        value = value.wrapping_mul(8).wrapping_add(digit - b'0');
                    }
                    value
                }
                Some(other) => other,
            });
        }
        // The loop ends behind an ASCII quote or at the end, so this is a boundary of characters.
        self.0 = self.0.get(1 + all - rest.len()..).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// As one argument of an MI command.
pub(super) fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\""))
}

/// How deep MI nests at most; gdb's own records stay below 8.
const DEPTH: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn console(line: &str) -> String {
        let Record::Console(text) = Record::parse(line) else { panic!("{line} is no console record") };
        text
    }

    #[test]
    fn a_console_record_is_unescaped() {
        assert_eq!(console(r#"~"$1 = \"gr\303\274\303\237\"\n""#), "$1 = \"grüß\"\n");
        assert_eq!(console(r#"~"a\tb\\n\033[1m""#), "a\tb\\n\u{1b}[1m");
        assert_eq!(console(r#"~"\0012""#), "\u{1}2", "an octal escape has three digits at most");
        assert_eq!(console(r#"~"\777\n""#), "\u{fffd}\n", "more than a byte is nonsense, not a panic");
    }

    #[test]
    fn a_result_record_has_its_token_and_nested_fields() {
        let line = r#"12^done,threads=[{id="1",frame={level="0",args=[name="a",name="b"]},core="0"},{id="2"}],empty=[],x="0x1f""#;
        let Record::Result { token, class, fields } = Record::parse(line) else { panic!("no result record") };
        assert_eq!((token, class.as_str()), (12, "done"));
        let threads = fields.field("threads").unwrap().items();
        assert_eq!(threads.len(), 2);
        let args = threads[0].1.field("frame").unwrap().field("args").unwrap();
        assert_eq!(args.items()[1], ("name".to_owned(), Value::Text("b".to_owned())));
        assert_eq!((threads[1].1.number("id"), fields.number("x")), (Some(2), Some(31)));
        assert_eq!(fields.field("empty"), Some(&Value::Many(Vec::new())));
    }

    #[test]
    fn records_are_told_apart() {
        assert_eq!(Record::parse("(gdb)"), Record::Prompt);
        assert_eq!(Record::parse(r#"*stopped,frame={addr="0x1"}"#), Record::Stopped);
        for other in
            [r#"*running,thread-id="2""#, r#"=thread-created,id="1""#, r#"&"warning\n""#, "sh: gdb: not found", ""]
        {
            assert_eq!(Record::parse(other), Record::Other(other.to_owned()));
        }
        let Record::Result { class, fields, .. } = Record::parse(r#"107^error,msg="No symbol 'nope'""#) else {
            panic!()
        };
        assert_eq!((class.as_str(), fields.text("msg")), ("error", Some("No symbol 'nope'")));
    }

    #[test]
    fn nonsense_is_no_panic() {
        let nested = "[".repeat(100_000);
        let whole = format!(r#"1^done,a={{b=[c="d\303\274é",{{e="f"}}],g="h"}},i={nested}"#);
        for end in (0..100).filter(|end| whole.is_char_boundary(*end)) {
            for start in (0..end).filter(|start| whole.is_char_boundary(*start)) {
                Record::parse(&whole[start..end]);
            }
        }
        Record::parse(&whole);
        for odd in ["^", "~", "~é", "~\"\\", "99999999999999999999999^done", "1^done,=,,=", "*", "é"] {
            Record::parse(odd);
        }
    }

    #[test]
    fn a_command_is_one_quoted_word() {
        assert_eq!(quote(r#"print "a\" b"#), r#""print \"a\\\" b""#);
    }
}
