//! Counts gRPC calls, in the names that go-grpc-middleware has made common.
//!
//! The methods are those that the process serves; whatever else is called counts as `unknown`, so that callers cannot make
//! series. A call ends with its status, or, as `Canceled`, when it is dropped before.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use futures::future::{FutureExt, Join, Map, Ready, join, ready};
use http::{HeaderMap, Request, Response};
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use prometheus_client::{
    encoding::NoLabelSet,
    metrics::{MetricType, exemplar::Exemplar},
};
use prost::Message;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};
use tonic::{Status, body::Body};

use super::{Counter, Metrics, Samples, Seconds};

/// The statuses of gRPC in the order of their numbers, as Go calls them.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
const CANCELED: usize = 1;
const UNKNOWN: usize = 2;

/// What is counted of one method.
#[derive(Debug)]
struct Method {
    kind: &'static str,
    service: String,
    method: String,
    started: Counter,
    handled: [Counter; CODES.len()],
    handling: Seconds,
}

impl Method {
    fn new(kind: &'static str, service: &str, method: &str) -> Self {
        Self {
            kind,
            service: service.to_owned(),
            method: method.to_owned(),
            started: Counter::default(),
            handled: Default::default(),
            handling: Seconds::default(),
        }
    }

    fn labels(&self) -> [(&'static str, &str); 3] {
        [("grpc_type", self.kind), ("grpc_service", &self.service), ("grpc_method", &self.method)]
    }
}

/// A layer that counts what passes; clones count together.
#[derive(Clone)]
pub struct Calls {
    methods: Arc<HashMap<String, Arc<Method>>>,
    /// Of what this process does not serve.
    unknown: Arc<Method>,
}

impl Calls {
    /// For the methods of these services, as the descriptor sets tell them; registers the families.
    pub fn new(metrics: &Metrics, descriptors: &[&[u8]], services: &[&str]) -> Result<Self, prost::DecodeError> {
        let mut methods = HashMap::new();
        for encoded in descriptors {
            for file in FileDescriptorSet::decode(*encoded)?.file {
                for service in &file.service {
                    let name = format!("{}.{}", file.package(), service.name());
                    for method in service.method.iter().filter(|_| services.contains(&name.as_str())) {
                        let counted = Method::new(kind(method), &name, method.name());
                        methods.insert(format!("/{name}/{}", method.name()), Arc::new(counted));
                    }
                }
            }
        }
        let calls = Self { methods: Arc::new(methods), unknown: Arc::new(Method::new("unary", "unknown", "unknown")) };
        let told = calls.clone();
        metrics.sampled(move |samples| told.tell(samples));
        Ok(calls)
    }

    fn begin(&self, path: &str) -> Call {
        let method = self.methods.get(path).unwrap_or(&self.unknown).clone();
        method.started.inc();
        Call { method, start: Instant::now(), code: CANCELED }
    }

    fn tell(&self, samples: &mut Samples<'_>) {
        let mut methods: Vec<&Method> = self.methods.values().chain([&self.unknown]).map(AsRef::as_ref).collect();
        methods.sort_by_key(|method| (&method.service, &method.method));
        let no_exemplar = None::<&Exemplar<NoLabelSet, f64>>;
        samples.family("grpc_server_started", "Calls begun", MetricType::Counter, |mut family| {
            methods.iter().try_for_each(|method| {
                family.encode_family(&method.labels())?.encode_counter(&method.started.get(), no_exemplar)
            })
        });
        samples.family("grpc_server_handled", "Calls ended, by status", MetricType::Counter, |mut family| {
            for method in &methods {
                let seen = method.handled.iter().zip(CODES).filter(|(count, code)| *code == "OK" || count.get() > 0);
                for (count, code) in seen {
                    let [kind, service, name] = method.labels();
                    let labels = [kind, service, name, ("grpc_code", code)];
                    family.encode_family(&labels)?.encode_counter(&count.get(), no_exemplar)?;
                }
            }
            Ok(())
        });
        let help = "Time from the beginning of a call to its end, of a stream to its last message";
        samples.family("grpc_server_handling_seconds", help, MetricType::Histogram, |mut family| {
            methods
                .iter()
                .filter(|method| method.started.get() > 0)
                .try_for_each(|method| method.handling.encode(family.encode_family(&method.labels())?))
        });
    }
}

fn kind(method: &MethodDescriptorProto) -> &'static str {
    match (method.client_streaming(), method.server_streaming()) {
        (false, false) => "unary",
        (true, false) => "client_stream",
        (false, true) => "server_stream",
        (true, true) => "bidi_stream",
    }
}

/// A call under way; counted as handled when it is dropped.
pub struct Call {
    method: Arc<Method>,
    start: Instant,
    /// Its place in [`CODES`].
    code: usize,
}

