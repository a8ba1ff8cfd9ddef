//! One connection, and what it may cost: sizes, times, how many there are.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;
use tokio::time::{Sleep, sleep};

use super::answer::Answers;
use super::door::{Door, Visitor};

/// Connections at once; who comes then waits until one ends. A browser has up to six. Each costs up to two buffers of [`BUFFER`], and what the
/// kernel holds.
const CONNECTIONS: usize = 32;

/// The longest head of a request, and how much of an answer is held at a time, in bytes.
const BUFFER: usize = 16 * 1024;

/// How long a connection may take to say what it wants, and how long it may want nothing.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);

/// How long a connection may take nothing of its answer.
const TAKE_PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait after the kernel refused to hand out a connection for want of memory or file descriptors.
const SHORTAGE: Duration = Duration::from_millis(100);

/// Lets in whoever comes, without end.
pub(super) async fn admit(door: Door, answers: Arc<Answers>) {
    // The name of a unix socket goes when this is dropped.
    let (waiting, _file) = match door.wait() {
        Ok(waiting) => waiting,
        Err(e) => return tracing::warn!("the page is not served: {e}"),
    };
    let seats = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
        match waiting.accept().await {
            Ok(visitor) => {
                let answers = Arc::clone(&answers);
                tokio::spawn(async move {
                    let _seat = seat;
                    converse(visitor, &answers).await;
                });
            }
            Err(e) => {
                tracing::debug!("cannot take a connection to the page: {e}");
                sleep(SHORTAGE).await;
            }
        }
    }
}

async fn converse(visitor: Visitor, answers: &Arc<Answers>) {
    let service = service_fn(|request: Request<Incoming>| {
        let answers = Arc::clone(answers);
        async move { Ok::<_, std::convert::Infallible>(answers.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(Patient::new(visitor)), service);
    if let Err(e) = connection.await {
        tracing::debug!("a connection to the page ended early: {e}");
    }
}

/// A stream that gives up when the other end takes nothing for [`TAKE_PATIENCE`].
struct Patient<S> {
    stream: S,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    fn new(stream: S) -> Self {
        Self { stream, waiting: None }
    }

    fn watch<T>(&mut self, context: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.waiting = None;
            return outcome;
        }
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(TAKE_PATIENCE)));
        waiting.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.watch(context, outcome)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
