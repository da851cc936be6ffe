//! Statuses that gRPC itself makes, before a handler sees the request, carry a code and a text alone. Here they get a reason too,
//! so that clients need to look in one place only.
//!
//! Only answers that are nothing but a failure are looked at, which costs a look at two headers.

use std::{
    collections::HashMap,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, Request, Response};
use tonic::{Code, Status, body::Body};
use tonic_types::{ErrorDetails, StatusExt};
use tower::{Layer, Service};

use super::{DOMAIN, Reason, nearest};

const STATUS: &str = "grpc-status";
const DETAILS: &str = "grpc-status-details-bin";

/// The same status with a reason; `None` if these headers say no failure, or one that has details.
fn dressed(headers: &HeaderMap) -> Option<Status> {
    let failed = headers.get(STATUS).is_some_and(|code| code != "0") && !headers.contains_key(DETAILS);
    let bare = failed.then(|| Status::from_header_map(headers)).flatten()?;
    let reason = match bare.code() {
        // Of all that gRPC calls so, it is the bytes of a request that are no message. What we call so has details.
        Code::Internal => Reason::BadArgument,
        _ => nearest(&bare),
    };
    let mut details = ErrorDetails::with_error_info(reason.as_str(), DOMAIN, HashMap::new());
    if let Some(delay) = reason.retry_after() {
        details.set_retry_info(Some(delay));
    }
    Some(Status::with_error_details(bare.code(), bare.message(), details))
}

/// Around all services of a server.
#[derive(Clone, Copy, Debug)]
pub struct Dress;

impl<S> Layer<S> for Dress {
    type Service = Dressing<S>;

    fn layer(&self, inner: S) -> Dressing<S> {
        Dressing(inner)
    }
}

#[derive(Clone, Debug)]
pub struct Dressing<S>(S);

impl<S, B> Service<Request<B>> for Dressing<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        Answering(Box::pin(self.0.call(request)))
    }
}

pub struct Answering<F>(Pin<Box<F>>);

impl<F, E> Future for Answering<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let answer = ready!(self.0.as_mut().poll(context))?;
        Poll::Ready(Ok(match dressed(answer.headers()) {
            Some(status) => status.into_http(),
            None => answer,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Failure;

    #[test]
    fn a_bare_failure_gets_a_reason_and_keeps_its_code() {
        let reason_of = |status: Status| {
            let headers = status.into_http::<Body>().into_parts().0.headers;
            dressed(&headers).map(|status| (status.code(), Failure::from(&status).reason))
        };
        let cases = [
            (Status::unimplemented(""), Reason::BadArgument),
            (Status::internal("failed to decode Protobuf message"), Reason::BadArgument),
            (Status::out_of_range("message too large"), Reason::TooLarge),
            (Status::cancelled("Timeout expired"), Reason::DeadlineExceeded),
        ];
        for (bare, reason) in cases {
            let code = bare.code();
            assert_eq!(reason_of(bare), Some((code, reason)));
        }
        assert_eq!(reason_of(Failure::new(Reason::Internal, "ours").into()), None, "it has details");
        assert!(dressed(&HeaderMap::new()).is_none());
    }
}
