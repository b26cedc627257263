//! What does a terminal show? Its rows, without the end of a screen: what a person would have scrolled back to.

/// Columns of every terminal here.
pub(crate) const COLUMNS: u16 = 200;

#[derive(Default)]
pub(crate) struct Screen {
    rows: Vec<Vec<char>>,
    row: usize,
    column: usize,
    /// Bytes that are not yet a whole character or sequence.
    pending: Vec<u8>,
}

impl Screen {
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        let pending = std::mem::take(&mut self.pending);
        let mut rest = &pending[..];
        while let Some(length) = self.put(rest) {
            rest = &rest[length..];
        }
        self.pending = rest.to_vec();
    }

    /// The rows from this one on; trailing blanks are cut.
    pub(crate) fn rows_from(&self, first: usize) -> Vec<String> {
        self.rows.iter().skip(first).map(|row| row.iter().collect::<String>().trim_end().to_owned()).collect()
    }

    /// The row that the cursor is in, up to it, and whether nothing is behind it.
    pub(crate) fn cursor(&self) -> (usize, String, bool) {
        let row = self.rows.get(self.row).map_or(&[][..], Vec::as_slice);
        let at = self.column.min(row.len());
        (self.row, row[..at].iter().collect(), row[at..].iter().all(|c| *c == ' '))
    }

    /// Takes one character or sequence: its length. `None`: there is no whole one.
    fn put(&mut self, bytes: &[u8]) -> Option<usize> {
        match *bytes.first()? {
            b'\r' => self.column = 0,
            b'\n' => (self.row, self.column) = (self.row + 1, 0),
            8 => self.column = self.column.saturating_sub(1),
            0x1b if *bytes.get(1)? == b'[' => {
                let end = 2 + bytes[2..].iter().position(|byte| (0x40..0x7f).contains(byte))?;
                self.sequence(&bytes[2..end], bytes[end]);
                return Some(end + 1);
            }
            // Which set of characters; and what else is two bytes long.
            0x1b => return (bytes.len() > 2 || bytes[1] != b'(').then_some(2 + usize::from(bytes[1] == b'(')),
            0..0x20 => {}
            _ => return self.character(bytes),
        }
        Some(1)
    }

    fn character(&mut self, bytes: &[u8]) -> Option<usize> {
        let length = match bytes[0] {
            0..0xe0 => 1 + usize::from(bytes[0] >= 0xc0),
            0xe0..0xf0 => 3,
            0xf0.. => 4,
        };
        let text = String::from_utf8_lossy(bytes.get(..length)?).into_owned();
        if self.column == usize::from(COLUMNS) {
            (self.row, self.column) = (self.row + 1, 0);
        }
        let row = self.row_here();
        let at = row.1;
        row.0.resize(row.0.len().max(at + 1), ' ');
        row.0[at] = text.chars().next().unwrap_or('?');
        self.column += 1;
        Some(length)
    }

    fn row_here(&mut self) -> (&mut Vec<char>, usize) {
        self.rows.resize_with(self.rows.len().max(self.row + 1), Vec::new);
        (&mut self.rows[self.row], self.column)
    }

    fn sequence(&mut self, parameters: &[u8], letter: u8) {
        let number = std::str::from_utf8(parameters).ok().and_then(|text| text.parse().ok());
        let by = number.unwrap_or(1);
        match letter {
            b'A' => self.row = self.row.saturating_sub(by),
            b'B' => self.row += by,
            b'C' => self.column += by,
            b'D' => self.column = self.column.saturating_sub(by),
            b'G' => self.column = by - 1,
            b'J' | b'K' => {
                let (row, at) = self.row_here();
                row.truncate(at);
                if letter == b'J' {
                    self.rows.truncate(self.row + 1);
                }
            }
            _ => {} // colours, modes
        }
    }
}

#[test]
fn a_line_that_is_drawn_anew_is_one_line() {
    let mut screen = Screen::default();
    screen.write(b"one\r\n\x1b[?2004h\r\x1b[K(root/left) \r\x1b[12Chel\r\x1b[K(root/left) help\r\x1b[16C\x1b[?2");
    screen.write(b"026l\r\ntwo \xc3\xa4\r\n(a) \r\x1b[4C");
    assert_eq!(screen.rows_from(0), ["one", "(root/left) help", "two ä", "(a)"]);
    assert_eq!(screen.cursor(), (3, "(a) ".to_owned(), true));
}
