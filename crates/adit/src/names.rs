//! Host names of peers, resolved beside everything else: the resolver of the system blocks, for as long as it likes.
//!
//! Each question is a thread of its own, few at a time, one per peer; an answer wakes control, which takes it when it has time. Who
//! asks again and again waits longer each time.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use linux::privilege;
use tunnel::PeerId;

use crate::config::Endpoint;

/// Questions under way at once; the others wait for them.
const AT_ONCE: usize = 4;

/// Between two questions for one peer at last.
const LATEST: Duration = Duration::from_secs(120);

/// How an answer wakes whoever waits for it.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// What a name came to.
#[derive(Debug)]
pub struct Answer {
    /// Whose name it is.
    pub id: PeerId,
    /// The question.
    pub endpoint: Endpoint,
    /// What the resolver said.
    pub addresses: io::Result<Vec<SocketAddr>>,
    /// Whether it is not the first answer, since the peer was well.
    pub again: bool,
}

/// The questions.
pub struct Names {
    asked: HashMap<PeerId, Asked>,
    waiting: VecDeque<(PeerId, Endpoint)>,
    running: usize,
    sender: Sender<Answer>,
    answers: Receiver<Answer>,
    wake: Wake,
    resolve: Resolve,
}

/// How a name is resolved.
type Resolve = Arc<dyn Fn(&Endpoint) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

#[derive(Clone, Copy)]
struct Asked {
    pending: bool,
    again: bool,
    pause: Duration,
    not_before: Instant,
}

impl Names {
    /// No question yet.
    pub fn new(wake: Wake) -> Self {
        Self::with(wake, Arc::new(Endpoint::resolve))
    }

    fn with(wake: Wake, resolve: Resolve) -> Self {
        let (sender, answers) = channel();
        Self { asked: HashMap::new(), waiting: VecDeque::new(), running: 0, sender, answers, wake, resolve }
    }

    /// Asks where a peer is, unless that is being asked or was a moment ago: `soonest` at first, twice as long each time.
    pub fn ask(&mut self, id: PeerId, endpoint: &Endpoint, soonest: Duration, now: Instant) {
        if let Some(asked) = self.asked.get(&id)
            && (asked.pending || now < asked.not_before)
        {
            return;
        }
        let before = self.asked.get(&id);
        let pause = before.map_or(soonest, |asked| (asked.pause * 2).clamp(soonest, LATEST));
        self.asked.insert(id, Asked { pending: true, again: before.is_some(), pause, not_before: now + pause });
        self.waiting.push_back((id, endpoint.clone()));
        self.start();
    }

    /// The peer is well: the next question is asked at once.
    pub fn settle(&mut self, id: PeerId) {
        if self.asked.get(&id).is_some_and(|asked| !asked.pending) {
            self.asked.remove(&id);
        }
    }

    /// The peer is gone, or its name is another one: no answer is wanted any more.
    pub fn forget(&mut self, id: PeerId) {
        self.asked.remove(&id);
        self.waiting.retain(|(other, _)| *other != id);
    }

    /// Whether any answer is still to come.
    pub fn is_asking(&self) -> bool {
        self.running > 0
    }

    /// The next answer to a question that was not forgotten.
    pub fn next_answer(&mut self) -> Option<Answer> {
        while let Ok(answer) = self.answers.try_recv() {
            if let Some(answer) = self.take(answer) {
                return Some(answer);
            }
        }
        None
    }

    /// The same, waiting for it until `deadline`.
    pub fn wait_for_answer(&mut self, deadline: Instant) -> Option<Answer> {
        while self.is_asking() {
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = self.answers.recv_timeout(left).ok()?;
            if let Some(answer) = self.take(answer) {
                return Some(answer);
            }
        }
        None
    }

    fn take(&mut self, answer: Answer) -> Option<Answer> {
        self.running = self.running.saturating_sub(1);
        let asked = self.asked.get_mut(&answer.id);
        let again = asked.map(|asked| {
            asked.pending = false;
            asked.again
        });
        self.start();
        again.map(|again| Answer { again, ..answer })
    }

    fn start(&mut self) {
        while self.running < AT_ONCE
            && let Some((id, endpoint)) = self.waiting.pop_front()
        {
            let (sender, wake, resolve) = (self.sender.clone(), Arc::clone(&self.wake), Arc::clone(&self.resolve));
            let ask = move || {
                // At the start there may be more rights than a resolver needs.
                let _ = privilege::drop_to_net_admin();
                let addresses = resolve(&endpoint);
                // Nobody waits for it if the daemon has ended.
                let _ = sender.send(Answer { id, endpoint, addresses, again: false });
                wake();
            };
            match thread::Builder::new().name("resolver".into()).spawn(ask) {
                Ok(_) => self.running += 1,
                Err(e) => {
                    tracing::warn!("cannot start a thread to resolve a name: {e}");
                    if let Some(asked) = self.asked.get_mut(&id) {
                        asked.pending = false;
                    }
                }
            }
        }
    }
}

