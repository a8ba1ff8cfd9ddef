//! The state once a second, for everybody who looks: made once for all of them, and not at all while nobody does.
//!
//! Server-sent events (HTML, section 9.2): lines in an answer that does not end. Whoever is too slow for every state gets the newest one.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::stream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until};

/// Who may look at once: fewer than there are connections, so that some are left for questions with an end.
pub(super) const LISTENERS: usize = 16;

/// Between two states.
pub(super) const RHYTHM: Duration = Duration::from_secs(1);

/// Who comes in between gets a state at once, but so many times in a rhythm at most.
const SOONEST: u32 = 5;

/// How long after a state no other one is made, in times of what it took to make it: with ten thousand peers that is some time, and
/// looking may take a twentieth of a processor.
const REST: u32 = 20;

/// What a browser waits, in milliseconds, until it asks anew after a daemon's end.
const RETRY: &str = "retry: 1000\n\n";

/// States, and those who wait for them.
pub(super) struct Feed {
    states: watch::Sender<Bytes>,
    came: Notify,
    seats: Arc<Semaphore>,
    rhythm: Duration,
}

/// One who listens; it goes with its answer.
struct Listener {
    states: watch::Receiver<Bytes>,
    greeted: bool,
    _seat: OwnedSemaphorePermit,
}

impl Feed {
    pub(super) fn new(rhythm: Duration) -> Self {
        let (states, _) = watch::channel(Bytes::new());
        Self { states, came: Notify::new(), seats: Arc::new(Semaphore::new(LISTENERS)), rhythm }
    }

    /// An answer without an end; none if too many look already.
    pub(super) fn listen(&self) -> Option<Body> {
        let seat = Arc::clone(&self.seats).try_acquire_owned().ok()?;
        let listener = Listener { states: self.states.subscribe(), greeted: false, _seat: seat };
        self.came.notify_one();
        let next = |mut listener: Listener| async move {
            if !listener.greeted {
                listener.greeted = true;
                return Some((Ok::<_, Infallible>(Bytes::from_static(RETRY.as_bytes())), listener));
            }
            listener.states.changed().await.ok()?;
            let state = listener.states.borrow_and_update().clone();
            Some((Ok(state), listener))
        };
        Some(Body::from_stream(stream::unfold(listener, next)))
    }

    /// Makes states with `make` while somebody listens, without end.
    pub(super) async fn run<F: Future<Output = Option<String>>>(&self, make: impl Fn() -> F) {
        loop {
            if self.states.receiver_count() == 0 {
                self.came.notified().await;
                continue;
            }
            let begun = Instant::now();
            if let Some(state) = make().await {
                self.states.send_replace(Bytes::from(format!("data: {state}\n\n")));
            }
            let rest = begun.elapsed().saturating_mul(REST);
            let next = begun + self.rhythm.max(rest);
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.came.notified() => sleep_until(begun + (self.rhythm / SOONEST).max(rest)).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    use axum::body::BodyDataStream;
    use futures_util::StreamExt;
    use tokio::time::{sleep, timeout};

    const QUICK: Duration = Duration::from_millis(40);

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test);
    }

    async fn next(stream: &mut BodyDataStream) -> String {
        let bytes = timeout(Duration::from_secs(20), stream.next()).await.expect("in time").unwrap().unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn states_are_made_while_somebody_looks_and_once_for_all() {
        run(async {
            let (feed, made) = (Feed::new(QUICK), Cell::new(0));
            let make = || {
                made.set(made.get() + 1);
                let text = made.get().to_string();
                async move { Some(text) }
            };
            let _ = timeout(5 * QUICK, feed.run(make)).await;
            assert_eq!(made.get(), 0, "nobody looks");
            let story = async {
                let mut one = feed.listen().unwrap().into_data_stream();
                assert_eq!(next(&mut one).await, RETRY);
                assert_eq!(next(&mut one).await, "data: 1\n\n");
                let mut two = feed.listen().unwrap().into_data_stream();
                assert_eq!(next(&mut two).await, RETRY);
                assert_eq!(next(&mut two).await, "data: 2\n\n");
                assert_eq!(next(&mut one).await, "data: 2\n\n");
                for n in 3..6 {
                    assert_eq!(next(&mut one).await, format!("data: {n}\n\n"));
                }
                // Who was slow gets what is so now, not what was.
                assert_eq!(next(&mut two).await, "data: 5\n\n");
            };
            tokio::select! {
                () = feed.run(make) => {}
                () = story => {}
            }
            let before = made.get();
            let _ = timeout(5 * QUICK, feed.run(make)).await;
            assert_eq!(made.get(), before, "nobody looks any more");
        });
    }

    #[test]
    fn what_takes_long_to_make_is_made_less_often() {
        run(async {
            let (feed, made) = (Feed::new(QUICK), Cell::new(0));
            let make = || async {
                made.set(made.get() + 1);
                sleep(QUICK / 2).await;
                Some(String::new())
            };
            let _listener = feed.listen().unwrap();
            // Ten states would fit by the clock, and two by what they cost.
            let _ = timeout(10 * QUICK, feed.run(make)).await;
            assert!((1..=2).contains(&made.get()), "{}", made.get());
        });
    }

    #[test]
    fn so_many_may_look_and_who_goes_makes_room() {
        let feed = Feed::new(RHYTHM);
        let mut all: Vec<_> = (0..LISTENERS).map(|_| feed.listen().unwrap()).collect();
        assert!(feed.listen().is_none());
        all.pop();
        assert!(feed.listen().is_some());
    }
}
