//! From a request to its answer.

use std::sync::Arc;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::events::{Feed, RHYTHM};
use super::{guard, health, page, probes};
use crate::Failure;
use crate::observe::metrics;
use crate::request::Handle;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// What is answered from.
pub(super) struct Answers {
    handle: Handle,
    feed: Feed,
    policy: HeaderValue,
    tracing: Arc<Semaphore>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Page,
    Events,
    Status,
    Metrics,
    Health,
    Ready,
    Trace,
}

impl Route {
    /// What lies at a path, and by which methods it is asked for.
    fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/" => Self::Page,
            "/events" => Self::Events,
            "/status.json" => Self::Status,
            "/metrics" => Self::Metrics,
            "/healthz" => Self::Health,
            "/readyz" => Self::Ready,
            "/trace" => Self::Trace,
            _ => return None,
        })
    }

    fn methods(self) -> &'static [Method] {
        match self {
            Self::Events => &[Method::GET],
            Self::Trace => &[Method::POST],
            _ => &[Method::GET, Method::HEAD],
        }
    }
}

impl Answers {
    pub(super) fn new(handle: Handle) -> Self {
        Self { handle, feed: Feed::new(RHYTHM), policy: page::policy(), tracing: Arc::new(Semaphore::new(1)) }
    }

    /// Feeds those who look, without end.
    pub(super) async fn refresh(&self) {
        self.feed.run(|| self.look(state)).await;
    }

    /// The answer to a request.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let mut response = match guard::check(&parts) {
            Err(refusal) => say(refusal.status(), refusal.sentence()),
            Ok(()) => match Route::of(parts.uri.path()) {
                None => say(StatusCode::NOT_FOUND, "there is no such page; / is the one for people"),
                Some(route) if !route.methods().contains(&parts.method) => not_allowed(route),
                Some(route) => self.serve(route, &parts, body).await,
            },
        };
        let headers = response.headers_mut();
        headers.extend(page::HEADERS);
        headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(page::NOTHING);
        response
    }

    async fn serve(&self, route: Route, parts: &Parts, body: Incoming) -> Response<Body> {
        match route {
            Route::Page => {
                let mut response = answer(StatusCode::OK, "text/html; charset=utf-8", page::PAGE);
                response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, self.policy.clone());
                response
            }
            Route::Events => match self.feed.listen() {
                Some(body) => answer(StatusCode::OK, "text/event-stream", body),
                None => say(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "too many look at once: close another page, or try again later",
                ),
            },
            Route::Status => match self.look(|handle| serde_json::to_string(&handle.facts().status()).ok()).await {
                Some(status) => answer(StatusCode::OK, JSON, status),
                None => defect(),
            },
            Route::Metrics => {
                let accept =
                    parts.headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).map(str::to_owned);
                let rendered = self.look(move |handle| Some(metrics::render(handle.facts(), accept.as_deref()))).await;
                let rendered = rendered.and_then(|(kind, text)| Some((HeaderValue::from_str(&kind).ok()?, text)));
                rendered.map_or_else(defect, |(kind, text)| typed(StatusCode::OK, kind, text))
            }
            Route::Health => match health::illness(self.handle.facts()) {
                None => say(StatusCode::OK, "ok"),
                Some(illness) => say(StatusCode::SERVICE_UNAVAILABLE, &illness),
            },
            Route::Ready => match self.look(|handle| Some(health::hindrances(handle.facts()))).await {
                Some(reasons) if reasons.is_empty() => say(StatusCode::OK, "ready"),
                Some(reasons) => say(StatusCode::SERVICE_UNAVAILABLE, &reasons.join("\n")),
                None => defect(),
            },
            Route::Trace => self.trace(body).await,
        }
    }

    async fn trace(&self, body: Incoming) -> Response<Body> {
        let wish = match probes::read(body).await {
            Ok(wish) => wish,
            Err(failure) => return answer(StatusCode::BAD_REQUEST, JSON, probes::refusal(&failure)),
        };
        let Ok(turn) = Arc::clone(&self.tracing).try_acquire_owned() else {
            let busy = Failure::failed("another trace is under way; try again when it is done");
            return answer(StatusCode::CONFLICT, JSON, probes::refusal(&busy));
        };
        let run = move |handle: &Handle| {
            // Also where nobody waits for it any more, the next one begins after it.
            let _turn = turn;
            Some(probes::run(handle, wish))
        };
        match self.look(run).await {
            Some(Ok(drawn)) => answer(StatusCode::OK, JSON, drawn),
            Some(Err(failure)) => answer(StatusCode::SERVICE_UNAVAILABLE, JSON, probes::refusal(&failure)),
            None => defect(),
        }
    }

    /// Looks at the host and its files, in a thread of its own.
    async fn look<T: Send + 'static>(&self, at: impl FnOnce(&Handle) -> Option<T> + Send + 'static) -> Option<T> {
        let handle = self.handle.clone();
        spawn_blocking(move || at(&handle)).await.ok().flatten()
    }
}

/// What the page shows.
fn state(handle: &Handle) -> Option<String> {
    let facts = handle.facts();
    serde_json::to_string(&json!({
        "at_ms": facts.uptime().as_millis() as u64,
        "hindrances": health::hindrances(facts),
        "status": facts.status(),
    }))
    .ok()
}

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Response<Body> {
    typed(status, HeaderValue::from_static(kind), body)
}

fn typed(status: StatusCode, kind: HeaderValue, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// A sentence as a line of text.
fn say(status: StatusCode, sentence: &str) -> Response<Body> {
    answer(status, TEXT, format!("{sentence}\n"))
}

fn defect() -> Response<Body> {
    say(StatusCode::INTERNAL_SERVER_ERROR, "a defect in adit; please report what its log says")
}

fn not_allowed(route: Route) -> Response<Body> {
    let allowed = route.methods().iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
    let mut response = say(StatusCode::METHOD_NOT_ALLOWED, &format!("this is asked for by {allowed}"));
    if let Ok(value) = HeaderValue::from_str(&allowed) {
        response.headers_mut().insert(header::ALLOW, value);
    }
    response
}
