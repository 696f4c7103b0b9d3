//! Responses that have ended and whose client has not taken them yet.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use nearfield_protocol::Problem;

use crate::body::Body;

/// The body, which holds `places` until its client has it all, or is gone. A client that asks for much and takes nothing has its share
/// of places taken up, and not the gateway's memory.
pub fn holding<P: Send + Unpin + 'static>(body: Body, places: P) -> Body {
    match body.is_end_stream() {
        true => body,
        false => Untaken {
            body,
            places: Some(places),
        }
        .boxed_unsync(),
    }
}

struct Untaken<P> {
    body: Body,
    /// Until the body has ended.
    places: Option<P>,
}

impl<P: Unpin> http_body::Body for Untaken<P> {
    type Data = Bytes;
    type Error = Problem;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        // Whoever took the last piece may hold it still: it asks for more, or drops the body, once that is gone.
        if matches!(polled, Poll::Ready(None)) {
            self.places = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::body;

    #[tokio::test]
    async fn places_come_free_after_the_last_piece_or_with_the_client() {
        let places = Arc::new(());
        let held = || Arc::strong_count(&places) - 1;
        let mut taken = holding(body::full("abc"), places.clone());
        assert_eq!((held(), taken.size_hint().exact()), (1, Some(3)));
        assert_eq!(taken.frame().await.unwrap().unwrap().into_data().unwrap(), "abc");
        assert!(held() == 1 && taken.frame().await.is_none());
        assert_eq!(held(), 0);
        let left = holding(body::full("abc"), places.clone());
        assert_eq!(held(), 1);
        drop(left);
        assert_eq!(held(), 0);
        let _empty = holding(body::empty(), places.clone());
        assert_eq!(held(), 0);
    }
}
