//! Lines from the end of a reader.

use std::io::{self, Read, Seek, SeekFrom};

/// Read at once: enough for some hundred lines, little for one.
const BLOCK_BYTES: u64 = 64 << 10;

/// The lines of a reader without their ends, the last one first.
pub struct Backwards<R> {
    reader: R,
    /// What lies before is not read yet.
    position: u64,
    /// What is read and not yet given, from `position` on.
    buffer: Vec<u8>,
    /// Of `buffer`, behind which all is given.
    end: usize,
    /// No line end is in `buffer` between here and `end`.
    searched: usize,
    /// The line end of the last line, behind which is none, was passed.
    begun: bool,
    /// The first line is given.
    done: bool,
}

impl<R: Read + Seek> Backwards<R> {
    /// The lines of `reader`, which has `size` bytes.
    pub fn new(reader: R, size: u64) -> Self {
        Self {
            reader,
            position: size,
            buffer: Vec::new(),
            end: 0,
            searched: 0,
            begun: false,
            done: false,
        }
    }

    /// The line before the last one given, or nothing at the start.
    pub fn next_line(&mut self) -> io::Result<Option<&[u8]>> {
        while !self.done {
            if !self.begun && self.end > 0 {
                self.begun = true;
                self.end -= usize::from(self.buffer[self.end - 1] == b'\n');
                self.searched = self.end;
            }
            let newline = self.buffer[..self.searched]
                .iter()
                .rposition(|&byte| byte == b'\n');
            if newline.is_none() && self.position > 0 {
                self.read_block()?;
                continue;
            }
            self.done = newline.is_none();
            if self.done && !self.begun {
                break;
            }
            let line = &self.buffer[newline.map_or(0, |at| at + 1)..self.end];
            // The line end before this line is the one of the line before.
            self.end = newline.unwrap_or_default();
            self.searched = self.end;
            return Ok(Some(line.strip_suffix(b"\r").unwrap_or(line)));
        }
        Ok(None)
    }

    /// Puts the block before `position` in front of what is left.
    fn read_block(&mut self) -> io::Result<()> {
        let length = self.position.min(BLOCK_BYTES);
        self.position -= length;
        self.reader.seek(SeekFrom::Start(self.position))?;
        let mut block = vec![0; length as usize];
        self.reader.read_exact(&mut block)?;
        self.searched = block.len();
        let left = block.len() + self.end;
        block.extend_from_slice(&self.buffer[..self.end]);
        (self.buffer, self.end) = (block, left);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn lines(text: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = Backwards::new(Cursor::new(text), text.len() as u64);
        let mut all = Vec::new();
        while let Some(line) = lines.next_line().unwrap() {
            all.push(line.to_vec());
        }
        all.reverse();
        all
    }

    #[test]
    fn as_forwards() {
        let long = "x".repeat(BLOCK_BYTES as usize - 1);
        let blocks = format!("{long}\n{long}{long}{long}\n\n{long}y\nend");
        for text in [
            "",
            "\n",
            "a",
            "a\n",
            "a\r\nb",
            "\n\na\n\n",
            &blocks,
            &format!("{blocks}\n"),
        ] {
            let expected: Vec<_> = text.lines().map(|line| line.as_bytes().to_vec()).collect();
            assert!(lines(text.as_bytes()) == expected, "{} bytes", text.len());
        }
    }
}
