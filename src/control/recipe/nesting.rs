//! A look at a source text before it is parsed: the parser and the compiler recurse, so that a text nested too deep
//! would overflow the stack and take the whole program with it.

/// Brackets and blocks inside each other.
const MAX_DEPTH: usize = 200;

/// Operators, names and literals since the last comma, over all open brackets: `1 + 1 + 1 ...` and `f()()()...`
/// nest without brackets.
const MAX_OPEN: usize = 5000;

/// `elif` branches in one file: each nests inside the one before.
const MAX_ELIF: usize = 1000;

/// A text that is nested too deep: the line, from 1, and what is too deep.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooDeep {
    pub(super) line: u32,
    pub(super) what: &'static str,
}

/// Refuses texts that are nested too deep. Says nothing about whether the text is well formed.
pub(super) fn check(source: &str) -> Result<(), TooDeep> {
    let mut scan =
        Scan { bytes: source.as_bytes(), at: 0, line: 1, open: vec![0], total: 0, blocks: vec![0], elifs: 0 };
    scan.run()
}

struct Scan<'s> {
    bytes: &'s [u8],
    at: usize,
    line: u32,
    /// Tokens since the last comma, for each open bracket; the first is outside of all.
    open: Vec<usize>,
    /// Sum of `open`.
    total: usize,
    /// Indentations of the open blocks.
    blocks: Vec<usize>,
    elifs: usize,
}

impl Scan<'_> {
    fn run(&mut self) -> Result<(), TooDeep> {
        self.indentation()?;
        while let Some(&byte) = self.bytes.get(self.at) {
            match byte {
                b'\n' => self.newline()?,
                b' ' | b'\t' | b'\r' => self.at += 1,
                b'\\' => self.at += 1 + usize::from(self.peek(1) == Some(b'\n')),
                b'#' => self.skip_while(|byte| byte != b'\n'),
                b'"' | b'\'' => {
                    self.string(byte);
                    self.token()?;
                }
                b'(' | b'[' | b'{' => {
                    // A bracket counts as a token of what is around it: `f()()`.
                    self.token()?;
                    self.open.push(0);
                    self.at += 1;
                    if self.open.len() + self.blocks.len() > MAX_DEPTH {
                        return Err(self.too_deep("brackets"));
                    }
                }
                b')' | b']' | b'}' => {
                    self.reset();
                    if self.open.len() > 1 {
                        self.open.pop();
                    }
                    self.at += 1;
                }
                b',' | b';' => {
                    self.reset();
                    self.at += 1;
                }
                _ if is_word(byte) => {
                    let start = self.at;
                    self.skip_while(is_word);
                    if &self.bytes[start..self.at] == b"elif" {
                        self.elifs += 1;
                        if self.elifs > MAX_ELIF {
                            return Err(self.too_deep("`elif` branches"));
                        }
                    }
                    self.token()?;
                }
                _ => {
                    self.at += 1;
                    self.token()?;
                }
            }
        }
        Ok(())
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }

    fn skip_while(&mut self, wanted: impl Fn(u8) -> bool) {
        while self.peek(0).is_some_and(&wanted) {
            self.at += 1;
        }
    }

    fn newline(&mut self) -> Result<(), TooDeep> {
        self.at += 1;
        self.line += 1;
        if self.open.len() == 1 {
            self.reset();
            self.indentation()?;
        }
        Ok(())
    }

    /// Follows blocks by their indentation; blank lines and comments do not count.
    fn indentation(&mut self) -> Result<(), TooDeep> {
        let start = self.at;
        self.skip_while(|byte| byte == b' ' || byte == b'\t');
        if matches!(self.peek(0), None | Some(b'\n' | b'\r' | b'#')) {
            return Ok(());
        }
        let width = self.at - start;
        while self.blocks.last().is_some_and(|block| *block >= width) {
            self.blocks.pop();
        }
        self.blocks.push(width);
        if self.blocks.len() > MAX_DEPTH { Err(self.too_deep("blocks")) } else { Ok(()) }
    }

    fn string(&mut self, quote: u8) {
        let raw = self.at > 0 && matches!(self.bytes[self.at - 1], b'r' | b'R');
        let triple = self.peek(1) == Some(quote) && self.peek(2) == Some(quote);
        self.at += if triple { 3 } else { 1 };
        while let Some(byte) = self.peek(0) {
            if byte == b'\n' {
                if !triple {
                    return;
                }
                self.line += 1;
            }
            if byte == b'\\' && !raw {
                self.line += u32::from(self.peek(1) == Some(b'\n'));
                self.at += 2;
                continue;
            }
            if byte == quote && (!triple || (self.peek(1) == Some(quote) && self.peek(2) == Some(quote))) {
                self.at += if triple { 3 } else { 1 };
                return;
            }
            self.at += 1;
        }
    }

    fn token(&mut self) -> Result<(), TooDeep> {
        if let Some(open) = self.open.last_mut() {
            *open += 1;
        }
        self.total += 1;
        if self.total > MAX_OPEN { Err(self.too_deep("expressions")) } else { Ok(()) }
    }

    fn reset(&mut self) {
        if let Some(open) = self.open.last_mut() {
            self.total -= *open;
            *open = 0;
        }
    }

    fn too_deep(&self, what: &'static str) -> TooDeep {
        TooDeep { line: self.line, what }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_texts_pass() {
        let wide = format!("X = [\n{}]\n", "    \"a\", (1 + 2) * 3, {'k': [1]},\n".repeat(10_000));
        let long = "def f(ctx):\n    if ctx:\n        run('x')\n\n".repeat(5000);
        for source in ["", "x = 1\n", &wide, &long, "\"\"\"((((\n((\"\"\"\n# ((((\nx = '('\n"] {
            assert_eq!(check(source), Ok(()));
        }
    }

    #[test]
    fn deep_texts_are_refused_with_their_line() {
        let brackets = format!("\n\nx = {}", "(".repeat(300));
        assert_eq!(check(&brackets), Err(TooDeep { line: 3, what: "brackets" }));
        for (source, what) in [
            (format!("x = {}1", "1+".repeat(5000)), "expressions"),
            (format!("x = {}1", "-".repeat(6000)), "expressions"),
            (format!("x = f{}", "()".repeat(6000)), "expressions"),
            (format!("x = a{}", ".b".repeat(6000)), "expressions"),
            (format!("x = {}1", "1 if x else ".repeat(2000)), "expressions"),
            (format!("x = {}", "[lambda: ".repeat(300)), "brackets"),
            ((0..300).flat_map(|depth| [" ".repeat(depth), "if x:\n".to_owned()]).collect(), "blocks"),
            (format!("if x: y\n{}", "elif x: y\n".repeat(1500)), "`elif` branches"),
        ] {
            assert_eq!(check(&source).map_err(|deep| deep.what), Err(what), "{}", &source[..40]);
        }
    }

    #[test]
    fn a_bracket_inside_a_text_does_not_count() {
        let text = format!("x = '{}'\ny = r'\\'\nz = \"\\\"{}\"\n", "(".repeat(500), "[".repeat(500));
        assert_eq!(check(&text), Ok(()));
    }
}
