//! A few CSV records. The `csv` crate's reader first makes tables for large inputs, which would cost more than all else
//! that a look-up does.

/// The fields of each record.
pub fn records(text: &[u8]) -> Vec<Vec<String>> {
    let (mut records, mut record, mut field) = (Vec::new(), Vec::new(), Vec::new());
    // Whether the next byte stands between quotes, and whether a field has begun.
    let (mut quoted, mut begun) = (false, false);
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' if quoted && bytes.next_if_eq(&b'"').is_some() => field.push(b'"'),
            b'"' if quoted => quoted = false,
            b'"' if !begun => (quoted, begun) = (true, true),
            b',' if !quoted => {
                record.push(text_of(&mut field));
                begun = false;
            }
            b'\n' if !quoted => {
                if field.last() == Some(&b'\r') {
                    field.pop();
                }
                record.push(text_of(&mut field));
                records.push(std::mem::take(&mut record));
                begun = false;
            }
            byte => {
                field.push(byte);
                begun = true;
            }
        }
    }
    records
}

fn text_of(field: &mut Vec<u8>) -> String {
    String::from_utf8_lossy(&std::mem::take(field)).into_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn quotes_hold_what_they_enclose() {
        let text = b"a,\"b \"\"c\"\",\n\",5\" pipe\r\n,\"\"\n";
        let expected = [vec!["a", "b \"c\",\n", "5\" pipe"], vec!["", ""]];
        assert_eq!(super::records(text), expected);
    }
}
