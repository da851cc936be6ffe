//! `/metrics`, `/livez` and `/readyz` over HTTP: for those who do not speak gRPC.
//!
//! One answer a connection, few connections at a time, each with a deadline: who watches costs little, whatever he does.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

use super::Metrics;

const CONNECTIONS_MAX: usize = 16;
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// After a connection could not be accepted: the process may have too many open files.
const PAUSE: Duration = Duration::from_millis(100);
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// Serves until dropped. `is_ready`: whether the process's services are.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    is_ready: impl Fn() -> bool + Clone + Send + Sync + 'static,
) {
    let turns = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    // Nothing closes the semaphore.
    while let Ok(turn) = turns.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (metrics, is_ready) = (metrics.clone(), is_ready.clone());
                connections.spawn(async move {
                    // Who stays longer is cut off.
                    let _ended = timeout(CONNECTION_TIMEOUT, answer(stream, metrics, is_ready)).await;
                    drop(turn);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection for metrics cannot be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(stream: TcpStream, metrics: Metrics, is_ready: impl Fn() -> bool) {
    let respond = service_fn(|request: Request<Incoming>| {
        let (metrics, ready) = (metrics.clone(), is_ready());
        async move { Ok::<_, Infallible>(respond(request.method(), request.uri().path(), metrics, ready).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), respond)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection for metrics has ended early");
    }
}

async fn respond(method: &Method, path: &str, metrics: Metrics, ready: bool) -> Response<String> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return said(StatusCode::METHOD_NOT_ALLOWED, "GET only");
    }
    match path {
        "/metrics" => {
            // What is sampled may look at a disk.
            let page = tokio::task::spawn_blocking(move || metrics.text()).await;
            match page {
                Ok(Ok(page)) => typed(StatusCode::OK, OPEN_METRICS, page),
                Ok(Err(_)) | Err(_) => said(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be told"),
            }
        }
        "/livez" => said(StatusCode::OK, "alive"),
        "/readyz" if ready => said(StatusCode::OK, "ready"),
        "/readyz" => said(StatusCode::SERVICE_UNAVAILABLE, "not ready"),
        _ => said(StatusCode::NOT_FOUND, "/metrics, /livez or /readyz"),
    }
}

fn said(status: StatusCode, text: &str) -> Response<String> {
    typed(status, TEXT, format!("{text}\n"))
}

fn typed(status: StatusCode, content_type: &'static str, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}
