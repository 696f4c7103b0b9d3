//! HTTP as guests, hosts and gateways share it.

use crate::units::parse_digits;
use crate::{FunctionName, Problem, ProblemKind};

/// What the names of fields begin with that only nodes write. Those of guests and clients are dropped.
const RESERVED: &str = "nearfield-";

/// Whether only nodes may write the field. `name` is in lower case.
pub fn is_reserved(name: &str) -> bool {
    name.starts_with(RESERVED)
}

/// The names of the fields that concern one connection only, from a message's `connection` fields. What routes a message or
/// frames it concerns everybody on its way, whoever names it there (RFC 9110 §7.6.1).
pub fn named_by_connection<'a>(fields: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
    fields
        .flat_map(|field| field.split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|name| {
            ["host", "content-length"]
                .iter()
                .all(|kept| !name.eq_ignore_ascii_case(kept.as_bytes()))
        })
}

/// What a message says of its body's length, and how much of that is still to come (RFC 9110 §8.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeclaredLength {
    declared: u64,
    left: u64,
}

/// A body that is not what was declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LengthFault {
    #[error("declares no length that can be read")]
    Unreadable,
    #[error("declares {declared} bytes and goes on after them")]
    TooLong { declared: u64 },
    #[error("declares {declared} bytes and has {sent}")]
    TooShort { declared: u64, sent: u64 },
}

impl LengthFault {
    /// What becomes of a function's response with this fault.
    pub fn of_function(self, function: &FunctionName) -> Problem {
        let detail = format!("function `{function}` answered with a body that {self}");
        Problem::new(ProblemKind::BadResponse, detail)
    }
}

impl DeclaredLength {
    /// From all of a message's `content-length` fields. A list of equal numbers is one of them.
    pub fn of<'a>(fields: impl IntoIterator<Item = &'a [u8]>) -> Result<Option<Self>, LengthFault> {
        let mut length = None;
        let numbers = fields
            .into_iter()
            .flat_map(|field| field.split(|&byte| byte == b','));
        for number in numbers {
            let number = number_of(number.trim_ascii()).ok_or(LengthFault::Unreadable)?;
            if *length.get_or_insert(number) != number {
                return Err(LengthFault::Unreadable);
            }
        }
        Ok(length.map(|declared| DeclaredLength {
            declared,
            left: declared,
        }))
    }

    pub fn declared(&self) -> u64 {
        self.declared
    }

    /// Counts bytes of the body. Whether these are the last.
    pub fn take(&mut self, bytes: u64) -> Result<bool, LengthFault> {
        self.left = self.left.checked_sub(bytes).ok_or(LengthFault::TooLong {
            declared: self.declared,
        })?;
        Ok(self.left == 0)
    }

    /// The body has ended.
    pub fn end(&self) -> Result<(), LengthFault> {
        match self.left {
            0 => Ok(()),
            left => Err(LengthFault::TooShort {
                declared: self.declared,
                sent: self.declared - left,
            }),
        }
    }
}

fn number_of(text: &[u8]) -> Option<u64> {
    parse_digits(std::str::from_utf8(text).ok()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_are_read_or_refused() {
        let of = |fields: &[&str]| {
            let length = DeclaredLength::of(fields.iter().map(|field| field.as_bytes()));
            length.map(|length| length.map(|length| length.declared()))
        };
        assert_eq!(of(&[]), Ok(None));
        for (fields, length) in [
            (&["0"][..], 0),
            (&["5"], 5),
            (&["05"], 5),
            (&["5, 5"], 5),
            (&["5", "5"], 5),
        ] {
            assert_eq!(of(fields), Ok(Some(length)), "{fields:?}");
        }
        for fields in [
            &["+5"][..],
            &["-5"],
            &["0x5"],
            &["5 5"],
            &[""],
            &["5,"],
            &["5", "6"],
            &["5, 6"],
            &["18446744073709551616"],
            &["５"],
        ] {
            assert_eq!(of(fields), Err(LengthFault::Unreadable), "{fields:?}");
        }
    }

    proptest! {
        /// Whatever the pieces, a body passes exactly if it is as long as declared.
        #[test]
        fn a_body_is_as_long_as_declared(declared in 0u64..20, pieces in proptest::collection::vec(0u64..8, 0..8)) {
            let declared_field = declared.to_string();
            let mut length = DeclaredLength::of([declared_field.as_bytes()]).unwrap().unwrap();
            let sent: u64 = pieces.iter().sum();
            let taken: Result<Vec<_>, _> = pieces.iter().map(|&bytes| length.take(bytes)).collect();
            let held = taken.and_then(|_| length.end());
            prop_assert_eq!(held.is_ok(), sent == declared);
            match held {
                Err(LengthFault::TooLong { .. }) => prop_assert!(sent > declared),
                Err(fault) => prop_assert_eq!(fault, LengthFault::TooShort { declared, sent }),
                Ok(()) => {}
            }
        }
    }
}
