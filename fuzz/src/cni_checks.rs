//! What must hold for what a container runtime says to the CNI plugin. The tests of `adit` run the same functions over the committed corpora.

/// Input: `CNI_ARGS` up to the first zero byte, then the configuration on standard input. Each part is read, or refused in words; what is asked for
/// stays within its bounds.
pub fn cni(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == 0);
    let (arguments, text) = at.map_or((&[][..], data), |at| (&data[..at], &data[at + 1..]));
    if let Err(error) = adit::container::cni::read_only(arguments, text) {
        assert!(!error.details.is_empty());
        assert!(adit::container::cni::Code::ALL.contains(&error.code));
    }
}
