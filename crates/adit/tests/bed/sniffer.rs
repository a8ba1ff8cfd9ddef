//! Watching a device, and sending bytes by it that no socket would send.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use linux::capture::{Capture, Captured, Instruction, Tally};
use linux::netns::NetNs;
use linux::poll::readable;
use wire::vnet::VnetHdr;

use super::PATIENCE;

/// A device's packets, one after the other. On a TUN device they begin with the IP header.
pub(crate) struct Sniffer {
    capture: Capture,
    buffer: Vec<u8>,
}

impl Sniffer {
    pub(crate) fn open(namespace: &NetNs, device: &str) -> Self {
        Self::open_filtered(namespace, device, &[])
    }

    /// Of the packets that a classic BPF program lets through as much as it answers.
    pub(crate) fn open_filtered(namespace: &NetNs, device: &str, program: &[Instruction]) -> Self {
        let capture = namespace.run(|| Capture::open_filtered(device, program)).unwrap().unwrap();
        Self { capture, buffer: vec![0; 1 << 17] }
    }

    /// The next packet for which `wanted` has something.
    pub(crate) fn find<T>(&mut self, what: &str, wanted: impl FnMut(&Captured, &[u8]) -> Option<T>) -> T {
        self.find_within(PATIENCE, wanted).unwrap_or_else(|| panic!("waited in vain for {what}"))
    }

    /// The same, for as long as `patience` lasts.
    pub(crate) fn find_within<T>(
        &mut self,
        patience: Duration,
        mut wanted: impl FnMut(&Captured, &[u8]) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + patience;
        loop {
            while let Some(captured) = self.capture.recv(&mut self.buffer).unwrap() {
                if let Some(found) = wanted(&captured, &self.buffer[..captured.length]) {
                    return Some(found);
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let _ = readable([self.capture.as_fd()], Some(left)).unwrap();
        }
    }

    /// Goes on in the background until it is [collected](Watch::collect), keeping what `wanted` makes of packets.
    pub(crate) fn watch<T: Send + 'static>(
        mut self,
        mut wanted: impl FnMut(&Captured, &[u8]) -> Option<T> + Send + 'static,
    ) -> Watch<T> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut found = Vec::new();
            loop {
                // Seen before looking: what came until then is not missed.
                let last = stopped.load(Ordering::Acquire);
                while let Some(captured) = self.capture.recv(&mut self.buffer).unwrap() {
                    found.extend(wanted(&captured, &self.buffer[..captured.length]));
                }
                if last {
                    return (found, self.capture.tally().unwrap());
                }
                let _ = readable([self.capture.as_fd()], Some(Duration::from_millis(20))).unwrap();
            }
        });
        Watch { stop, thread }
    }
}

/// A sniffer at work.
pub(crate) struct Watch<T> {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(Vec<T>, Tally)>,
}

impl<T> Watch<T> {
    /// Ends it; what it has found. Nothing passed unseen.
    pub(crate) fn collect(self) -> Vec<T> {
        let (found, tally) = self.collect_what_was_seen();
        assert_eq!(tally.lost, 0, "nothing was missed");
        found
    }

    /// Ends it; what it has found, and how much it saw and missed.
    pub(crate) fn collect_what_was_seen(self) -> (Vec<T>, Tally) {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap()
    }
}

/// Sends packets as they are by a device: on a TUN device the program behind it reads them.
pub(crate) struct Injector(File);

impl Injector {
    pub(crate) fn open(namespace: &NetNs, device: &str) -> Self {
        // A packet socket that is bound to a device also sends by it, each packet behind a virtio header.
        let capture = namespace.run(|| Capture::open(device)).unwrap().unwrap();
        Self(File::from(capture.as_fd().try_clone_to_owned().unwrap()))
    }

    /// # Errors
    /// The kernel does not send such a packet.
    pub(crate) fn send(&mut self, header: &VnetHdr, packet: &[u8]) -> std::io::Result<()> {
        let message = [&header.emit()[..], packet].concat();
        self.0.write_all(&message)
    }
}

/// Whether `bytes` contain a mark.
pub(crate) fn contains(bytes: &[u8], mark: &[u8]) -> bool {
    memchr::memmem::find(bytes, mark).is_some()
}
