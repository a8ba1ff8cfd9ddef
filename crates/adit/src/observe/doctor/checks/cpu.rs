//! The processor.

use super::super::{Check, Facts, Finding, Kind};

static NO_AES: Kind =
    Kind::note("cpu-no-aes", "the processor has no instructions for AES-GCM, so ChaCha20-Poly1305 is used");

/// The processor.
pub(in super::super) const CHECK: Check =
    Check { id: "cpu", title: "the processor has instructions for AES-GCM", kinds: &[&NO_AES], check };

fn check(facts: &Facts) -> Vec<Finding> {
    if facts.host.aes {
        return Vec::new();
    }
    vec![
        NO_AES
            .found("this processor has no instructions for AES-GCM: packets are sealed with ChaCha20-Poly1305, which costs more of it")
            .advise("of a virtual machine: give it the processor of its host (QEMU: `-cpu host`)"),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::{found, ids};
    use super::*;

    #[test]
    fn a_processor_without_is_noted() {
        assert_eq!(ids(&found(&CHECK, |facts| facts.host.aes = false)), ["cpu-no-aes"]);
    }
}