/// The address to use of those that a name came to: the first one that can be sent to; where the peer does not answer at the `former`
/// one, the next after it.
pub fn choose(
    addresses: &[SocketAddr],
    usable: impl Fn(&SocketAddr) -> bool,
    former: Option<SocketAddr>,
) -> Option<SocketAddr> {
    let usable: Vec<_> = addresses.iter().filter(|address| usable(address)).collect();
    let after = usable.iter().position(|address| Some(**address) == former).map_or(0, |place| place + 1);
    usable.get(after).or(usable.first()).map(|address| **address)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn endpoint(number: usize) -> Endpoint {
        format!("host{number}.example:7777").parse().unwrap()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    /// Names whose resolver answers once per permission.
    fn slow() -> (Names, mpsc::Sender<()>, mpsc::Receiver<String>) {
        let ((permit, permitted), (says, said)) = (mpsc::channel(), mpsc::channel());
        let (permitted, says) = (Mutex::new(permitted), Mutex::new(says));
        let resolve = move |endpoint: &Endpoint| {
            says.lock().unwrap().send(endpoint.to_string()).unwrap();
            permitted.lock().unwrap().recv().map_err(io::Error::other)?;
            Ok(vec!["192.0.2.1:7777".parse().unwrap()])
        };
        (Names::with(Arc::new(|| ()), Arc::new(resolve)), permit, said)
    }

    #[test]
    fn few_are_asked_at_once_and_each_peer_once() {
        let (mut names, permit, said) = slow();
        let now = Instant::now();
        for number in [0, 1, 2, 3, 4, 5, 0, 1] {
            names.ask(PeerId(number), &endpoint(number as usize), SECOND, now);
        }
        let mut asked: Vec<_> = (0..AT_ONCE).map(|_| said.recv().unwrap()).collect();
        asked.sort();
        assert_eq!(asked, (0..AT_ONCE).map(|n| endpoint(n).to_string()).collect::<Vec<_>>());
        assert!(said.try_recv().is_err(), "the others wait");
        names.forget(PeerId(5));
        (0..6).for_each(|_| permit.send(()).unwrap());
        let mut answered = Vec::new();
        while let Some(answer) = names.wait_for_answer(soon()) {
            assert_eq!(answer.addresses.unwrap().len(), 1);
            answered.push(answer.id.0);
        }
        answered.sort_unstable();
        assert_eq!(answered, [0, 1, 2, 3, 4], "and what was forgotten is not asked");
        assert_eq!(names.waiting.len() + names.running, 0);
    }

    #[test]
    fn who_asks_again_waits_longer() {
        let (mut names, permit, said) = slow();
        let (id, start) = (PeerId(7), Instant::now());
        let mut now = start;
        for pause in [1, 2, 4, 8, 16, 32, 64, 120, 120] {
            names.ask(id, &endpoint(7), SECOND, now);
            said.recv().unwrap();
            permit.send(()).unwrap();
            assert_eq!(names.wait_for_answer(soon()).unwrap().again, pause > 1);
            let pause = Duration::from_secs(pause);
            names.ask(id, &endpoint(7), SECOND, now + pause - Duration::from_millis(1));
            assert!(!names.is_asking(), "{pause:?}");
            now += pause;
        }
        names.settle(id);
        names.ask(id, &endpoint(7), SECOND, now);
        assert!(names.is_asking());
        drop(permit);
        assert!(names.wait_for_answer(soon()).unwrap().addresses.is_err());
    }

    #[test]
    fn the_next_address_is_tried_where_one_does_not_answer() {
        let [a, b, c] = ["192.0.2.1:1", "[2001:db8::1]:1", "192.0.2.3:1"].map(|text| text.parse().unwrap());
        let all = [a, b, c];
        let four = |address: &SocketAddr| address.is_ipv4();
        assert_eq!(choose(&all, |_| true, None), Some(a));
        assert_eq!(choose(&all, |_| true, Some(a)), Some(b));
        assert_eq!(choose(&all, |_| true, Some(c)), Some(a));
        assert_eq!(choose(&all, four, Some(a)), Some(c));
        assert_eq!(choose(&all, four, Some(b)), Some(a));
        assert_eq!(choose(&all, |_| false, Some(a)), None);
    }
}
