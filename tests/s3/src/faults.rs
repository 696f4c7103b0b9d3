//! Which requests fail and how: the same for the same seed.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body as _, Frame, SizeHint};
use s3s::{Body, HttpResponse};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Status(StatusCode),
    /// The connection ends without an answer.
    Silence,
    /// It ends in the middle of one.
    Cut,
}

pub fn draw(seed: u64, request: u64, percent: u64) -> Option<Fault> {
    let bits = mixed(seed ^ mixed(request));
    if bits % 100 >= percent {
        return None;
    }
    Some(match (bits >> 32) % 4 {
        0 => Fault::Status(StatusCode::INTERNAL_SERVER_ERROR),
        1 => Fault::Status(StatusCode::SERVICE_UNAVAILABLE),
        2 => Fault::Silence,
        _ => Fault::Cut,
    })
}

pub fn refuse(status: StatusCode) -> HttpResponse {
    let mut response = HttpResponse::new(Body::from("<Error><Code>SlowDown</Code></Error>".to_owned()));
    *response.status_mut() = status;
    response
}

/// The head as it was, then the first half of the body, then nothing more.
pub fn cut(answer: HttpResponse) -> HttpResponse {
    answer.map(|body| {
        let size = body.size_hint();
        let left = size.exact().unwrap_or(0) / 2;
        Body::http_body(Cut { body, size, left })
    })
}

struct Cut {
    body: Body,
    /// Of the whole body, so that its length is announced.
    size: SizeHint,
    left: u64,
}

impl http_body::Body for Cut {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left == 0 {
            return Poll::Ready(Some(Err("an injected fault".into())));
        }
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(frame.map(|frame| {
            let frame = frame?;
            let left = self.left;
            let data = frame.into_data().map_err(|_| "trailers")?;
            let kept = data.slice(..data.len().min(left as usize));
            self.left -= kept.len() as u64;
            Ok(Frame::data(kept))
        }))
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}

/// SplitMix64.
fn mixed(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_fail_as_shall_and_each_in_its_way() {
        let drawn = |percent| (1..=10_000).filter_map(move |request| draw(7, request, percent));
        assert_eq!(drawn(0).count(), 0);
        assert_eq!(drawn(100).count(), 10_000);
        let faults: Vec<_> = drawn(5).collect();
        assert!((400..600).contains(&faults.len()), "{}", faults.len());
        assert!(faults.contains(&Fault::Silence) && faults.contains(&Fault::Cut));
        assert!(drawn(5).eq(faults));
    }
}