impl Call {
    fn hear(&mut self, headers: &HeaderMap) {
        if let Some(status) = headers.get("grpc-status") {
            let code = status.to_str().ok().and_then(|code| code.parse().ok());
            self.code = code.filter(|code| *code < CODES.len()).unwrap_or(UNKNOWN);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(handled) = self.method.handled.get(self.code) {
            handled.inc();
        }
        self.method.handling.since(self.start);
    }
}

impl<S> tower::Layer<S> for Calls {
    type Service = Counting<S>;

    fn layer(&self, inner: S) -> Counting<S> {
        Counting { inner, calls: self.clone() }
    }
}

/// A service whose calls are counted.
#[derive(Clone)]
pub struct Counting<S> {
    inner: S,
    calls: Calls,
}

type Answered<E> = Result<Response<Body>, E>;
type Counted<E> = Result<Response<CountedBody>, E>;

impl<S, B> tower::Service<Request<B>> for Counting<S>
where
    S: tower::Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<CountedBody>;
    type Error = S::Error;
    type Future = Map<Join<S::Future, Ready<Call>>, fn((Answered<S::Error>, Call)) -> Counted<S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let call = self.calls.begin(request.uri().path());
        // The call waits beside its answer, and is dropped with it.
        join(self.inner.call(request), ready(call)).map(counted)
    }
}

fn counted<E>((answered, mut call): (Answered<E>, Call)) -> Counted<E> {
    match answered {
        Ok(response) => {
            call.hear(response.headers());
            let is_over = response.body().is_end_stream();
            Ok(response.map(|body| CountedBody { body, call: (!is_over).then_some(call) }))
        }
        Err(error) => {
            call.code = UNKNOWN;
            Err(error)
        }
    }
}

/// An answer whose end is heard: its last part says how the call went.
pub struct CountedBody {
    body: Body,
    call: Option<Call>,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref()
                    && let Some(mut call) = self.call.take()
                {
                    call.hear(trailers);
                }
            }
            Poll::Ready(Some(Err(status))) => {
                if let Some(mut call) = self.call.take() {
                    call.code = status.code() as usize;
                }
            }
            Poll::Ready(None) => drop(self.call.take()),
            Poll::Pending => {}
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
    use super::*;

    const PATH: &str = "/grpc.health.v1.Health/Check";

    fn some_calls() -> (Metrics, Calls) {
        let metrics = Metrics::default();
        let descriptors = [tonic_health::pb::FILE_DESCRIPTOR_SET];
        let calls = Calls::new(&metrics, &descriptors, &["grpc.health.v1.Health"]).unwrap();
        (metrics, calls)
    }

    fn expect_line(metrics: &Metrics, line: &str) {
        let page = metrics.text().unwrap();
        assert!(page.lines().any(|said| said == line), "{line}\n{page}");
    }

    fn labels(code: &str) -> String {
        format!(
            "grpc_server_handled_total{{grpc_type=\"unary\",grpc_service=\"grpc.health.v1.Health\",grpc_method=\"Check\",grpc_code=\"{code}\"}}"
        )
    }

    #[test]
    fn a_call_that_nobody_waits_for_any_more_is_cancelled() {
        let (metrics, calls) = some_calls();
        drop(calls.begin(PATH));
        expect_line(&metrics, &format!("{} 1", labels("Canceled")));
        expect_line(&metrics, &format!("{} 0", labels("OK")));
    }

    #[test]
    fn the_status_is_in_the_headers_or_in_the_trailers() {
        let (metrics, calls) = some_calls();
        let status = |code: u8| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", code.to_string().parse().unwrap());
            headers
        };
        let mut response = Response::new(Body::empty());
        *response.headers_mut() = status(14);
        drop(counted::<Status>((Ok(response), calls.begin(PATH))).unwrap());
        expect_line(&metrics, &format!("{} 1", labels("Unavailable")));
        let mut call = calls.begin(PATH);
        call.hear(&HeaderMap::new());
        call.hear(&status(0));
        drop(call);
        expect_line(&metrics, &format!("{} 1", labels("OK")));
        let mut strange = calls.begin(PATH);
        strange.hear(&status(99));
        drop(strange);
        expect_line(&metrics, &format!("{} 1", labels("Unknown")));
    }

    #[test]
    fn methods_that_are_not_served_make_no_series() {
        let (metrics, calls) = some_calls();
        for path in ["/a/b", "/c/d", ""] {
            drop(calls.begin(path));
        }
        let line = "grpc_server_started_total{grpc_type=\"unary\",grpc_service=\"unknown\",grpc_method=\"unknown\"} 3";
        expect_line(&metrics, line);
    }
}
