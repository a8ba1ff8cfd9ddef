//! What the processor can do.

/// Whether it has instructions for AES and for the multiplication of GCM: without, AES-GCM is slow, or leaks keys by its timing.
#[inline]
#[must_use]
pub fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    let answer = std::is_x86_feature_detected!("aes") && std::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    let answer = std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let answer = false;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_the_kernels() {
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let line = text.lines().find(|line| line.starts_with("flags") || line.starts_with("Features"));
        let flags: Vec<_> = line.unwrap_or_default().split_whitespace().collect();
        let has = |names: [&str; 2]| names.iter().all(|name| flags.contains(name));
        assert_eq!(has_aes(), has(["aes", "pclmulqdq"]) || has(["aes", "pmull"]));
    }
}
