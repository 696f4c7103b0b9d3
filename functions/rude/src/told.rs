//! What a request tells the function to answer.
//!
//! `?status=200&field=name:value&body=text&times=3&trailer=name:value`: fields and trailers may come more than once, the
//! body is written so many times, each time by itself. `error=5` answers with an error of so many bytes instead. `log=text`
//! prints the text before. `leaves=1000` leaves so many bytes allocated, and `keeps=2` so many handles open, for as long as the
//! instance lives. `strict=yes` traps where the host refuses to end the body. `hoard=fields` and `hoard=requests` make such values of
//! the host's for ever, each of them long.

/// Bytes of a value that is hoarded.
pub const HOARDED_BYTES: usize = 60 << 10;

/// What the host is made to hold, without end.
#[derive(Clone, Copy)]
pub enum Hoard {
    Fields,
    Requests,
}

pub struct Told {
    pub status: u16,
    pub fields: Vec<(String, Vec<u8>)>,
    pub trailers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
    pub times: usize,
    pub error: Option<usize>,
    /// It traps where the host refuses something.
    pub strict: bool,
    /// Handles that are never dropped.
    pub keeps: usize,
    pub hoard: Option<Hoard>,
}

impl Told {
    pub fn new(target: &str) -> Told {
        let mut told = Told {
            status: 200,
            fields: Vec::new(),
            trailers: Vec::new(),
            body: Vec::new(),
            times: 1,
            error: None,
            strict: false,
            keeps: 0,
            hoard: None,
        };
        let query = target.split_once('?').map_or("", |(_, query)| query);
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let field = || {
                let (name, value) = value.split_once(':').unwrap_or((value, ""));
                (name.to_owned(), decoded(value))
            };
            match name {
                "status" => told.status = value.parse().expect("a status is a number"),
                "field" => told.fields.push(field()),
                "trailer" => told.trailers.push(field()),
                "body" => told.body = decoded(value),
                "times" => told.times = value.parse().expect("times are a number"),
                "log" => eprintln!("{}", String::from_utf8_lossy(&decoded(value))),
                "leaves" => drop(Box::leak(
                    vec![1_u8; value.parse().expect("a length is a number")].into_boxed_slice(),
                )),
                "strict" => told.strict = true,
                "keeps" => told.keeps = value.parse().expect("handles are a number"),
                "hoard" => {
                    told.hoard = Some(match value {
                        "fields" => Hoard::Fields,
                        _ => Hoard::Requests,
                    });
                }
                "error" => told.error = Some(value.parse().expect("a length is a number")),
                _ => {}
            }
        }
        told
    }
}

/// `%7B` and the like as the bytes that they stand for.
fn decoded(text: &str) -> Vec<u8> {
    let mut pieces = text.split('%');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        let (code, rest) = piece.split_at(2);
        bytes.push(u8::from_str_radix(code, 16).expect("two digits follow a %"));
        bytes.extend_from_slice(rest.as_bytes());
    }
    bytes
}
