//! How other threads reach control: orders that say nothing but what to look at.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use linux::poll::Waker;

use crate::Result;
use crate::worker::Event;

/// What control is told. Each is a hint to look at something, so that the same one twice is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Order {
    /// End, and remove everything.
    Stop,
    /// The underlay refused a datagram as too long.
    PathTooNarrow,
    /// The device took no super-packets of a kind that it had agreed to.
    SuperPacketsRefused,
    /// The device is gone.
    DeviceGone,
    /// A socket failed for good.
    SocketFailed,
    /// A worker ended by a defect.
    WorkerFailed,
    /// Something lies in the mailbox.
    Mail,
    /// The machine slept, or was restored from a copy of itself.
    Gap,
    /// Somebody asks for something: see [`crate::request`].
    Request,
    /// A name was resolved.
    Answer,
}

/// Where orders arrive, from any thread; sending never blocks and never fails.
#[derive(Debug)]
pub struct Inbox {
    orders: AtomicU32,
    waker: Waker,
}

impl Inbox {
    /// An empty inbox.
    pub fn new() -> Result<Self> {
        Ok(Self { orders: AtomicU32::new(0), waker: Waker::new()? })
    }

    /// Puts an order in.
    pub fn send(&self, order: Order) {
        // Who put the same one in before has woken us for it.
        if self.orders.fetch_or(1 << order as u8, Ordering::AcqRel) & (1 << order as u8) == 0 {
            self.waker.wake();
        }
    }

    /// Takes one order back, if it is there.
    pub(super) fn forget(&self, order: Order) {
        self.orders.fetch_and(!(1 << order as u8), Ordering::AcqRel);
    }

    pub(super) fn take(&self) -> Orders {
        self.waker.reset();
        Orders(self.orders.swap(0, Ordering::Acquire))
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }
}

impl From<Event> for Order {
    fn from(event: Event) -> Self {
        match event {
            Event::PathTooNarrow(_) => Self::PathTooNarrow,
            Event::SuperPacketsRefused => Self::SuperPacketsRefused,
            Event::DeviceGone => Self::DeviceGone,
            Event::SocketFailed => Self::SocketFailed,
            Event::WorkerFailed => Self::WorkerFailed,
            Event::Mail => Self::Mail,
            Event::Gap => Self::Gap,
        }
    }
}

/// What was in it.
#[derive(Clone, Copy)]
pub(super) struct Orders(u32);

impl Orders {
    /// Whether this was.
    pub(super) fn has(self, order: Order) -> bool {
        self.0 & (1 << order as u8) != 0
    }
}
