//! What is shown with each runtime: that containers on two hosts are one network.

use std::time::Instant;

use crate::bed::Bed;
use crate::bed::fake::{FakeHost, Inside};

/// Two hosts that are nodes of one network.
pub(crate) struct Two<'b> {
    pub(crate) hosts: [FakeHost<'b>; 2],
}

impl<'b> Two<'b> {
    pub(crate) fn new(bed: &'b Bed) -> Self {
        Self { hosts: [FakeHost::new(bed.host(1)), FakeHost::new(bed.host(2))] }
    }

    /// Makes the network; the daemons end with what is answered.
    pub(crate) fn up(&self, arguments: &[&str]) -> [Inside<'_, 'b>; 2] {
        let [one, two] = &self.hosts;
        let token = one.init(arguments);
        let first = one.up();
        two.join(&token);
        [first, two.up()]
    }
}

/// What a container of the network does that others ask.
pub(crate) const SERVE: &[&str] = &["httpd", "-f", "-p", "80", "-h", "/www"];

/// Megabytes that the file has which is fetched from one container by another.
pub(crate) const MIB: u64 = 200;

/// The same where it is enough that it arrives.
pub(crate) const FEW_MIB: u64 = 40;

/// Says how fast something went, for whoever reads the output of a test.
pub(crate) fn tell_speed(what: &str, mib: u64, start: Instant) {
    let rate = (mib << 23) as f64 / start.elapsed().as_secs_f64() / 1e9;
    println!("{what}: {mib} MiB, {rate:.2} Gbit/s");
}
